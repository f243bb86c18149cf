package endpoint

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// GIDs of a port that has two.
var oneGID, otherGID = GID{15: 101}, GID{15: 102}

// twoAddressed makes a node with two addresses that uses the first one; peers can be
// reached from the other one only.
func (w *world) twoAddressed(session string, peers ...*node) *node {
	n := w.node(session)
	n.here.GID = oneGID
	n.routes = map[GID][]GID{oneGID: {}, otherGID: {}}
	for _, p := range peers {
		n.routes[otherGID] = append(n.routes[otherGID], p.here.GID)
	}
	return n
}

// An initiator whose address does not reach the peer connects with another one: in
// a handshake of its own, in which the peer hears of that. The next one begins with it.
func TestInitiatorTakesAnotherAddress(t *testing.T) {
	for name, to := range map[string]func(n *node) Target{"ours": (*node).ours, "upstream": (*node).upstream} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			b, c := w.node("b:1"), w.node("c:1")
			a := w.twoAddressed("a:1", b, c)
			e := connected(t, a, to(b))
			require.True(t, w.fabric.linked(e.Queues()))
			require.Equal(t, otherGID, e.Queues().Address().GID)
			require.Len(t, a.made, 2)
			eventually(t, "the first queue pairs to be given back at both ends", func() bool { return w.fabric.count() == 2 })
			there := w.fabric.of(b.port, e.Queues().Numbers())
			require.Len(t, there, 1)
			require.Equal(t, otherGID, there[0].remote.GID)
			connected(t, a, to(c))
			require.Len(t, a.made, 3, "no other try")
		})
	}
}

// A responder has not said where it is before it is connected, so it needs no other
// message.
func TestResponderTakesAnotherAddress(t *testing.T) {
	for name, to := range map[string]func(n *node) Target{"ours": (*node).ours, "upstream": (*node).upstream} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			a := w.node("a:1")
			b := w.twoAddressed("b:1", a)
			e := connected(t, a, to(b))
			require.True(t, w.fabric.linked(e.Queues()))
			require.Equal(t, otherGID, e.Queues().(*queues).remote.GID)
			require.Len(t, a.made, 1)
			require.Len(t, b.made, 2)
			asked := 1
			if name == "upstream" {
				asked = 2 // with its ack
			}
			require.Len(t, w.net.kinds(), asked)
		})
	}
}

// A port that is connected to itself.
func TestItselfTakesAnotherAddress(t *testing.T) {
	w := newWorld(t)
	a := w.twoAddressed("a:1")
	a.routes[otherGID] = []GID{otherGID}
	a.routes[oneGID] = nil
	_, err := a.store.Connect(within(t, patience), a.ours())
	require.ErrorIs(t, err, ErrDevice)
	require.ErrorContains(t, err, "none of 2 addresses")
	a.routes[otherGID] = []GID{oneGID, otherGID}
	connected(t, a, a.ours())
	require.Len(t, a.made, 3)
}

// A peer that no address reaches: the error says what the hardware says, at the
// initiator, and by its reply at the responder's peer.
func TestNoAddressReachesThePeer(t *testing.T) {
	w := newWorld(t)
	b := w.node("b:1")
	a := w.twoAddressed("a:1")
	for _, to := range []Target{b.ours(), b.upstream()} {
		refused(t, a, to, ErrNoRoute, "none of 2 addresses", b.store.Path())
	}
	c := w.node("c:1")
	for _, to := range []Target{a.ours(), a.upstream()} {
		refused(t, c, to, ErrRejected, "none of 2 addresses")
	}
	require.Equal(t, oneGID, a.here.GID)
}

// Both ends learn what the other's port takes, from peers that say it.
func TestPathMTU(t *testing.T) {
	w := newWorld(t)
	a, b := w.node("a:1"), w.node("b:1")
	a.here.MTU, b.here.MTU = 4096, 1024
	e := connected(t, a, b.ours())
	require.Equal(t, 1024, e.Queues().(*queues).remote.MTU)
	require.Equal(t, 4096, w.fabric.of(b.port, e.Queues().Numbers())[0].remote.MTU)
	e = connected(t, a, b.upstream())
	require.Zero(t, e.Queues().(*queues).remote.MTU)
}
