package endpoint

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pkg/errors"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func (q *queues) Use() Use {
	q.port.fabric.mu.Lock()
	defer q.port.fabric.mu.Unlock()
	return q.use
}

func (q *queues) Broken() bool {
	q.port.fabric.mu.Lock()
	defer q.port.fabric.mu.Unlock()
	return q.broken
}

// set changes what the one connection of hub to peer looks like.
func (w *world) set(hub, peer *node, change func(q *queues)) {
	w.t.Helper()
	q := w.between(hub, peer)
	require.NotNil(w.t, q)
	w.fabric.mu.Lock()
	defer w.fabric.mu.Unlock()
	change(q)
}

// between are hub's queue pairs that are connected to peer, nil if there are none.
func (w *world) between(hub, peer *node) *queues {
	for _, theirs := range w.fabric.of(peer.port, nil) {
		if own := w.fabric.of(hub.port, theirs.numbers); len(own) > 0 {
			return own[0]
		}
	}
	return nil
}

// describe answers for the nodes that are there, as their descriptors would.
func (w *world) describe(ctx context.Context, session, nic string) (Address, error) {
	w.net.mu.Lock()
	defer w.net.mu.Unlock()
	if w.net.nodes[session] != nil {
		return Address{}, nil
	}
	return Address{}, errUnreachable
}

// limits are the two ways in which there is no room: by count here, and on the device.
var limits = map[string]func(w *world, most int) func(*Config){
	"count": func(w *world, most int) func(*Config) {
		return func(cfg *Config) { cfg.MaxEndpoints, cfg.Describe = most, w.describe }
	},
	"device": func(w *world, most int) func(*Config) {
		return func(cfg *Config) {
			p := cfg.Hardware.(*port)
			cfg.Describe = w.describe
			p.create = func() error {
				if len(w.fabric.of(p, nil)) >= most {
					return errors.WithMessage(ErrNoRoom, "make a QP")
				}
				return nil
			}
		}
	},
}

// full is a hub that has as many connections as it can, to peers of either kind.
type full struct {
	*world
	hub   *node
	peers []*node
	ours  bool
}

func (f *full) target() Target {
	if f.ours {
		return f.hub.ours()
	}
	return f.hub.upstream()
}

// join connects another peer to the hub.
func (f *full) join() (*node, error) {
	n := f.node(fmt.Sprintf("n%d:1", f.births))
	_, err := f.tryFrom(n)
	return n, err
}

func (f *full) tryFrom(n *node) (*Endpoint, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return n.store.Connect(ctx, f.target())
}

// whenFull runs a test with a hub that has three connections and room for no more, for each
// limit and each kind of peers. Time is not real.
func whenFull(t *testing.T, test func(t *testing.T, f *full)) {
	for name, limit := range limits {
		for kind, ours := range map[string]bool{"ours": true, "upstream": false} {
			t.Run(name+" "+kind, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(t)
					f := &full{world: w, hub: w.node("hub:1", limit(w, 3)), ours: ours}
					for range 3 {
						n, err := f.join()
						require.NoError(t, err)
						f.peers = append(f.peers, n)
						time.Sleep(2 * time.Second)
					}
					test(t, f)
					for _, n := range w.net.nodes {
						n.store.Close()
					}
					for _, n := range f.peers {
						n.store.Close()
					}
				})
			})
		}
	}
}

// A peer that was killed gives way, and those that are there stay.
func TestAPeerThatIsGoneGivesWay(t *testing.T) {
	whenFull(t, func(t *testing.T, f *full) {
		gone := f.peers[1]
		f.crash(gone)
		late, err := f.join()
		require.NoError(t, err)
		require.NotNil(t, f.between(f.hub, late))
		assert.Nil(t, f.between(f.hub, gone))
		assert.NotNil(t, f.between(f.hub, f.peers[0]))
		assert.NotNil(t, f.between(f.hub, f.peers[2]))
		_, err = f.join()
		require.ErrorIs(t, err, ErrRejected, "all others are there")
	})
}

