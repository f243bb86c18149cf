//go:build cgo

package rdma

import (
	"math/rand/v2"
	"runtime"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"mooncake/tests/softnic/nic"
)

// patience bounds every wait of a test on something that must happen.
const patience = 10 * time.Second

// memory is outside the Go heap, and registered.
type memory struct {
	bytes []byte
	mr    *MR
}

func (m *memory) addr() uint64 { return uint64(uintptr(unsafe.Pointer(unsafe.SliceData(m.bytes)))) }

func (m *memory) fill(seed uint64) {
	r := rand.New(rand.NewPCG(seed, 1))
	for i := 0; i+8 <= len(m.bytes); i += 8 {
		*(*uint64)(unsafe.Pointer(&m.bytes[i])) = r.Uint64()
	}
}

// end is one end of connections: a device with a port that polls its completion queue.
type end struct {
	t       *testing.T
	context *Context
	pd      *PD
	cq      *CQ
	port    *Port
	gid     GID
	mem     *memory
	told    chan PortEvent
}

// newEnd opens the software NIC, or the device of this host, with size bytes of memory.
// Everything is closed with the test, which fails if something is left.
func newEnd(t *testing.T, size, completions int) *end {
	needDevice(t)
	names, err := DeviceNames()
	require.NoError(t, err)
	require.NotEmpty(t, names)
	e := &end{t: t}
	e.context, err = OpenDevice(names[0])
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, e.context.Close()) })
	gids, err := e.context.GIDs(1)
	require.NoError(t, err)
	choice, err := ChooseGID(gids, -1)
	require.NoError(t, err)
	e.gid = choice.GID
	e.pd, err = e.context.NewPD()
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, e.pd.Close()) })
	e.cq, err = e.context.NewCQ(completions)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, e.cq.Close()) })
	e.mem = e.register(size)
	e.port, err = NewPort(e.cq, PortConfig{})
	require.NoError(t, err)
	e.told = make(chan PortEvent, 4096)
	over := make(chan struct{})
	go func() {
		defer close(over)
		var events [16]PortEvent
		for n := e.port.Wait(events[:]); n > 0; n = e.port.Wait(events[:]) {
			for _, event := range events[:n] {
				e.told <- event
			}
		}
	}()
	t.Cleanup(func() {
		e.port.Close()
		<-over
	})
	return e
}

// needDevice skips a test where there is neither a software NIC nor a real one.
func needDevice(t testing.TB) {
	t.Helper()
	if !nic.Real() {
		nic.Need(t)
	}
}

func (e *end) register(size int) *memory {
	b, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	require.NoError(e.t, err)
	m := &memory{bytes: b}
	m.mr, err = e.pd.Register(m.addr(), uint64(size), allAccess)
	require.NoError(e.t, err)
	e.t.Cleanup(func() {
		require.NoError(e.t, m.mr.Close())
		unix.Munmap(b)
	})
	return m
}

// queues makes n queue pairs.
func (e *end) queues(n, depth int) []*QP {
	var qps []*QP
	for range n {
		qp, err := e.pd.NewQP(e.cq, QPConfig{SendDepth: depth, MaxSGE: 16, MaxInline: 64})
		require.NoError(e.t, err)
		e.t.Cleanup(func() { require.NoError(e.t, qp.Close()) })
		qps = append(qps, qp)
	}
	return qps
}

// connect brings a queue pair to where it sends to number of the other end.
func (e *end) connect(qp *QP, other *end, number uint32) {
	require.NoError(e.t, qp.ToInit(InitConfig{Port: 1, Access: allAccess}))
	require.NoError(e.t, qp.ToRTR(RTRConfig{PathMTU: 1024, RemoteQP: number, MaxReadsIn: 16, MinRNRTimer: 12, Port: 1,
		Global: true, GID: other.gid.Address.As16(), GIDIndex: e.gid.Index, HopLimit: 16}))
	require.NoError(e.t, qp.ToRTS(RTSConfig{Timeout: 14, RetryCount: 6, RNRRetry: 6, MaxReads: 16}))
}

// pairUp makes n queue pairs at each end, connected.
func pairUp(a, b *end, n, depth int) (here, there []*QP) {
	here, there = a.queues(n, depth), b.queues(n, depth)
	for i := range here {
		a.connect(here[i], b, there[i].Number())
		b.connect(there[i], a, here[i].Number())
	}
	return here, there
}

