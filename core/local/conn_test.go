package local

import (
	"context"
	"net"
	"os"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// connected is the two ends of a connection that no server knows of.
func connected(t testing.TB) (ends [2]*net.UnixConn) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "end")
		c, err := net.FileConn(f)
		require.NoError(t, err)
		f.Close()
		t.Cleanup(func() { c.Close() })
		ends[i] = c.(*net.UnixConn)
	}
	return ends
}

// Whoever hangs up during the handshake, which limits the time of every step, is heard.
func TestHungUpDuringTheHandshake(t *testing.T) {
	x := startTarget(t)
	ends := connected(t)
	c := &conn{server: x.server, socket: ends[0]}
	c.hangUp()
	client := &Remote{cfg: DialConfig{Target: x.server.cfg.Instance, Log: quietLog}, socket: ends[1]}
	go client.handshake()
	ended := make(chan struct{})
	x.server.wg.Add(1)
	go func() {
		c.run()
		close(ended)
	}()
	eventually(t, "the connection to end", func() bool {
		select {
		case <-ended:
			return true
		default:
			return false
		}
	})
}

// Memory comes and goes, and peers are fenced off, while others connect.
func TestChangesDuringHandshakes(t *testing.T) {
	x := startTarget(t)
	arena := newArena(t, 1<<20)
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for _, change := range []func(){
		func() { x.deregister(x.register(arena.addr(), arena.end(), true)) },
		func() { x.server.Fence(context.Background(), Identity{Instance: Instance{7}}) },
		func() { x.server.Moved() },
	} {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for {
				select {
				case <-stop:
					return
				default:
					change()
				}
			}
		}()
	}
	for range 50 {
		r, err := dial(t, x.server.cfg.Instance)
		require.NoError(t, err)
		r.close()
	}
	close(stop)
	wg.Wait()
	eventually(t, "no connection", func() bool { return x.server.Connections() == 0 })
}

// Who submits may be on its way to help while another thread closes.
func TestSubmittingWhileClosing(t *testing.T) {
	each(t, []way{remoteWay("packed", PackedOnly)}, func(t *testing.T, w way, write bool) {
		p := newPair(t, w, 32<<20)
		release := holdRings(t, p.server)
		defer release()
		src, po := post(p.peer, write, p.scattered(16<<10, 1024))
		eventually(t, "the rings to be full", func() bool { return ringsFull(p.peer) })
		p.peer.Close()
		require.ErrorIs(t, src.end(t).Err, ErrClosed)
		p.peer.share(po) // as from a kick that was preempted before
	})
}
