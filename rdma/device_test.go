//go:build cgo

package rdma

import (
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pkg/errors"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// anyDevice opens a device that has an active port, or skips the test: these tests run
// on whatever device there is. Where MC_REQUIRE contains rdma there must be one.
func anyDevice(t *testing.T) *Context {
	t.Helper()
	skip := t.Skipf
	if strings.Contains(","+os.Getenv("MC_REQUIRE")+",", ",rdma,") {
		skip = t.Fatalf
	}
	names, err := DeviceNames()
	if err != nil {
		skip("no RDMA device: %v", err)
	}
	var reasons []string
	for _, name := range names {
		c, err := OpenDevice(name)
		if err != nil {
			reasons = append(reasons, err.Error())
			continue
		}
		port, err := c.Port(1)
		if err == nil {
			err = port.Ready()
		}
		if err == nil {
			t.Cleanup(func() { require.NoError(t, c.Close()) })
			return c
		}
		reasons = append(reasons, err.Error())
		require.NoError(t, c.Close())
	}
	skip("no RDMA device that works among %q: %s", names, strings.Join(reasons, "; "))
	return nil
}

// mapped is memory outside of Go's heap, untouched.
func mapped(t *testing.T, length int, protection int) uint64 {
	t.Helper()
	memory, err := unix.MmapPtr(-1, 0, nil, uintptr(length), protection, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, unix.MunmapPtr(memory, uintptr(length))) })
	return uint64(uintptr(memory))
}

const (
	readWrite = unix.PROT_READ | unix.PROT_WRITE
	allAccess = AccessLocalWrite | AccessRemoteWrite | AccessRemoteRead
)

func newPD(t *testing.T, c *Context) *PD {
	t.Helper()
	pd, err := c.NewPD()
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, pd.Close()) })
	return pd
}

func newCQ(t *testing.T, c *Context) *CQ {
	t.Helper()
	cq, err := c.NewCQ(100)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, cq.Close()) })
	require.GreaterOrEqual(t, cq.Depth(), 100)
	return cq
}

func TestDeviceOnThisHost(t *testing.T) {
	c := anyDevice(t)
	a := c.Attributes()
	t.Logf("%s: %+v", c.Name(), a)
	for _, limit := range []int{a.Ports, a.MaxQP, a.MaxCQ, a.MaxCQE, a.MaxMR, a.MaxPD, a.MaxQPWR, a.MaxSGE, a.MaxSGERead, a.MaxQPReads} {
		require.Positive(t, limit)
	}
	require.Positive(t, a.MaxMRSize)

	port, err := c.Port(1)
	require.NoError(t, err)
	t.Logf("%+v", port)
	require.Positive(t, port.ActiveMTU)
	require.Positive(t, port.MaxMessage)
	for _, n := range []int{0, a.Ports + 1} {
		_, err := c.Port(n)
		require.ErrorIs(t, err, ErrUnknownDevice)
	}

	gids, err := c.GIDs(1)
	require.NoError(t, err)
	choice, err := ChooseGID(gids, -1)
	require.NoError(t, err)
	t.Log(strings.Join(choice.Reasons, "\n"))
	require.NotEqual(t, GIDUnknown, choice.GID.Type)
}

func TestClosingOrderOfADevice(t *testing.T) {
	c := anyDevice(t)
	pd, err := c.NewPD()
	require.NoError(t, err)
	cq, err := c.NewCQ(16)
	require.NoError(t, err)
	qp, err := pd.NewQP(cq, QPConfig{SendDepth: 8, MaxSGE: 1})
	require.NoError(t, err)
	mr, err := pd.Register(mapped(t, 4096, readWrite), 4096, allAccess)
	require.NoError(t, err)

	err = pd.Close()
	require.ErrorIs(t, err, ErrInUse)
	require.ErrorContains(t, err, "QP ")
	require.ErrorContains(t, err, "MR [")
	require.ErrorIs(t, cq.Close(), ErrInUse)
	require.ErrorIs(t, c.Close(), ErrInUse)
	for _, close := range []func() error{qp.Close, mr.Close, cq.Close, pd.Close} {
		require.NoError(t, close())
		require.NoError(t, close())
	}
	require.ErrorIs(t, qp.ToError(), ErrClosed)
	_, err = pd.Register(4096, 4096, 0)
	require.ErrorIs(t, err, ErrClosed)
	_, err = pd.NewQP(cq, QPConfig{SendDepth: 8, MaxSGE: 1})
	require.ErrorIs(t, err, ErrClosed)
}