// laneConfig is small, so that rings and queues are full at times.
var laneConfig = LaneConfig{Depth: 32, Gather: 8, Scatter: 8, ReadDepth: 8, GatherBytes: 64 << 10, Ring: 256}

// newLane connects to the other end and makes a lane. It is closed with the test unless
// the test has done so.
func newLane(a, b *end, queues int, cfg LaneConfig) *testLane {
	here, there := pairUp(a, b, queues, cfg.Depth)
	return a.laneOn(here, there, cfg)
}

// testLane is a lane with its queue pairs, which is broken and closed with the test.
type testLane struct {
	*Lane
	end         *end
	here, there []*QP
	closed      bool
}

func (e *end) laneOn(here, there []*QP, cfg LaneConfig) *testLane {
	lane, err := e.port.NewLane(here, cfg)
	require.NoError(e.t, err)
	l := &testLane{Lane: lane, end: e, here: here, there: there}
	e.t.Cleanup(l.done)
	return l
}

// done closes the lane; nothing may be in flight.
func (l *testLane) done() {
	if l.closed {
		return
	}
	l.closed = true
	assert.NoError(l.end.t, l.Close())
}

// tell waits for an event that fits; others are dropped.
func (e *end) tell(what string, fits func(PortEvent) bool) PortEvent {
	e.t.Helper()
	late := time.After(patience)
	for {
		select {
		case event := <-e.told:
			if fits(event) {
				return event
			}
		case <-late:
			buffer := make([]byte, 1<<16)
			e.t.Fatalf("not within %v: %s\n%s", patience, what, buffer[:runtime.Stack(buffer, true)])
		}
	}
}

func (e *end) eventually(what string, ok func() bool) {
	e.t.Helper()
	for late := time.Now().Add(patience); !ok(); runtime.Gosched() {
		require.True(e.t, time.Now().Before(late), "not within %v: %s", patience, what)
	}
}

func (e *end) ended(t *Ticket) {
	e.t.Helper()
	e.tell("the end of a ticket", func(x PortEvent) bool { return x.Kind == TicketEnded && x.Ticket == t })
}

func (e *end) broke(l *testLane) {
	e.t.Helper()
	e.tell("a broken lane", func(x PortEvent) bool { return x.Kind == LaneBroken && x.Lane == l.Lane })
}

// feed gives all pieces to a lane, waiting for room.
func (l *testLane) feed(t *Ticket, c Class, pieces []Piece) {
	l.end.t.Helper()
	for {
		n := l.Feed(t, c, pieces, true)
		if pieces = pieces[n:]; len(pieces) == 0 {
			return
		}
		l.end.tell("room", func(x PortEvent) bool { return x.Kind == LaneRoom && x.Lane == l.Lane })
	}
}

// piece is length bytes from offset from of one memory to offset to of the other.
func piece(local, remote *memory, from, to, length int) Piece {
	return Piece{Local: local.addr() + uint64(from), Remote: remote.addr() + uint64(to), Length: uint32(length),
		LKey: local.mr.LKey(), RKey: remote.mr.RKey()}
}

// scattered are n pieces of a size from every second slot of one memory to that of the
// other, in another order.
func scattered(local, remote *memory, size, n int, seed uint64) []Piece {
	order := rand.New(rand.NewPCG(seed, 2)).Perm(n)
	pieces := make([]Piece, n)
	for i := range pieces {
		pieces[i] = piece(local, remote, 2*i*size, 2*order[i]*size, size)
		pieces[i].User = uint32(i)
	}
	return pieces
}

// bytesAt are the bytes at an address of the memory.
func (m *memory) bytesAt(addr, length uint64) []byte {
	at := addr - m.addr()
	return m.bytes[at : at+length]
}

// arrived checks that what the pieces say is so.
func arrived(t *testing.T, local, remote *memory, pieces []Piece) {
	t.Helper()
	for i, p := range pieces {
		require.Equal(t, local.bytesAt(p.Local, uint64(p.Length)), remote.bytesAt(p.Remote, uint64(p.Length)), "piece %d", i)
	}
}
