package tcp

import (
	"context"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// A connection that ends in the middle is replaced once, and nothing is confirmed
// twice.
func TestClientSendsAgainAfterABreak(t *testing.T) {
	for name, end := range map[string]func(c *net.TCPConn){
		"closed":                 func(c *net.TCPConn) {},
		"reset":                  reset,
		"closed within a status": func(c *net.TCPConn) { c.Write(okBytes[:5]) },
	} {
		t.Run(name, func(t *testing.T) {
			both(t, func(t *testing.T, write bool) {
				s := newScripted(t, 1<<20, func(n int, c *net.TCPConn) {
					if n == 0 {
						honest(c, 10)
						end(c)
						return
					}
					honest(c, -1)
				}, lanes(1))
				slices := s.row(200, 1000, 2000)
				src, _ := post(s.peer, write, slices)
				src.well(t)
				same(t, slices)
				_, resent := src.counts()
				require.Positive(t, resent)
				require.LessOrEqual(t, resent, 200)
				require.EqualValues(t, 2, s.accepted.Load())
			})
		})
	}
}

func TestClientReadsShort(t *testing.T) {
	s := newScripted(t, 4<<20, func(n int, c *net.TCPConn) {
		if n == 0 {
			h, _ := receive(c)
			c.Write(okBytes)
			c.Write(make([]byte, h.size/2))
			return
		}
		honest(c, -1)
	})
	for _, size := range []int{100, 2 << 20} {
		s.accepted.Store(0)
		slices := s.row(1, size, size)
		src, _ := post(s.peer, false, slices)
		src.well(t)
		same(t, slices)
	}
}

func TestClientGivesUpAfterTheSecondBreak(t *testing.T) {
	for name, serve := range map[string]func(n int, c *net.TCPConn){
		"at once":         func(n int, c *net.TCPConn) {},
		"with a reset":    func(n int, c *net.TCPConn) { reset(c) },
		"after a request": func(n int, c *net.TCPConn) { receive(c) },
		"unasked answer": func(n int, c *net.TCPConn) {
			c.Write(okBytes)
			c.CloseWrite()
			honest(c, 0)
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScripted(t, 1<<20, serve)
			src, _ := post(s.peer, true, s.row(100, 1000, 2000))
			end := src.end(t)
			require.ErrorIs(t, end.Err, ErrPeer)
			require.True(t, end.Quiet)
			require.LessOrEqual(t, s.accepted.Load(), int64(12), "dialled on and on")
		})
	}
}

func TestClientRefusesWrongAnswers(t *testing.T) {
	for name, answer := range map[string]string{
		"magic":   "\x00\x00\x00\x00\x00\x00\x00\x00",
		"status":  "\x05\x00\x00\x00VTCM",
		"payload": "some bytes of a read that a version 1 server took it for",
	} {
		t.Run(name, func(t *testing.T) {
			both(t, func(t *testing.T, write bool) {
				s := newScripted(t, 1<<20, func(n int, c *net.TCPConn) {
					receive(c)
					c.Write([]byte(answer))
					honest(c, 0)
					c.CloseWrite()
				})
				src, _ := post(s.peer, write, s.row(1, 1000, 2000))
				end := src.end(t)
				require.ErrorIs(t, end.Err, ErrProtocol)
				require.True(t, end.Quiet)
				require.EqualValues(t, 1, s.accepted.Load())
			})
		})
	}
}

// Local memory that cannot be accessed is the fault of its posting alone.
func TestClientMemoryFaultHitsOnePosting(t *testing.T) {
	both(t, func(t *testing.T, write bool) {
		for name, m := range map[string]Mover{"direct": host{}, "staged": newDevice(4096)} {
			t.Run(name, func(t *testing.T) {
				p := newPair(t, 8<<20, lanes(1))
				p.near.fill(1)
				slices := p.row(200, 10_000, 20_000)
				hole := newHole(t)
				guilty := append([]Slice(nil), slices[100:]...)
				guilty[50] = Slice{hole, guilty[50].Remote, 64 << 10, m}
				good, _ := post(p.peer, write, slices[:100])
				bad, _ := post(p.peer, write, guilty)
				end := bad.end(t)
				require.ErrorIs(t, end.Err, ErrMemory)
				require.True(t, end.Quiet)
				good.well(t)
				same(t, slices[:100])
			})
		}
	})
}