func TestLimitsAreExplained(t *testing.T) {
	c := anyDevice(t)
	_, err := c.NewCQ(c.Attributes().MaxCQE + 1)
	require.ErrorIs(t, err, ErrFull)
	pd, cq := newPD(t, c), newCQ(t, c)
	_, err = pd.NewQP(cq, QPConfig{SendDepth: c.Attributes().MaxQPWR + 1, MaxSGE: 1})
	require.Error(t, err)
	t.Log(err)
	require.True(t, errors.Is(err, ErrFull) || errors.Is(err, ErrMemlock), "%v", err)
}

func TestRegister(t *testing.T) {
	pd := newPD(t, anyDevice(t))
	addr := mapped(t, 1<<20, readWrite)
	for _, access := range []Access{0, AccessRemoteRead, allAccess, allAccess | AccessRelaxedOrdering} {
		mr, err := pd.Register(addr+1, 1<<20-2, access)
		require.NoError(t, err)
		require.Equal(t, AddrRange{addr + 1, 1<<20 - 2}, mr.Range())
		require.NoError(t, mr.Close())
	}
	_, err := pd.Register(addr, 0, allAccess)
	require.ErrorIs(t, err, ErrMemory)
	_, err = pd.Register(addr, ^uint64(0), allAccess)
	require.ErrorIs(t, err, ErrMemory)
}

func TestRegisterExplains(t *testing.T) {
	pd := newPD(t, anyDevice(t))
	readOnly := mapped(t, 1<<16, unix.PROT_READ)
	gone := mapped(t, 1<<16, unix.PROT_NONE)
	for name, test := range map[string]struct {
		addr uint64
		want string
	}{
		"read-only": {readOnly, "mapped read-only"},
		"no access": {gone, "no access"},
		"unmapped":  {4096, "not mapped"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := pd.Register(test.addr, 1<<16, allAccess)
			require.ErrorIs(t, err, ErrMemory)
			require.ErrorContains(t, err, test.want)
			t.Log(err)
		})
	}
}

func TestRegisterDMABufOfAnotherFile(t *testing.T) {
	pd := newPD(t, anyDevice(t))
	file, err := os.Open(os.DevNull)
	require.NoError(t, err)
	defer file.Close()
	_, err = pd.RegisterDMABuf(int(file.Fd()), 0, 4096, 1<<20, allAccess)
	require.ErrorIs(t, err, ErrMemory)
	t.Log(err)
}

func TestRegisterAll(t *testing.T) {
	pd := newPD(t, anyDevice(t))
	const size = 8 << 20
	addr := mapped(t, 4*size, readWrite)
	ranges := []AddrRange{{addr, size}, {addr + size, 100}, {addr + 2*size + 5, 2*size - 5}}
	access := func(i int) Access { return []Access{allAccess, AccessRemoteRead, allAccess}[i] }
	for _, workers := range []int{0, 1, 4} {
		regions, err := pd.RegisterAll(ranges, access, RegisterLimit{MaxSize: size, Workers: workers})
		require.NoError(t, err)
		require.Len(t, regions, 3)
		for i, mrs := range regions {
			next := ranges[i].Addr
			for _, mr := range mrs {
				require.Equal(t, next, mr.Range().Addr)
				next += mr.Range().Length
				require.NoError(t, mr.Close())
			}
			require.Equal(t, ranges[i].Addr+ranges[i].Length, next)
		}
		require.Len(t, regions[0], 1)
		require.Greater(t, len(regions[2]), 1)

		before := len(OpenObjects())
		_, err = pd.RegisterAll(append(ranges[:2:2], AddrRange{4096, 4096}), access, RegisterLimit{Workers: workers})
		require.ErrorIs(t, err, ErrMemory)
		require.ErrorContains(t, err, "range 2 of 3")
		require.Len(t, OpenObjects(), before, "all or none")
	}
	_, err := pd.RegisterAll(append(ranges[:2:2], AddrRange{}), access, RegisterLimit{})
	require.ErrorContains(t, err, "range 2 of 3")
	regions, err := pd.RegisterAll(nil, nil, RegisterLimit{})
	require.NoError(t, err)
	require.Empty(t, regions)
}

