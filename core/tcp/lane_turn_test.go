package tcp

import (
	"net"
	"runtime"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// call posts slices as a thread that waits for them does.
func call(p *Peer, write bool, slices []Slice) *source {
	src := newSource(slices).publish(-1)
	po := p.Post(write, src)
	po.Waits()
	po.Seal()
	po.Receive()
	return src
}

// over tells whether the source's posting has ended.
func over(src *source) bool {
	select {
	case <-src.ended:
		return true
	default:
		return false
	}
}

// theLane returns a peer's only lane.
func theLane(t *testing.T, p *Peer) *lane {
	p.mu.Lock()
	defer p.mu.Unlock()
	require.Len(t, p.lanes, 1)
	return p.lanes[0]
}

// untilAway makes calls until the reader goroutine has left the lane to them.
func untilAway(t *testing.T, p *Peer, slices []Slice) *lane {
	call(p, true, slices).well(t)
	l := theLane(t, p)
	eventually(t, "the goroutine to leave", func() bool {
		call(p, true, slices).well(t)
		return l.away.Load()
	})
	return l
}

func TestAThreadThatWaitsReceives(t *testing.T) {
	for _, write := range []bool{true, false} {
		p := newPair(t, 1<<20)
		p.near.fill(1)
		p.far.fill(2)
		for _, slices := range [][]Slice{p.row(1, 4096, 4096), p.row(40, 512, 1024), p.row(1, 300<<10, 1)} {
			untilAway(t, p.peer, slices)
			eventually(t, "a call that had ended when Receive returned", func() bool {
				away := theLane(t, p.peer).away.Load()
				src := call(p.peer, write, slices)
				ended := over(src)
				src.well(t)
				return away && ended
			})
			same(t, slices)
		}
	}
}

func TestTheGoroutineIsCalledForOthers(t *testing.T) {
	p := newPair(t, 1<<20)
	p.near.fill(1)
	one := p.row(1, 4096, 4096)
	for range 20 {
		untilAway(t, p.peer, one)
		src, _ := post(p.peer, true, one) // nobody receives for this one
		src.well(t)
	}
}

// A thread that gives up leaves what is on the lane to the goroutine.
func TestTheGoroutineTakesOver(t *testing.T) {
	held := make(chan chan struct{}, 1)
	p := newScripted(t, 1<<20, func(_ int, c *net.TCPConn) {
		for {
			h, ok := receive(c)
			if !ok {
				return
			}
			select {
			case gate := <-held:
				<-gate
			default:
			}
			answer(c, h)
		}
	})
	one := p.row(1, 4096, 4096)
	untilAway(t, p.peer, one)
	gate := make(chan struct{})
	held <- gate
	src := call(p.peer, true, one)
	require.False(t, over(src), "the answer is held back")
	close(gate)
	src.well(t)
	same(t, one)
}

// What ends the lane is found by whoever receives.
func TestAThreadThatReceivesFindsTheEnd(t *testing.T) {
	var cut sync.Once
	stop := make(chan struct{})
	p := newScripted(t, 1<<20, func(n int, c *net.TCPConn) {
		for {
			h, ok := receive(c)
			if !ok {
				return
			}
			select {
			case <-stop:
				gone := false
				cut.Do(func() { gone = true })
				if gone {
					return // without an answer
				}
			default:
			}
			answer(c, h)
		}
	})
	one := p.row(1, 4096, 4096)
	untilAway(t, p.peer, one)
	close(stop)
	src := call(p.peer, true, one)
	src.well(t)
	_, resent := src.counts()
	require.Equal(t, 1, resent)
}

func TestStopWhileAThreadReceives(t *testing.T) {
	quiet := make(chan struct{}, 1)
	p := newScripted(t, 1<<20, func(_ int, c *net.TCPConn) {
		for {
			h, ok := receive(c)
			if !ok {
				return
			}
			select {
			case <-quiet: // this one is never answered
			default:
				answer(c, h)
			}
		}
	})
	one := p.row(1, 4096, 4096)
	untilAway(t, p.peer, one)
	quiet <- struct{}{}
	src := newSource(one).publish(-1)
	po := p.peer.Post(true, src)
	po.Waits()
	po.Seal()
	go po.Stop(ErrClosed)
	po.Receive()
	end := src.end(t)
	require.ErrorIs(t, end.Err, ErrClosed)
	require.True(t, end.Quiet)
}

// Threads that receive, goroutines, and calls of every size at once.
func TestManyThreadsReceive(t *testing.T) {
	p := newPair(t, 32<<20)
	p.near.fill(1)
	var wg sync.WaitGroup
	for n := range 8 {
		wg.Go(func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			base := uint64(n) * (4 << 20)
			for i := range 60 {
				size := []int{64, 4096, 700 << 10}[(n+i)%3]
				slices := row(host{}, p.near.addr()+base, p.far.addr()+base, 4, size, size)
				if (n+i)%4 == 0 {
					src, _ := post(p.peer, i%2 == 0, slices)
					src.well(t)
				} else {
					call(p.peer, i%2 == 0, slices).well(t)
				}
				same(t, slices)
			}
		})
	}
	wg.Wait()
}
