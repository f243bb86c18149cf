package rdma

import (
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/pkg/errors"
	"github.com/stretchr/testify/require"
)

func begun(t *testing.T, name string, parents ...*life) *life {
	t.Helper()
	l := new(life)
	require.NoError(t, l.begin(func() string { return name }, parents...))
	return l
}

func closed(l *life) error { return l.close(nil, func() error { return nil }) }

func TestClosingOrder(t *testing.T) {
	device := begun(t, "nic")
	pd := begun(t, "PD", device)
	cq := begun(t, "CQ", device)
	qp := begun(t, "QP 1", pd, cq)
	require.Subset(t, OpenObjects(), []string{"CQ", "PD", "QP 1", "nic"})

	err := closed(device)
	require.ErrorIs(t, err, ErrInUse)
	require.EqualError(t, err, "close nic: open are CQ, PD: still in use")
	require.EqualError(t, closed(pd), "close PD: open are QP 1: still in use")
	require.ErrorContains(t, closed(cq), "QP 1")

	require.NoError(t, closed(qp))
	require.NoError(t, closed(qp), "twice")
	require.NoError(t, closed(pd))
	require.NoError(t, closed(cq))
	require.NoError(t, closed(device))
	require.NotContains(t, OpenObjects(), "nic")

	require.ErrorIs(t, new(life).begin(func() string { return "MR" }, pd), ErrClosed)
	require.ErrorIs(t, qp.use(), ErrClosed)
	require.ErrorIs(t, new(life).use(), ErrClosed, "never opened")
}

func TestManyChildrenAreNotAllNamed(t *testing.T) {
	pd := begun(t, "PD")
	var all []*life
	for _, name := range []string{"a", "b", "c", "d", "e", "f", "g", "h", "i", "j"} {
		all = append(all, begun(t, name, pd))
	}
	require.ErrorContains(t, closed(pd), "open are a, b, c, d, e, f, g, h and 2 more")
	for _, l := range append(all, pd) {
		require.NoError(t, closed(l))
	}
}

func TestFailedClosingLeavesItOpen(t *testing.T) {
	qp := begun(t, "QP 1")
	busy := errors.New("busy")
	require.ErrorIs(t, qp.close(nil, func() error { return busy }), busy)
	require.NoError(t, qp.use())
	qp.leave()
	require.NoError(t, closed(qp))
}

func TestClosingWaitsForUsers(t *testing.T) {
	device := begun(t, "nic")
	require.NoError(t, device.use())

	woken := make(chan struct{})
	var left atomic.Bool
	var group sync.WaitGroup
	group.Go(func() {
		<-woken
		left.Store(true)
		device.leave()
	})
	var destroyed atomic.Int32
	for range 4 { // the first one wakes and destroys, the others wait for it
		group.Go(func() {
			err := device.close(func() { close(woken) }, func() error {
				if !left.Load() {
					t.Error("destroyed while in use")
				}
				destroyed.Add(1)
				return nil
			})
			if err != nil {
				t.Error(err)
			}
			if destroyed.Load() != 1 {
				t.Error("returned before it was destroyed")
			}
		})
	}
	group.Wait()
	require.EqualValues(t, 1, destroyed.Load())
}

func TestFailureIsSentinelAndErrno(t *testing.T) {
	err := errors.WithMessage(fail("make a QP on nic", ErrFull, syscall.ENOMEM, "it holds 4"), "connect")
	require.ErrorIs(t, err, ErrFull)
	require.ErrorIs(t, err, syscall.ENOMEM)
	require.NotErrorIs(t, err, ErrDevice)
	require.EqualError(t, err, "connect: make a QP on nic: device limit reached: cannot allocate memory (ENOMEM): it holds 4")
	require.ErrorContains(t, fail("x", ErrDevice, 4095, ""), "errno 4095")
}