// connect brings two QPs of port 1 to RTS, as peers of each other.
func connect(t *testing.T, c *Context, qps ...*QP) {
	t.Helper()
	port, err := c.Port(1)
	require.NoError(t, err)
	gids, err := c.GIDs(1)
	require.NoError(t, err)
	choice, err := ChooseGID(gids, -1)
	require.NoError(t, err)
	for i, qp := range qps {
		require.NoError(t, qp.ToInit(InitConfig{Port: 1, Access: allAccess}))
		requireState(t, qp, QPInit)
		require.NoError(t, qp.ToRTR(RTRConfig{
			PathMTU: port.ActiveMTU, RemoteQP: qps[1-i].Number(), MaxReadsIn: 4, MinRNRTimer: 12, Port: 1,
			Global: true, GID: choice.GID.Address.As16(), GIDIndex: choice.GID.Index, HopLimit: 16, LID: port.LID,
		}))
		requireState(t, qp, QPReadyToReceive)
		require.NoError(t, qp.ToRTS(RTSConfig{Timeout: 14, RetryCount: 7, RNRRetry: 7, MaxReads: 4}))
		requireState(t, qp, QPReadyToSend)
	}
}

func requireState(t *testing.T, qp *QP, want QPState) {
	t.Helper()
	state, err := qp.State()
	require.NoError(t, err)
	require.Equal(t, want, state)
}

func TestQPStates(t *testing.T) {
	c := anyDevice(t)
	pd, cq := newPD(t, c), newCQ(t, c)
	var qps []*QP
	for range 2 {
		qp, err := pd.NewQP(cq, QPConfig{SendDepth: 16, MaxSGE: 2, MaxInline: 32})
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, qp.Close()) })
		require.GreaterOrEqual(t, qp.SendDepth(), 16)
		require.GreaterOrEqual(t, qp.MaxSGE(), 2)
		require.GreaterOrEqual(t, qp.MaxInline(), 32)
		requireState(t, qp, QPReset)
		qps = append(qps, qp)
	}
	require.NotEqual(t, qps[0].Number(), qps[1].Number())
	require.ErrorContains(t, qps[0].ToRTR(RTRConfig{PathMTU: 1500}), "path MTU")
	err := qps[0].ToRTS(RTSConfig{})
	require.ErrorIs(t, err, syscall.EINVAL, "out of order")
	require.ErrorContains(t, err, "to RTS")
	connect(t, c, qps...)
	require.NoError(t, qps[0].ToError())
	requireState(t, qps[0], QPError)
}

func TestEventWaitEnds(t *testing.T) {
	c := anyDevice(t)
	for ends, want := range map[string]error{"stopped": ErrStopped, "closed": ErrClosed} {
		t.Run(ends, func(t *testing.T) {
			other, err := OpenDevice(c.Name())
			require.NoError(t, err)
			stop := make(chan struct{})
			var group sync.WaitGroup
			for range 3 {
				group.Go(func() {
					for {
						_, err := other.NextEvent(stop)
						if err == nil {
							continue // the device may have told something
						}
						if !errors.Is(err, want) {
							t.Error(err)
						}
						return
					}
				})
			}
			awaitUsers(t, &other.life, 3)
			if ends == "stopped" {
				close(stop)
				awaitUsers(t, &other.life, 0)
			}
			var closers sync.WaitGroup
			for range 2 {
				closers.Go(func() {
					if err := other.Close(); err != nil {
						t.Error(err)
					}
				})
			}
			closers.Wait()
			group.Wait()
			_, err = other.NextEvent(nil)
			require.ErrorIs(t, err, ErrClosed)
			_, err = other.Port(1)
			require.ErrorIs(t, err, ErrClosed)
			require.NoError(t, other.Close())
		})
	}
}

// awaitUsers waits until so many calls are in progress.
func awaitUsers(t *testing.T, l *life, want int) {
	t.Helper()
	require.Eventually(t, func() bool {
		tree.Lock()
		defer tree.Unlock()
		return l.users == want
	}, 10*time.Second, time.Millisecond)
}