// Those whose queue pairs are in error give way also while their peers answer.
func TestQueuePairsInErrorGiveWay(t *testing.T) {
	whenFull(t, func(t *testing.T, f *full) {
		f.set(f.hub, f.peers[2], func(q *queues) { q.broken = true })
		_, err := f.join()
		require.NoError(t, err)
		assert.Nil(t, f.between(f.hub, f.peers[2]))
		assert.NotNil(t, f.between(f.hub, f.peers[0]))
	})
}

// What is in flight here is not given up.
func TestWhatIsInFlightDoesNotGiveWay(t *testing.T) {
	whenFull(t, func(t *testing.T, f *full) {
		for _, n := range f.peers {
			f.set(f.hub, n, func(q *queues) { q.use = Busy })
			f.crash(n)
		}
		time.Sleep(time.Hour)
		_, err := f.join()
		require.ErrorIs(t, err, ErrRejected)
		f.set(f.hub, f.peers[1], func(q *queues) { q.use = Idle })
		_, err = f.join()
		require.NoError(t, err)
		assert.Nil(t, f.between(f.hub, f.peers[1]))
	})
}

// Of peers that are all there the one gives way that connected longest ago, but none that
// has just come; one of ours is told, and connects again in its turn.
func TestTheOldestGivesWay(t *testing.T) {
	whenFull(t, func(t *testing.T, f *full) {
		_, err := f.join()
		require.ErrorIs(t, err, ErrRejected, "nobody was there for long")
		require.ErrorContains(t, err, map[bool]string{true: "MC_MAX_EP_PER_CTX", false: "QP"}[f.hub.store.cfg.MaxEndpoints == 3])
		f.set(f.hub, f.peers[0], func(q *queues) { q.use = Idle }) // somebody posts to it at times
		e, err := f.tryFrom(f.peers[1])
		require.NoError(t, err)
		time.Sleep(settledFor)
		_, err = f.join()
		require.NoError(t, err)
		assert.NotNil(t, f.between(f.hub, f.peers[0]))
		assert.Nil(t, f.between(f.hub, f.peers[1]))
		assert.NotNil(t, f.between(f.hub, f.peers[2]))
		if !f.ours {
			return
		}
		synctest.Wait()
		require.ErrorIs(t, e.Err(), ErrPeerClosed)
		again, err := f.tryFrom(f.peers[1])
		require.NoError(t, err)
		require.True(t, f.fabric.linked(again.Queues()))
		assert.Nil(t, f.between(f.hub, f.peers[2]))
	})
}

// Another process at a peer's address is not that peer.
func TestAPeerThatRestartedGivesWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		f := &full{world: w, hub: w.node("hub:1", limits["count"](w, 1)), ours: true}
		old, err := f.join()
		require.NoError(t, err)
		w.crash(old)
		next := w.node(old.session)
		time.Sleep(2 * time.Second)
		late, err := f.join()
		require.NoError(t, err)
		require.NotNil(t, w.between(f.hub, late))
		for _, n := range []*node{f.hub, old, next, late} {
			n.store.Close()
		}
	})
}

// Many come at once: as many get room as others leave, and no more; the store can be
// closed meanwhile.
func TestManyWaitForRoom(t *testing.T) {
	whenFull(t, func(t *testing.T, f *full) {
		for _, n := range f.peers {
			f.crash(n)
		}
		var nodes []*node
		for range 6 {
			nodes = append(nodes, f.node(fmt.Sprintf("n%d:1", f.births)))
		}
		var all sync.WaitGroup
		var mu sync.Mutex
		connected := 0
		for _, n := range nodes {
			all.Go(func() {
				if _, err := f.tryFrom(n); err == nil {
					mu.Lock()
					defer mu.Unlock()
					connected++
				}
			})
		}
		all.Wait()
		assert.Equal(t, 3, connected)
		synctest.Wait()
		assert.Equal(t, 3, f.hub.store.Len())
		assert.Len(t, f.fabric.of(f.hub.port, nil), 3)
		time.Sleep(2 * time.Second)
		for _, n := range nodes {
			f.crash(n)
		}
		late := f.node("late:1")
		go f.tryFrom(late)
		f.hub.store.Close()
		require.Empty(t, f.fabric.of(f.hub.port, nil))
	})
}
