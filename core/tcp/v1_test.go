package tcp

import (
	"context"
	"io"
	"net"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/pkg/errors"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// Old servers close after each request, later ones keep the connection.
func TestVersion1BothKindsOfServer(t *testing.T) {
	for name, requests := range map[string]int{"closing": 1, "keeping": -1} {
		t.Run(name, func(t *testing.T) {
			both(t, func(t *testing.T, write bool) {
				s := newScripted(t, 1<<20, func(n int, c *net.TCPConn) { honest(c, requests) }, version1)
				slices := scattered(host{}, s.near.addr(), s.far.addr(), 50, 5000, 1)
				src, _ := post(s.peer, write, slices)
				end := src.well(t)
				require.Equal(t, write, end.Unconfirmed)
				same(t, slices)
				require.EqualValues(t, 50, s.accepted.Load())
			})
		})
	}
}

func TestVersion1AgainstOurServer(t *testing.T) {
	both(t, func(t *testing.T, write bool) {
		const n, size = 2000, 600
		p := newPair(t, 2*n*size, version1)
		from, to := p.ways(write)
		from.fill(1)
		to.poison(0xA5)
		slices := scattered(host{}, p.near.addr(), p.far.addr(), n, size, 3)
		src, _ := post(p.peer, write, slices)
		src.well(t)
		moved(t, slices, from, to, write, 0xA5)
		require.Less(t, p.server.Connections(), n/2)
	})
}

// Postings that come as workers go are not forgotten.
func TestVersion1Windows(t *testing.T) {
	p := newPair(t, 1<<20, version1)
	p.near.fill(1)
	slices := p.row(200, 100, 200)
	src := newSource(slices)
	po := p.peer.Post(true, src)
	for i := range slices {
		src.publish(1)
		po.Kick()
		if i%3 == 0 {
			eventually(t, "the slice", func() bool { done, _ := src.counts(); return done == i+1 })
		}
	}
	po.Seal()
	require.True(t, src.well(t).Unconfirmed)
	same(t, slices)
	p.peer.mu.Lock()
	defer p.peer.mu.Unlock()
	require.LessOrEqual(t, len(po.on), defaultLanes)
}

// Version 1 rejects by closing, for whatever reason: tried once more, then an error.
func TestVersion1Rejection(t *testing.T) {
	const size = 1 << 20
	for name, serve := range map[string]func(n int, c *net.TCPConn){
		"closed at once":       func(n int, c *net.TCPConn) {},
		"closed on the header": func(n int, c *net.TCPConn) { io.ReadFull(c, make([]byte, HeaderSize)) },
		"reset":                func(n int, c *net.TCPConn) { io.ReadFull(c, make([]byte, HeaderSize)); reset(c) },
	} {
		t.Run(name, func(t *testing.T) {
			both(t, func(t *testing.T, write bool) {
				s := newScripted(t, size, serve, version1)
				src, _ := post(s.peer, write, s.row(1, size, size))
				end := src.end(t)
				require.ErrorIs(t, end.Err, ErrPeer)
				require.ErrorContains(t, end.Err, "not registered")
				require.True(t, end.Quiet)
				require.EqualValues(t, 2, s.accepted.Load())
			})
		})
	}
	t.Run("ours", func(t *testing.T) {
		both(t, func(t *testing.T, write bool) {
			p := newPair(t, 2*size, version1)
			slices := p.row(1, size, size)
			slices[0].Remote = p.far.end() - 1
			src, _ := post(p.peer, write, slices)
			end := src.end(t)
			require.ErrorIs(t, end.Err, ErrPeer)
			require.True(t, end.Quiet)
			require.True(t, p.far.all(0))
		})
	})
}

// An end in order, followed by a reset, is not a write that was taken.
func TestVersion1CloseBeforeThePayload(t *testing.T) {
	d := newDevice(4096) // its header and payload leave separately
	gate := make(chan struct{}, 2)
	s := newScripted(t, 4096, func(n int, c *net.TCPConn) {
		io.ReadFull(c, make([]byte, HeaderSize))
		c.Close()
		gate <- struct{}{}
	}, version1)
	src, _ := post(s.peer, true, []Slice{{d.base, s.far.addr(), 1000, &gated{d, gate}}})
	end := src.end(t)
	require.ErrorIs(t, end.Err, ErrPeer)
	require.True(t, end.Quiet)
}

// gated is memory whose loads wait for the gate.
type gated struct {
	*device
	gate chan struct{}
}

func (g *gated) Load(p []byte, addr uint64) error {
	<-g.gate
	return g.device.Load(p, addr)
}

func TestVersion1Break(t *testing.T) {
	s := newScripted(t, 4<<20, func(n int, c *net.TCPConn) {
		if n == 1 {
			h := header{}
			var b [HeaderSize]byte
			io.ReadFull(c, b[:])
			h = parseHeader(b[:])
			c.Write(hostBytes(h.addr, int(h.size/2)))
			return
		}
		honest(c, -1)
	}, version1)
	slices := s.row(4, 1<<20, 1<<20)
	src, _ := post(s.peer, false, slices)
	src.well(t)
	same(t, slices)
	_, resent := src.counts()
	require.Equal(t, 1, resent)
}

// Stopped while the peer hangs, in whatever phase.
func TestVersion1Stop(t *testing.T) {
	for name, serve := range map[string]func(c *net.TCPConn, gate chan struct{}){
		"before it reads": func(c *net.TCPConn, gate chan struct{}) { <-gate },
		"in the middle": func(c *net.TCPConn, gate chan struct{}) {
			io.ReadFull(c, make([]byte, HeaderSize))
			c.Write([]byte{1, 2, 3})
			<-gate
		},
	} {
		t.Run(name, func(t *testing.T) {
			both(t, func(t *testing.T, write bool) {
				gate := make(chan struct{})
				s := newScripted(t, 16<<20, func(n int, c *net.TCPConn) { serve(c, gate) }, version1)
				t.Cleanup(func() { close(gate) })
				src, po := post(s.peer, write, s.row(6, 2560<<10, 2560<<10))
				eventually(t, "the connections", func() bool { return s.accepted.Load() == defaultLanes })
				began := time.Now()
				po.Stop(errStop)
				end := src.end(t)
				require.ErrorIs(t, end.Err, errStop)
				require.False(t, end.Quiet)
				require.Less(t, time.Since(began), 1500*time.Millisecond)
			})
		})
	}
}

// Stopped while dialling: what is connected afterwards must not be used.
func TestVersion1StopWhileDialling(t *testing.T) {
	gate := make(chan struct{})
	var dials atomic.Int64
	s := newScripted(t, 4096, func(n int, c *net.TCPConn) { honest(c, -1) }, version1, func(cfg *PeerConfig, d *dialer) {
		cfg.Dial = func(ctx context.Context) (Link, error) {
			dials.Add(1)
			<-gate
			return d.dial(ctx)
		}
	})
	src, po := post(s.peer, true, s.row(1, 4096, 4096))
	eventually(t, "the dial", func() bool { return dials.Load() == 1 })
	keep := append([]byte(nil), s.far...)
	po.Stop(errStop)
	time.AfterFunc(2*quiesceDrain, func() { close(gate) }) // after the attempt to interrupt it
	end := src.end(t)
	require.ErrorIs(t, end.Err, errStop)
	require.True(t, end.Quiet)
	s.peer.Close()
	require.Equal(t, keep, []byte(s.far))
}

// No port to connect from: waited for, unless the posting has to end.
func TestVersion1WaitsForPorts(t *testing.T) {
	var fail atomic.Int64
	none := &dialError{errors.WithStack(syscall.Errno(unix.EADDRNOTAVAIL))}
	s := newScripted(t, 4096, func(n int, c *net.TCPConn) { honest(c, -1) }, version1, func(cfg *PeerConfig, d *dialer) {
		cfg.Dial = func(ctx context.Context) (Link, error) {
			if fail.Add(-1) >= 0 {
				return Link{}, none
			}
			return d.dial(ctx)
		}
	})
	fail.Store(3)
	src, _ := post(s.peer, true, s.row(1, 100, 100))
	src.well(t)
	fail.Store(1 << 40)
	src, po := post(s.peer, true, s.row(1, 100, 100))
	po.Stop(errStop)
	require.ErrorIs(t, src.end(t).Err, errStop)
}

// Progress is bounded, not the whole slice.
func TestVersion1SlowPeerIsServed(t *testing.T) {
	const size = 64 << 10
	s := newScripted(t, size, func(n int, c *net.TCPConn) {
		var b [HeaderSize]byte
		io.ReadFull(c, b[:])
		h := parseHeader(b[:])
		for at := 0; at < size; at += size / 8 {
			time.Sleep(100 * time.Millisecond) // the peer's slowness is what is tested
			c.Write(hostBytes(h.addr+uint64(at), size/8))
		}
	}, version1, func(cfg *PeerConfig, _ *dialer) { cfg.StallTimeout = 400 * time.Millisecond })
	slices := s.row(1, size, size)
	src, _ := post(s.peer, false, slices)
	src.well(t)
	same(t, slices)
}
