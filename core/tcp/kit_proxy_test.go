package tcp

import (
	"context"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// startProxy forwards connections to a server in pieces of at most most bytes, of
// random length, each handed on as it is. It returns its address.
func startProxy(t testing.TB, to string, most int) string {
	return startScript(t, func(n int, c *net.TCPConn) {
		far, err := net.Dial("tcp", to)
		if err != nil {
			return
		}
		defer far.Close()
		var wg sync.WaitGroup
		wg.Go(func() { inPieces(far.(*net.TCPConn), c, most, uint64(2*n)) })
		wg.Go(func() { inPieces(c, far.(*net.TCPConn), most, uint64(2*n+1)) })
		wg.Wait()
	}).addr
}

// inPieces copies a stream, and its end.
func inPieces(to, from *net.TCPConn, most int, seed uint64) {
	defer to.CloseWrite()
	defer from.CloseRead()
	r := rand.New(rand.NewPCG(seed, 5))
	buf := make([]byte, most)
	for {
		n, err := from.Read(buf[:1+r.IntN(most)])
		if err != nil {
			return
		}
		if _, err := to.Write(buf[:n]); err != nil {
			return
		}
	}
}

// tinyBuffer is the size of small socket buffers. With smaller ones the kernel closes
// its window over the overhead of each packet, and probes it seconds apart.
const tinyBuffer = 16 << 10

// tiny gives a socket small buffers.
func tiny(_, _ string, raw syscall.RawConn) error {
	return raw.Control(func(fd uintptr) {
		unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUF, tinyBuffer)
		unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, tinyBuffer)
	})
}

// startTinyServer is startServer with such sockets.
func startTinyServer(t testing.TB, mem Memory) *Server {
	lc := net.ListenConfig{Control: tiny}
	l, err := lc.Listen(context.Background(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s := NewServer(l, ServerConfig{Memory: mem, Log: quietLog, Instance: theirs})
	t.Cleanup(s.Close)
	return s
}

// tinyDial makes a peer use such sockets.
func tinyDial(cfg *PeerConfig, d *dialer) {
	cfg.Dial = func(ctx context.Context) (Link, error) {
		nd := net.Dialer{Control: tiny}
		conn, err := nd.DialContext(ctx, "tcp", d.addr)
		if err != nil {
			return Link{}, err
		}
		g, err := Greet(ctx, conn, *d.hello)
		if err != nil {
			conn.Close()
			return Link{}, err
		}
		return Link{Conn: conn.(*net.TCPConn), Version: 2, Many: true, Fenced: g.Fenced}, nil
	}
}

// gate is a place at which a script or memory waits until the test lets it go on. A
// test opens it in a cleanup made after that of whoever waits for the one who waits.
type gate struct {
	c    chan struct{}
	once sync.Once
}

func newGate() *gate { return &gate{c: make(chan struct{})} }

func (g *gate) open() { g.once.Do(func() { close(g.c) }) }
func (g *gate) wait() { <-g.c }

// swallow reads until the other end closes.
func swallow(c net.Conn) { io.Copy(io.Discard, c) }
