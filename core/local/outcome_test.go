package local

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/pkg/errors"
	"github.com/stretchr/testify/require"
)

var errStop = errors.New("stopped by the test")

// started waits until something of a posting has arrived.
func (s *source) started(t testing.TB) {
	t.Helper()
	eventually(t, "first bytes", func() bool { bytes, _ := s.arrived(); return bytes > 0 })
}

// Stopped in the middle: quiet at both ends at once, and nothing lands afterwards.
// What else was on the way arrives.
func TestStopIsQuietAtBothEnds(t *testing.T) {
	each(t, everyWay, func(t *testing.T, w way, write bool) {
		const n, size = 200_000, 256
		used := uint64(2 * n * size)
		p := newPair(t, w, int(used)+8<<20)
		src := newSource(p.scattered(n, size)).publish(-1)
		po := p.peer.Post(write, src)
		po.Kick()
		src.started(t)
		innocent := scattered(p.near.addr()+used, p.far.addr()+used, 500, 4096)
		other, _ := post(p.peer, write, innocent)
		began := time.Now()
		po.Stop(errStop)
		po.Stop(ErrClosed)
		end := src.end(t)
		took := time.Since(began)
		watchPoison(t, p.near[:used], p.far[:used])
		require.ErrorIs(t, end.Err, errStop)
		require.True(t, end.Quiet)
		require.Less(t, took, time.Second)
		other.well(t)
		same(t, innocent)
		require.Zero(t, src.late, "calls after the end")
	})
}

func TestCloseEndsPostings(t *testing.T) {
	each(t, everyWay, func(t *testing.T, w way, write bool) {
		p := newPair(t, w, 64<<20)
		src := newSource(p.scattered(32<<10, 1024)).publish(-1)
		po := p.peer.Post(write, src)
		po.Kick()
		p.peer.Close()
		p.peer.Close()
		watchPoison(t, p.near, p.far)
		end := src.end(t)
		require.ErrorIs(t, end.Err, ErrClosed)
		require.True(t, end.Quiet)
		late, _ := post(p.peer, write, p.scattered(1, 8))
		require.ErrorIs(t, late.end(t).Err, ErrClosed)
	})
}

// The target closes: postings fail, quiet, and no byte comes after Close.
func TestServerCloseEndsPostings(t *testing.T) {
	each(t, everyWay, func(t *testing.T, w way, write bool) {
		p := newPair(t, w, 64<<20)
		src := newSource(p.scattered(32<<10, 1024)).publish(-1)
		po := p.peer.Post(write, src)
		po.Kick()
		p.server.Close()
		p.server.Close()
		watchPoison(t, p.far)
		po.Seal()
		end := src.end(t)
		require.ErrorIs(t, end.Err, ErrPeer)
		require.True(t, end.Quiet)
		require.True(t, p.peer.Lost())
	})
}

// Deregistered in a storm of copies: when that returns, the pages are the owner's.
func TestDeregisterInAStorm(t *testing.T) {
	each(t, everyWay, func(t *testing.T, w way, write bool) {
		p := newPair(t, w, 32<<20)
		for range 5 {
			var srcs []*source
			for _, size := range []int{256, 4096, 1 << 20} {
				src := newSource(p.scattered(min(8192, 16<<20/size), size)).publish(-1)
				p.peer.Post(write, src).Seal()
				srcs = append(srcs, src)
			}
			p.deregister(p.region)
			p.far.poison(0xA5)
			for _, src := range srcs {
				if end := src.end(t); end.Err != nil {
					require.ErrorIs(t, end.Err, ErrRejected)
					require.True(t, end.Quiet)
				}
			}
			require.True(t, p.far.all(0xA5), "a late byte")
			src, _ := post(p.peer, write, p.scattered(1, 64))
			require.ErrorIs(t, src.end(t).Err, ErrRejected)
			p.region = p.register(p.far.addr(), p.far.end(), true)
		}
		moved(t, p.peer, write, p.scattered(100, 512))
	})
}

// What began before an address was registered anew does not touch it.
func TestRegisteredAnew(t *testing.T) {
	each(t, everyWay, func(t *testing.T, w way, write bool) {
		for _, n := range []int{1, 1000} {
			p := newPair(t, w, 8<<20)
			begun := make([]*source, 2)
			postings := make([]*Posting, 2)
			for i := range begun {
				begun[i] = newSource(p.scattered(n, 512))
				postings[i] = p.peer.Post(write, begun[i])
			}
			p.deregister(p.region)
			p.region = p.register(p.far.addr(), p.far.end(), true)
			p.far.poison(1)
			p.near.poison(2)
			postings[1].Renew()
			for i := range begun {
				begun[i].publish(-1)
				postings[i].Seal()
			}
			end := begun[0].end(t)
			require.ErrorIs(t, end.Err, ErrRejected)
			require.Contains(t, end.Err.Error(), "peer: ")
			begun[1].well(t)
			moved(t, p.peer, write, p.scattered(n, 512))
		}
	})
}

