//go:build cgo

package rdma

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"
)

// wire is a port with lanes to itself: each queue pair has a peer on the same device.
type wire struct {
	t       *testing.T
	context *Context
	pd      *PD
	cq      *CQ
	port    *Port
	mr      *MR
	local   []byte // and remote: halves of mr
	remote  []byte
	events  chan PortEvent
	early   []PortEvent // that came before somebody wanted them
}

const (
	wireHalf  = 1 << 20
	wireDepth = 64
	soon      = 20 * time.Second
)

// newWire tells what happens by events, or, when quiet, leaves Port.Wait to the test.
func newWire(t *testing.T, cfg PortConfig, quiet bool) *wire {
	c := anyDevice(t)
	w := &wire{t: t, context: c, pd: newPD(t, c)}
	var err error
	w.cq, err = c.NewCQ(1000)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, w.cq.Close()) })
	addr := mapped(t, 2*wireHalf, readWrite)
	w.mr, err = w.pd.Register(addr, 2*wireHalf, allAccess)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, w.mr.Close()) })
	both := unsafe.Slice((*byte)(*(*unsafe.Pointer)(unsafe.Pointer(&addr))), 2*wireHalf)
	w.local, w.remote = both[:wireHalf], both[wireHalf:]
	for i := range w.local {
		w.local[i] = byte(rand.Uint32())
	}
	w.port, err = NewPort(w.cq, cfg)
	require.NoError(t, err)
	done := make(chan struct{})
	close(done)
	if !quiet {
		w.events = make(chan PortEvent, 1000)
		done = make(chan struct{})
		go w.listen(done)
	}
	t.Cleanup(func() {
		require.NoError(t, w.port.Close())
		require.NoError(t, w.port.Close())
		<-done
		require.Zero(t, w.port.Wait(make([]PortEvent, 1)), "after Close")
	})
	return w
}

func (w *wire) listen(done chan struct{}) {
	defer close(done)
	out := make([]PortEvent, 3)
	for {
		n := w.port.Wait(out)
		if n == 0 {
			return
		}
		for _, event := range out[:n] {
			w.events <- event
		}
	}
}

// want waits for the next event of a kind and keeps others for later: a ticket may end
// before its lane has broken, or after.
func (w *wire) want(kind PortEventKind) PortEvent {
	w.t.Helper()
	for i, event := range w.early {
		if event.Kind == kind {
			w.early = slices.Delete(w.early, i, i+1)
			return event
		}
	}
	deadline := time.After(soon)
	for {
		select {
		case event := <-w.events:
			if event.Kind == kind {
				return event
			}
			w.early = append(w.early, event)
		case <-deadline:
			require.FailNow(w.t, "no event", "of kind %d", kind)
		}
	}
}

func (w *wire) qps(n int) []*QP {
	var mine []*QP
	for range n {
		var pair []*QP
		for range 2 {
			qp, err := w.pd.NewQP(w.cq, QPConfig{SendDepth: wireDepth, MaxSGE: 4})
			require.NoError(w.t, err)
			w.t.Cleanup(func() { require.NoError(w.t, qp.Close()) })
			pair = append(pair, qp)
		}
		connect(w.t, w.context, pair...)
		mine = append(mine, pair[0])
	}
	return mine
}

func (w *wire) lane(cfg LaneConfig, qps ...*QP) *Lane {
	if len(qps) == 0 {
		qps = w.qps(2)
	}
	lane, err := w.port.NewLane(qps, cfg)
	require.NoError(w.t, err)
	w.t.Cleanup(func() {
		require.Eventually(w.t, func() bool { return lane.Close() == nil }, soon, time.Millisecond)
		require.NoError(w.t, lane.Close())
	})
	return lane
}

// pieces cover the memory from offset on in both halves, whose order differs: stretches
// of up to eight blocks go on at the peer, but not here.
func (w *wire) pieces(offset, count, size int) []Piece {
	at := func(b []byte, i int) uint64 { return uint64(uintptr(unsafe.Pointer(&b[offset+i*size]))) }
	pieces := make([]Piece, count)
	for i := range pieces {
		pieces[i] = Piece{
			Local: at(w.local, i/8*8+(i%8*3)%8), Remote: at(w.remote, i), Length: uint32(size),
			LKey: w.mr.LKey(), RKey: w.mr.RKey(), User: uint32(i),
		}
		if i > 0 {
			pieces[i].Joins = JoinsRemote
		}
	}
	return pieces
}

func (w *wire) requireMoved(pieces []Piece) {
	w.t.Helper()
	base := uint64(uintptr(unsafe.Pointer(&w.local[0])))
	for _, p := range pieces {
		l, r := p.Local-base, p.Remote-base-wireHalf
		require.Equal(w.t, w.local[l:l+uint64(p.Length)], w.remote[r:r+uint64(p.Length)], "piece %d", p.User)
	}
}

// feed feeds all, waiting for room; the test is to wait for the ticket then.
func (w *wire) feed(l *Lane, t *Ticket, class Class, pieces []Piece) {
	w.t.Helper()
	t.Expect()
	for len(pieces) > 0 {
		n := l.Feed(t, class, pieces, true)
		if pieces = pieces[n:]; len(pieces) > 0 {
			require.Same(w.t, l, w.want(LaneRoom).Lane)
		}
	}
}
