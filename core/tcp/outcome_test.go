package tcp

import (
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/pkg/errors"
	"github.com/stretchr/testify/require"
)

var errStop = errors.New("stopped by the test")

// started waits until something of a posting is confirmed.
func (s *source) started(t testing.TB) {
	t.Helper()
	eventually(t, "a first confirmation", func() bool { done, _ := s.counts(); return done > 0 })
}

// Stopped in mid-flight: quiet at both ends, soon, and nothing lands afterwards.
// What else was on the lanes arrives.
func TestStopIsQuietAtBothEnds(t *testing.T) {
	both(t, func(t *testing.T, write bool) {
		const n, size = 40_000, 1024
		p := newPair(t, 2*n*size+16<<20)
		p.near.fill(1)
		p.far.fill(2)
		// The innocent posting's pages lie behind those of the stopped one.
		used := uint64(2 * n * size)
		innocent := row(host{}, p.near.addr()+used, p.far.addr()+used, 1000, 8000, 16_000)
		src, po := post(p.peer, write, p.row(n, size, 2*size))
		src.started(t)
		other, _ := post(p.peer, write, innocent)
		began := time.Now()
		po.Stop(errStop)
		end := src.end(t)
		took := time.Since(began)
		watchPoison(t, p.near[:used], p.far[:used])
		done, _ := src.counts()
		t.Logf("quiet after %v, %d of %d slices confirmed", took, done, n)
		require.ErrorIs(t, end.Err, errStop)
		require.True(t, end.Quiet)
		require.Less(t, took, time.Second)
		other.well(t)
		same(t, innocent)
	})
}

// A peer that never answers cannot confirm anything: locally quiet, soon.
func TestStopTowardsFrozenPeer(t *testing.T) {
	both(t, func(t *testing.T, write bool) {
		gate := make(chan struct{})
		s := newScripted(t, 64<<20, func(n int, c *net.TCPConn) { <-gate })
		t.Cleanup(func() { close(gate) })
		src, po := post(s.peer, write, s.row(16, 1<<20, 2<<20))
		eventually(t, "the window to be full", func() bool { return src.Left() <= 8<<20 })
		began := time.Now()
		po.Stop(errStop)
		po.Stop(ErrClosed)
		end := src.end(t)
		took := time.Since(began)
		t.Logf("locally quiet after %v", took)
		require.ErrorIs(t, end.Err, errStop)
		require.Less(t, took, 1500*time.Millisecond)
		s.peer.mu.Lock()
		require.Empty(t, s.peer.live)
		s.peer.mu.Unlock()
		require.False(t, end.Quiet)
	})
}

// A peer that is frozen for longer than a stopped posting waits, and goes on then,
// gets the innocent posting's slices.
func TestStopDoesNotFailOthersOnASlowPeer(t *testing.T) {
	gate := make(chan struct{})
	s := newScripted(t, 64<<20, func(n int, c *net.TCPConn) {
		if n == 0 {
			<-gate
		}
		honest(c, -1)
	}, lanes(1))
	slices := s.row(40, 100_000, 200_000)
	guilty, po := post(s.peer, true, slices[:20])
	eventually(t, "the connection", func() bool { return s.accepted.Load() > 0 })
	innocent, _ := post(s.peer, true, slices[20:30])
	eventually(t, "both to be on the lane", func() bool {
		return innocent.Left() == 0 && guilty.Left() == 0
	})
	po.Stop(errStop)
	require.False(t, guilty.end(t).Quiet)
	later, _ := post(s.peer, true, slices[30:])
	later.well(t)
	close(gate)
	innocent.well(t)
	same(t, slices[20:])
}

// Postings stopped at random moments, many at once.
func TestStopStorm(t *testing.T) {
	const workers, rounds, n, size = 8, 12, 3000, 700
	p := newPair(t, 2*n*size*workers)
	p.near.fill(1)
	steady := newArena(t, 1<<20)
	p.table.add(newRegion(host{}, steady.addr(), steady.end()))
	var wg sync.WaitGroup
	for w := range workers {
		r := rand.New(rand.NewPCG(uint64(w), 7))
		at := uint64(w * 2 * n * size)
		slices := row(host{}, p.near.addr()+at, p.far.addr()+at, n, size, 2*size)
		wg.Go(func() {
			for range rounds {
				src := newSource(slices)
				po := p.peer.Post(r.IntN(2) == 0, src)
				stopAt := r.IntN(n)
				for shown := 0; shown < n; shown += 500 {
					src.publish(500)
					po.Kick()
					if done, _ := src.counts(); done >= stopAt {
						po.Stop(errStop)
					}
				}
				po.Seal()
				if r.IntN(2) == 0 {
					po.Stop(errStop)
				}
				end := src.end(t)
				if end.Err != nil && (!errors.Is(end.Err, errStop) || !end.Quiet) {
					t.Errorf("ended with %v, quiet: %v", end.Err, end.Quiet)
				}
			}
		})
	}
	wg.Wait()
	slices := row(host{}, p.near.addr(), p.far.addr(), n, size, 2*size)
	src, _ := post(p.peer, true, slices)
	src.well(t)
	same(t, slices)
	eventually(t, "the pins to be given back", func() bool { return p.region.held() == 0 })
}

