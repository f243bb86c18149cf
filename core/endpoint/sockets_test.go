package endpoint

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"mooncake/core/metadata"
)

// listening starts a node whose messages go through real sockets.
func listening(w *world) *node {
	var n *node
	ready := make(chan struct{})
	server, err := metadata.Listen(metadata.ServerConfig{MinPort: 20000, MaxPort: 40000}, metadata.Handlers{
		Connection: func(m metadata.ConnectionRequest) metadata.ConnectionReply {
			<-ready
			return *n.store.Answer(&m)
		}})
	require.NoError(w.t, err)
	w.t.Cleanup(func() { server.Close() })
	n = w.node(fmt.Sprintf("127.0.0.1:%d", server.Port()), throughSockets)
	close(ready)
	return n
}

func throughSockets(cfg *Config) { cfg.Ask = (&metadata.Client{}).Connect }

func TestOverSockets(t *testing.T) {
	w := newWorld(t)
	a, b := listening(w), listening(w)
	e := connected(t, a, b.ours())
	require.True(t, w.fabric.linked(e.Queues()))
	up := connected(t, b, a.upstream())
	require.True(t, w.fabric.linked(up.Queues()))
	refused(t, w.node("c:1", throughSockets), Target{b.session, "b@none", b.instance}, ErrRejected, "peer_nic_path")
	met, err := b.store.Fence(within(t, patience), Identity{Names: []string{a.session}})
	require.NoError(t, err)
	require.True(t, met)
	<-e.Done()
	require.ErrorIs(t, e.Err(), ErrPeerClosed)
	e = connected(t, a, b.ours())
	require.EqualValues(t, 1, e.Fenced())
	require.True(t, e.Retire(within(t, patience)))
	empty(t, b)
}

// More at once than a server has room for: it turns some away, and they come again.
func TestManyPeersOverSockets(t *testing.T) {
	w := newWorld(t)
	hub := listening(w)
	hub.lasts = 2 * time.Millisecond
	spokes := make([]*node, 400)
	for i := range spokes {
		spokes[i] = w.node(fmt.Sprintf("spoke%d:1", i), throughSockets)
	}
	begun := time.Now()
	var all sync.WaitGroup
	for _, n := range spokes {
		all.Go(func() {
			e, err := n.store.Connect(t.Context(), hub.ours())
			if err != nil {
				t.Errorf("%s: %v", n.session, err)
				return
			}
			if !w.fabric.linked(e.Queues()) {
				t.Errorf("%s is not connected", n.session)
			}
		})
	}
	all.Wait()
	require.Less(t, time.Since(begun), patience)
	require.Equal(t, len(spokes), hub.store.Len())
}
