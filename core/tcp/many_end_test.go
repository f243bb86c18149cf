package tcp

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// slowMemory is memory whose copies begin when the gate opens.
type slowMemory struct {
	behind
	gate    *gate
	entered atomic.Int64
}

func (m *slowMemory) Store(addr uint64, p []byte) error {
	m.entered.Add(1)
	m.gate.wait()
	return m.behind.Store(addr, p)
}

func (m *slowMemory) Scatter(addr, length []uint64, p []byte) error {
	m.entered.Add(1)
	m.gate.wait()
	return m.behind.Scatter(addr, length, p)
}

// newSlow is a pair whose far memory waits for a gate.
func newSlow(t *testing.T, size int) (near, far arena, m *slowMemory, p *Peer) {
	near, far = newArena(t, size), newArena(t, size)
	m = &slowMemory{gate: newGate()}
	mem := &table{}
	mem.add(newRegion(m, far.addr(), far.end()))
	p = startPeer(t, startServer(t, mem).listener.Addr().String(), many, lanes(1))
	t.Cleanup(m.gate.open)
	near.fill(1)
	return near, far, m, p
}

// Stopped while the peer is in the middle of a message: the posting does not end as
// quiet before the peer is done with it, and afterwards nothing lands.
func TestStopInMidMessageWaitsForThePeer(t *testing.T) {
	near, far, m, p := newSlow(t, 1<<20)
	src, po := post(p, true, row(host{}, near.addr(), far.addr(), 1000, 500, 1000))
	eventually(t, "the peer to be in a message", func() bool { return m.entered.Load() > 0 })
	po.Stop(errStop)
	select {
	case <-src.ended:
		require.FailNow(t, "ended while the peer was copying")
	case <-time.After(2 * quiesceDrain): // its lane has been given up by now
	}
	m.gate.open()
	end := src.end(t)
	require.ErrorIs(t, end.Err, errStop)
	require.True(t, end.Quiet)
	watchPoison(t, near, far)
}

// A peer that does not come to an end in time: not quiet there, and said so.
func TestStopInMidMessageOfAStuckPeer(t *testing.T) {
	near, far, m, p := newSlow(t, 1<<20)
	src, po := post(p, true, row(host{}, near.addr(), far.addr(), 1000, 500, 1000))
	eventually(t, "the peer to be in a message", func() bool { return m.entered.Load() > 0 })
	po.Stop(errStop)
	end := src.end(t)
	require.ErrorIs(t, end.Err, errStop)
	require.False(t, end.Quiet)
	done, _ := src.counts()
	require.Zero(t, done, "confirmed what has not been copied")
}

// A read that is stopped while its answer comes: what comes afterwards touches
// nothing here, whether the pages are filled straight or through the buffer.
func TestStopInMidAnswer(t *testing.T) {
	for _, size := range []int{100, 100_000} {
		for _, sent := range []int{0, 3, 5 * size, 10*size - size/2} {
			t.Run(fmt.Sprintf("%d of 10x%d", sent, size), func(t *testing.T) {
				g := newGate()
				asked, over := make(chan struct{}), make(chan struct{})
				s := newScriptedMany(t, 40*size, func(_ int, c *net.TCPConn) {
					defer close(over)
					m, _ := receiveMany(c)
					close(asked)
					c.Write(append(append([]byte{}, okBytes...), bytes.Repeat([]byte{7}, sent)...))
					g.wait()
					c.Write(bytes.Repeat([]byte{7}, int(m.size)-sent))
				})
				t.Cleanup(g.open)
				s.near.poison(0xA5)
				src, po := post(s.peer, false, s.row(10, size, 2*size))
				await(t, asked, "the request")
				if sent > 0 {
					last := (sent-1)/size*2*size + (sent-1)%size
					eventually(t, "what was sent", func() bool { return s.near[last] == 7 })
				}
				po.Stop(errStop)
				end := src.end(t)
				require.ErrorIs(t, end.Err, errStop)
				require.False(t, end.Quiet, "the peer did not close")
				s.near.poison(0xA5)
				g.open()
				await(t, over, "the rest of the answer to be sent")
				watchPoison(t, s.near)
			})
		}
	}
}

