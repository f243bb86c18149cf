package tcp

import (
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

// script is a server that does with each connection what a test says.
type script struct {
	addr     string
	accepted atomic.Int64
	wg       sync.WaitGroup

	mu     sync.Mutex // guards conns
	conns  []net.Conn
	closed bool
}

// startScript serves connection n, counted from 0, with serve, and closes it when
// that returns.
func startScript(t testing.TB, serve func(n int, c *net.TCPConn)) *script {
	l := listen(t, "127.0.0.1:0")
	s := &script{addr: l.Addr().String()}
	s.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			n := int(s.accepted.Add(1)) - 1
			s.mu.Lock()
			if s.closed {
				c.Close()
			}
			s.conns = append(s.conns, c)
			s.mu.Unlock()
			s.wg.Go(func() {
				defer c.Close()
				serve(n, c.(*net.TCPConn))
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		s.mu.Lock()
		s.closed = true
		for _, c := range s.conns {
			c.Close()
		}
		s.mu.Unlock()
		s.wg.Wait()
	})
	return s
}

// receive reads one request, and a write's payload into memory.
func receive(c net.Conn) (h header, ok bool) {
	var b [HeaderSize]byte
	if _, err := io.ReadFull(c, b[:]); err != nil {
		return h, false
	}
	h = parseHeader(b[:])
	if h.op&^flagV2 == opWrite {
		if _, err := io.ReadFull(c, hostBytes(h.addr, int(h.size))); err != nil {
			return h, false
		}
	}
	return h, true
}

// answer answers a request as the protocol says.
func answer(c net.Conn, h header) {
	if h.op&flagV2 != 0 {
		c.Write(okBytes)
	}
	if h.op&^flagV2 == opRead {
		c.Write(append([]byte(nil), hostBytes(h.addr, int(h.size))...))
	}
}

// honest serves up to n requests, n < 0 all.
func honest(c net.Conn, n int) {
	for ; n != 0; n-- {
		h, ok := receive(c)
		if !ok {
			return
		}
		answer(c, h)
	}
}

// reset makes the close that follows a reset.
func reset(c *net.TCPConn) { c.SetLinger(0) }

// scripted is two arenas and a peer of a script.
type scripted struct {
	*script
	near, far arena
	peer      *Peer
}

func newScripted(t testing.TB, size int, serve func(n int, c *net.TCPConn), set ...func(*PeerConfig, *dialer)) *scripted {
	s := &scripted{near: newArena(t, size), far: newArena(t, size)}
	s.near.fill(1)
	s.far.fill(2)
	s.script = startScript(t, serve)
	s.peer = startPeer(t, s.addr, set...)
	return s
}

func (s *scripted) row(n, size, stride int) []Slice {
	return row(host{}, s.near.addr(), s.far.addr(), n, size, stride)
}

// same checks that slices are the same bytes at both ends.
func same(t testing.TB, slices []Slice) {
	t.Helper()
	for i, s := range slices {
		if string(hostBytes(s.Local, int(s.Len))) != string(hostBytes(s.Remote, int(s.Len))) {
			require.FailNow(t, "other bytes", "slice %d", i)
		}
	}
}