// newHole is the address of pages that cannot be accessed.
func newHole(t *testing.T) uint64 {
	b, err := unix.Mmap(-1, 0, 1<<20, unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	require.NoError(t, err)
	t.Cleanup(func() { unix.Munmap(b) })
	return arena(b).addr()
}

func TestClientSlowAnswers(t *testing.T) {
	s := newScripted(t, 1<<20, func(n int, c *net.TCPConn) {
		for {
			h, ok := receive(c)
			if !ok {
				return
			}
			time.Sleep(2 * time.Millisecond) // the peer's slowness is what is tested
			answer(c, h)
		}
	})
	slices := s.row(100, 1000, 2000)
	src, _ := post(s.peer, true, slices)
	src.well(t)
	same(t, slices)
}

func TestClientDialErrors(t *testing.T) {
	l := listen(t, "127.0.0.1:0")
	addr := l.Addr().String()
	l.Close()
	p := startPeer(t, addr)
	slices := []Slice{{1 << 20, 1 << 20, 1, host{}}}
	began := time.Now()
	src, _ := post(p, true, slices)
	end := src.end(t)
	require.ErrorIs(t, end.Err, ErrPeer)
	require.ErrorIs(t, end.Err, unix.ECONNREFUSED)
	require.True(t, end.Quiet)
	require.Less(t, time.Since(began), time.Second)

	s := newServed(t, 4096)
	for target, want := range map[Instance]error{{9}: ErrRestarted, {1, 2, 3}: nil} {
		p := startPeer(t, s.server.listener.Addr().String(), func(_ *PeerConfig, d *dialer) { d.hello = &Hello{Target: target, Name: "n"} })
		src, _ := post(p, true, []Slice{{s.arena.addr(), s.arena.addr(), 1, host{}}})
		require.ErrorIs(t, src.end(t).Err, want)
	}
}

// An extra lane that cannot be had leaves the others at work.
func TestClientGoesOnWithFewerLanes(t *testing.T) {
	var dials atomic.Int64
	p := newPair(t, 64<<20, func(cfg *PeerConfig, d *dialer) {
		cfg.Dial = func(ctx context.Context) (Link, error) {
			if dials.Add(1) > 1 {
				return Link{}, ErrPeer
			}
			return d.dial(ctx)
		}
	})
	slices := p.row(512, 64<<10, 128<<10)
	src, _ := post(p.peer, true, slices)
	src.well(t)
	require.Greater(t, dials.Load(), int64(1), "never tried a second lane")
}

// A submitting thread sends some quanta, not all there are: it may be a small
// posting's, and what waits somebody else's.
func TestSubmittersWorkIsBounded(t *testing.T) {
	p := newPair(t, 4<<20)
	d := dialer{addr: p.server.listener.Addr().String(), version: 2}
	link, err := d.dial(context.Background())
	require.NoError(t, err)
	defer link.Conn.Close()
	l, err := newLane(p.peer, link) // nobody reads on it, nor writes
	require.NoError(t, err)
	p.peer.lanes = append(p.peer.lanes, l) // so that no other is opened
	src := newSource(p.row(10*quantum, 64, 64)).publish(-1)
	po := &Posting{peer: p.peer, src: src, write: true}
	p.peer.enqueue(po)
	for n := 1; n <= 3; n++ {
		require.ErrorIs(t, l.send.pump(l, false, 1), errMore)
		require.Equal(t, n*quantum, src.given)
	}
	l.kick(kickRounds)
	require.Equal(t, (3+kickRounds)*quantum, src.given)
	require.Len(t, l.wake, 1, "the writer was not asked to go on")
}