// A fence ends a message anywhere; what comes of it afterwards lands nowhere.
func TestFenceInMidMessage(t *testing.T) {
	for _, size := range []int{60, 300_000} {
		whole := HeaderSize + 10*rangeSize + 10*size
		for _, sent := range []int{HeaderSize - 1, HeaderSize, HeaderSize + 50, HeaderSize + 10*rangeSize, whole / 2, whole - 1} {
			t.Run(fmt.Sprintf("%d of %d", sent, whole), func(t *testing.T) {
				s := newServed(t, 20*size)
				raw := dialMany(t, s.server)
				b := message(opWriteMany|flagV2, spread(s.arena.addr(), 10, size, 2*size), bytes.Repeat([]byte{7}, 10*size))
				raw.send(b[:sent])
				if n := sent - HeaderSize - 10*rangeSize; n > 0 {
					last := (n-1)/size*2*size + (n-1)%size
					eventually(t, "what was sent", func() bool { return s.arena[last] == 7 })
				}
				fenced(t, s.server, Identity{Instance: Instance{7}})
				s.arena.poison(0xA5)
				raw.Write(b[sent:])
				watchPoison(t, s.arena)
				raw.expectClose()
				eventually(t, "the connection to end", func() bool { return s.server.Connections() == 0 })
				require.Zero(t, s.region.held())
			})
		}
	}
}

// Ten blocks get through beside a million, over one connection, while only a small
// part of the million goes by.
func TestTenSlicesBesideAMillion(t *testing.T) {
	const million, size, pages = 1_000_000, 512, 8192
	for _, write := range []bool{true, false} {
		t.Run(fmt.Sprintf("write=%v", write), func(t *testing.T) {
			p := newPair(t, (pages+10)*size, lanes(1))
			p.near.fill(1)
			slices := make([]Slice, million)
			for i := range slices {
				at := uint64(i * 7919 % pages * size)
				slices[i] = Slice{p.near.addr() + at, p.far.addr() + at, size, host{}}
			}
			huge := newSource(slices).publish(-1)
			po := p.peer.Post(write, huge)
			go po.Seal()
			huge.started(t)
			ten := row(host{}, p.near.addr()+pages*size, p.far.addr()+pages*size, 10, size, size)
			var worst int
			for range 20 {
				before, _ := huge.counts()
				small, _ := post(p.peer, true, ten)
				small.well(t)
				after, _ := huge.counts()
				worst = max(worst, after-before)
			}
			t.Logf("at most %d of %d slices went by meanwhile", worst, million)
			// A posting waits for what is in the window, and its turn comes after one quantum.
			require.Less(t, worst, million/10)
			po.Stop(errStop)
			huge.end(t)
			same(t, ten)
		})
	}
}

// Ten times the slices cost hardly more allocations: none is made for a slice, and
// none for a message.
func TestNoAllocationPerMessage(t *testing.T) {
	for _, write := range []bool{true, false} {
		for _, size := range []int{64, gatherMax, gatherMax + 1} {
			t.Run(fmt.Sprintf("write=%v/%d", write, size), func(t *testing.T) {
				const few, more = 20_000, 200_000
				p := newPair(t, 1000*size, lanes(2))
				slices := make([]Slice, more)
				for i := range slices {
					at := uint64(i % 1000 * size)
					slices[i] = Slice{p.near.addr() + at, p.far.addr() + at, uint64(size), host{}}
				}
				allocations := func(n int) uint64 {
					var before, after runtime.MemStats
					runtime.ReadMemStats(&before)
					src, _ := post(p.peer, write, slices[:n])
					src.well(t)
					runtime.ReadMemStats(&after)
					return after.Mallocs - before.Mallocs
				}
				allocations(more) // opens the lanes, and fills what grows
				a, b := allocations(few), allocations(more)
				t.Logf("%d allocations for %d slices, %d for %d", a, few, b, more)
				require.Less(t, b, a+uint64(more-few)/quantum, "one for each message, or more")
			})
		}
	}
}

// A peer that vanishes in mid-message without a word, and comes back under the same
// address: the slices reach the new connection whole.
func TestResetInMidMessage(t *testing.T) {
	var conns atomic.Int64
	m := newMosaic(t, 1, 4<<20)
	to := m.server.listener.Addr().String()
	addr := startScript(t, func(n int, c *net.TCPConn) {
		conns.Add(1)
		far, err := net.Dial("tcp", to)
		if err != nil {
			return
		}
		defer far.Close()
		go io.Copy(c, far)
		if n == 0 { // the connection is reset at both ends, in the middle
			io.CopyN(far, c, 1_500_000)
			reset(far.(*net.TCPConn))
			reset(c)
			return
		}
		io.Copy(far, c)
	}).addr
	near := newArena(t, 4<<20)
	near.fill(1)
	slices := row(host{}, near.addr(), m.addr(), 2000, 1000, 2000)
	src, _ := post(startPeer(t, addr, many, lanes(1)), true, slices)
	src.well(t)
	same(t, slices)
	require.EqualValues(t, 2, conns.Load())
}
