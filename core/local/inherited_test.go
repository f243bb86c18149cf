package local

import (
	"net"
	"testing"

	"github.com/stretchr/testify/require"
)

// inherit keeps a socket open as a child does that was forked meanwhile.
func inherit(t testing.TB, socket *net.UnixConn) {
	f, err := socket.File()
	require.NoError(t, err)
	t.Cleanup(func() { f.Close() })
}

// connOf is the target's side of the only connection.
func connOf(t testing.TB, s *Server) *conn {
	all := s.snapshot(func(client) bool { return true })
	require.Len(t, all, 1)
	return all[0].(*conn)
}

// A child of the initiator has the connection's socket, too. Closing ends the
// connection all the same.
func TestClosedThoughAChildHasTheSocket(t *testing.T) {
	each(t, waysBetween, func(t *testing.T, w way, write bool) {
		p := newPair(t, w, 1<<20)
		moved(t, p.peer, write, p.scattered(100, 512))
		inherit(t, p.peer.remote.socket)
		p.peer.Close()
		eventually(t, "the connection to end", func() bool { return p.server.Connections() == 0 })
	})
}

// Nor does a child of the target keep initiators waiting for a ring that nobody serves.
func TestTargetClosedThoughAChildHasTheSocket(t *testing.T) {
	each(t, waysBetween, func(t *testing.T, w way, write bool) {
		p := newPair(t, w, 1<<20)
		inherit(t, connOf(t, p.server).socket)
		p.server.Close()
		src, _ := post(p.peer, write, p.scattered(100, 512))
		end := src.end(t)
		require.ErrorIs(t, end.Err, ErrPeer)
		require.True(t, end.Quiet)
	})
}

// Nor does it look as if the target were still there.
func TestNobodyThereThoughAChildListens(t *testing.T) {
	x := startTarget(t)
	f, err := x.server.listener.File()
	require.NoError(t, err)
	defer f.Close()
	x.server.Close()
	_, err = dial(t, x.server.cfg.Instance)
	require.ErrorIs(t, err, ErrElsewhere)
}