// After Fence nothing of what the peer had begun lands; what it begins later does.
func TestFence(t *testing.T) {
	each(t, everyWay, func(t *testing.T, w way, write bool) {
		for name, id := range map[string]Identity{
			"by instance": {Instance: Instance{7}},
			"by name":     {Names: []string{"other", "me:1"}},
		} {
			p := newPair(t, w, 64<<20)
			src := newSource(p.scattered(64<<10, 512)).publish(-1)
			po := p.peer.Post(write, src)
			po.Kick()
			src.started(t)
			half := newSource(p.scattered(10, 64)) // begun, and nothing of it moved
			waiting := p.peer.Post(write, half)
			met, err := p.server.Fence(context.Background(), Identity{Instance: Instance{9}, Names: []string{"else"}})
			require.NoError(t, err)
			require.False(t, met)
			met, err = p.server.Fence(context.Background(), id)
			require.NoError(t, err)
			require.True(t, met, name)
			p.far.poison(0xA5)
			po.Seal()
			half.publish(-1)
			waiting.Seal()
			if end := src.end(t); end.Err != nil {
				require.ErrorIs(t, end.Err, ErrFenced)
				require.True(t, end.Quiet)
			} else {
				require.Equal(t, src.given, len(src.slices))
			}
			require.ErrorIs(t, half.end(t).Err, ErrFenced)
			require.True(t, p.far.all(0xA5), "a late byte")
			moved(t, p.peer, write, p.scattered(100, 512))
		}
	})
}

// Whoever is inside a copy is waited for, and no longer.
func TestSettleWaitsForWhoIsInside(t *testing.T) {
	p := newPair(t, remoteWay("direct", DirectOnly), 1<<20)
	moved(t, p.peer, true, p.scattered(10, 512))
	l := p.peer.lanes[0]
	l.turn.Lock()
	l.word.enter()
	done := make(chan struct{})
	go func() {
		p.deregister(p.region)
		close(done)
	}()
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	_, err := p.server.Fence(ctx, Identity{Instance: Instance{7}})
	require.ErrorIs(t, err, context.DeadlineExceeded)
	select {
	case <-done:
		require.FailNow(t, "did not wait")
	default:
	}
	p.server.Moved() // the counters do not wait
	l.word.leave()
	l.turn.Unlock()
	select {
	case <-done:
	case <-time.After(patience):
		require.FailNow(t, "still waits")
	}
}

// A lane that sleeps for its ring is woken to give up what is stopped.
func TestStopWhileTheRingIsFull(t *testing.T) {
	each(t, []way{remoteWay("packed", PackedOnly)}, func(t *testing.T, w way, write bool) {
		p := newPair(t, w, 32<<20)
		release := holdRings(t, p.server)
		src, po := post(p.peer, write, p.scattered(16<<10, 1024))
		eventually(t, "the rings to be full", func() bool { return ringsFull(p.peer) })
		po.Stop(errStop)
		end := src.end(t)
		require.ErrorIs(t, end.Err, errStop)
		// Each ring has one message that the target has begun: of a write, it may
		// still be written.
		require.Equal(t, !write, end.Quiet)
		release()
		moved(t, p.peer, write, p.scattered(5000, 512))
	})
}

// A posting that is stopped while the target changes its memory says nothing about the
// target: others go on.
func TestStopInTheMiddleOfAChange(t *testing.T) {
	p := newPair(t, remoteWay("direct", DirectOnly), 1<<20)
	generation := p.server.table.u64(tableGeneration)
	generation.Add(1)
	stopped, other := newSource(p.scattered(10, 64)), newSource(p.scattered(10, 64))
	first, second := p.peer.Post(true, stopped.publish(-1)), p.peer.Post(true, other.publish(-1))
	go first.Seal()
	eventually(t, "a lane to wait for the end of the change", func() bool {
		if p.peer.remote.reading.TryLock() {
			p.peer.remote.reading.Unlock()
			return false
		}
		return stopped.Left() == 0
	})
	go second.Seal()
	eventually(t, "another lane to wait", func() bool { return other.Left() == 0 })
	first.Stop(errStop)
	require.ErrorIs(t, stopped.end(t).Err, errStop)
	require.False(t, p.peer.Lost())
	generation.Add(1)
	other.well(t)
}

// holdRings makes the target stop in the middle of its next messages.
func holdRings(t testing.TB, s *Server) (release func()) {
	var held []*ringServer
	for _, c := range s.snapshot(func(client) bool { return true }) {
		c := c.(*conn)
		c.mu.Lock()
		servers := c.servers
		c.mu.Unlock()
		for _, r := range servers {
			r.working.Lock()
			held = append(held, r)
		}
	}
	var once sync.Once
	release = func() {
		once.Do(func() {
			for _, r := range held {
				r.working.Unlock()
			}
		})
	}
	t.Cleanup(release) // a test that fails before must not hang in Close
	return release
}

func ringsFull(p *Peer) bool {
	for _, l := range p.lanes[:p.crew] {
		if !l.turn.TryLock() {
			return false
		}
		full := l.pack.po != nil && l.pack.posted-l.pack.reaped == slotsPerRing
		l.turn.Unlock()
		if !full {
			return false
		}
	}
	return true
}