// settled waits until there are no more goroutines than before.
func settled(t *testing.T, before int) {
	t.Helper()
	for end := time.Now().Add(patience); runtime.NumGoroutine() > before; runtime.Gosched() {
		if time.Now().After(end) {
			b := make([]byte, 1<<20)
			require.FailNowf(t, "goroutines left over", "%s", b[:runtime.Stack(b, true)])
		}
	}
}

func TestPeerCloseEndsEverything(t *testing.T) {
	before := runtime.NumGoroutine()
	p := newPair(t, 64<<20)
	var sources []*source
	for i := range 10 {
		src := newSource(p.row(2000, 4096, 8192)).publish(1000 + 10*i)
		po := p.peer.Post(i%2 == 0, src)
		po.Kick() // never sealed
		sources = append(sources, src)
	}
	idle := newSource(nil)
	unused := p.peer.Post(true, idle)
	sources[0].started(t)
	p.peer.Close()
	for _, src := range append(sources, idle) {
		end := src.end(t)
		require.ErrorIs(t, end.Err, ErrClosed)
		require.True(t, end.Quiet)
	}
	unused.Seal()
	late, _ := post(p.peer, true, p.row(1, 1, 1))
	require.ErrorIs(t, late.end(t).Err, ErrClosed)
	p.peer.Close()
	p.server.Close()
	settled(t, before)
}

// Everything may be on lanes, and the peer frozen, when it is closed.
func TestPeerCloseTowardsFrozenPeer(t *testing.T) {
	gate := make(chan struct{})
	s := newScripted(t, 1<<20, func(n int, c *net.TCPConn) { <-gate })
	t.Cleanup(func() { close(gate) })
	src, _ := post(s.peer, true, s.row(10, 1000, 1000))
	eventually(t, "the slices to leave", func() bool { return src.Left() == 0 })
	began := time.Now()
	s.peer.Close()
	require.Less(t, time.Since(began), 1500*time.Millisecond)
	end := src.end(t)
	require.ErrorIs(t, end.Err, ErrClosed)
	require.False(t, end.Quiet)
}

func TestServerCloseEndsPostings(t *testing.T) {
	both(t, func(t *testing.T, write bool) {
		before := runtime.NumGoroutine()
		p := newPair(t, 64<<20)
		var sources []*source
		for range 6 {
			src, _ := post(p.peer, write, p.row(100_000, 256, 512))
			sources = append(sources, src)
		}
		sources[0].started(t)
		p.server.Close()
		_, to := p.ways(write)
		for _, src := range sources {
			if end := src.end(t); end.Err != nil {
				require.ErrorIs(t, end.Err, ErrPeer)
				require.True(t, end.Quiet, "a closed connection proves that the peer is quiet")
			}
		}
		watchPoison(t, to)
		p.peer.Close()
		settled(t, before)
	})
}

// The kernel gives up on a host that takes nothing. That is no proof of anything:
// the bytes may be read later.
func TestStalledPeerIsNotQuiet(t *testing.T) {
	gate := make(chan struct{})
	s := newScripted(t, 64<<20, func(n int, c *net.TCPConn) {
		<-gate
		io.Copy(discard{}, c)
	}, func(cfg *PeerConfig, _ *dialer) { cfg.StallTimeout = 500 * time.Millisecond })
	t.Cleanup(func() { close(gate) })
	src, _ := post(s.peer, true, s.row(8, 4<<20, 8<<20))
	began := time.Now()
	end := src.end(t)
	t.Logf("after %v: %v", time.Since(began), end.Err)
	require.ErrorIs(t, end.Err, ErrPeer)
	require.False(t, end.Quiet)
}
