package endpoint

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"mooncake/core/metadata"
)

func fenced(t *testing.T, n *node, who Identity) {
	t.Helper()
	met, err := n.store.Fence(within(t, patience), who)
	require.NoError(t, err)
	require.True(t, met)
}

// After Fence the peer's queue pairs here are gone, nobody else's are, the peer learns
// of it, and when it connects again also since when.
func TestFence(t *testing.T) {
	for name, who := range map[string]func(a *node) Identity{
		"by instance": func(a *node) Identity { return Identity{Instance: a.instance} },
		"by session":  func(a *node) Identity { return Identity{Names: []string{"x", "a:1"}} },
		"by server":   func(a *node) Identity { return Identity{Names: []string{"192.0.2.1:5"}} },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			var counted atomic.Uint64
			a := w.node("a:1", func(cfg *Config) { cfg.Server, cfg.Session = "192.0.2.1:5", "a:1" })
			b := w.node("b:1", func(cfg *Config) { cfg.Fenced = func() { counted.Add(1) } })
			c := w.node("c:1")
			e, other := connected(t, a, b.ours()), connected(t, c, b.ours())
			up, back := connected(t, c, b.upstream()), connected(t, b, a.ours())
			require.Zero(t, e.Fenced())
			passive := w.fabric.of(b.port, e.Queues().Numbers())
			fenced(t, b, who(a))
			require.True(t, isClosed(passive[0]))
			require.EqualValues(t, 1, b.store.Fences())
			require.EqualValues(t, 1, counted.Load())
			select {
			case <-e.Done():
			case <-time.After(patience):
				t.Fatal("the initiator was not told")
			}
			require.ErrorIs(t, e.Err(), ErrPeerClosed)
			next := connected(t, a, b.ours())
			require.EqualValues(t, 1, next.Fenced())
			require.True(t, w.fabric.linked(next.Queues()))
			for _, e := range []*Endpoint{other, up, back} {
				require.NoError(t, e.Err())
				require.True(t, w.fabric.linked(e.Queues()))
			}
			require.True(t, other.Retire(within(t, patience)))
			require.Zero(t, connected(t, c, b.ours()).Fenced())
		})
	}
}

// A peer that connects as upstream does is fenced by its server's name; the endpoint
// serves both directions, so this side's requests on it end as well.
func TestFenceUpstream(t *testing.T) {
	w := newWorld(t)
	a := w.node("a:1")
	scripted(w, fits)
	require.Empty(t, a.store.Answer(request(1)).ReplyMsg)
	require.Empty(t, a.store.Answer(ackOf(request(1))).ReplyMsg)
	e := connected(t, a, toThem)
	fenced(t, a, Identity{Names: []string{"b:1"}, Instance: a.instance})
	require.ErrorIs(t, e.Err(), ErrFenced)
	require.True(t, isClosed(e.Queues()))
	empty(t, a)
	fenced(t, a, Identity{Names: []string{"b:1"}})
	met, err := a.store.Fence(within(t, patience), Identity{Names: []string{"b:2"}})
	require.NoError(t, err)
	require.False(t, met)
	require.EqualValues(t, 3, a.store.Fences())
	require.NoError(t, connected(t, a, toThem).Err())
}

// A fence in the middle of a connect that is being answered: what the peer gets says
// that it was fenced off, and the queue pairs are not those from before.
func TestFenceWhileAnswering(t *testing.T) {
	for name, ours := range map[string]bool{"ours": true, "upstream": false} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			a, b := w.node("a:1"), w.node("b:1")
			making, goOn := make(chan struct{}, 4), make(chan struct{})
			open := sync.OnceFunc(func() { close(goOn) })
			t.Cleanup(open)
			b.create = func() error { making <- struct{}{}; <-goOn; return nil }
			target := b.upstream()
			if ours {
				target = b.ours()
			}
			outcome := make(chan *Endpoint)
			go func() { defer close(outcome); outcome <- connected(t, a, target) }()
			<-making
			done := make(chan error)
			go func() {
				_, err := b.store.Fence(within(t, patience), Identity{Names: []string{"a:1"}})
				done <- err
			}()
			eventually(t, "the fence to be counted", func() bool { return b.store.Fences() == 1 })
			select {
			case <-done:
				t.Fatal("the queue pairs were still being made")
			case <-time.After(20 * time.Millisecond):
			}
			open()
			require.NoError(t, <-done)
			e := <-outcome
			require.NotNil(t, e)
			require.True(t, w.fabric.linked(e.Queues()))
			require.Len(t, b.made, 2)
			require.True(t, isClosed(b.made[0]))
			if ours {
				require.EqualValues(t, 1, e.Fenced())
			}
		})
	}
}

// Fence gives up with its context, having begun.
func TestFenceWaitsForTheHardware(t *testing.T) {
	w := newWorld(t)
	a, b := w.node("a:1"), w.node("b:1")
	open := b.shut(t)
	connected(t, a, b.ours())
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	met, err := b.store.Fence(ctx, Identity{Instance: a.instance})
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.True(t, met)
	// Another one waits for what is on its way out already.
	ctx, cancel = context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	_, err = b.store.Fence(ctx, Identity{Names: []string{"a:1"}})
	require.ErrorIs(t, err, context.DeadlineExceeded)
	open()
	fenced(t, b, Identity{Instance: a.instance})
	empty(t, b)
}

// Stores of one engine have one count.
func TestFencesAreShared(t *testing.T) {
	w := newWorld(t)
	count := &atomic.Uint64{}
	share := func(cfg *Config) { cfg.Fences = count }
	a, b := w.node("a:1", share), w.node("b:1", share)
	c := w.node("c:1")
	_, err := a.store.Fence(within(t, patience), Identity{})
	require.NoError(t, err)
	fenced := Identity{Instance: c.instance}
	_, err = b.store.Fence(within(t, patience), fenced)
	require.NoError(t, err)
	require.EqualValues(t, 2, a.store.Fences())
	require.EqualValues(t, 2, connected(t, c, b.ours()).Fenced(), "also who was never met")
	require.Zero(t, connected(t, c, a.ours()).Fenced())
}

// What is remembered of peers is bounded, and forgetting errs on the safe side: who was
// fenced off stays so.
func TestMemoryIsBounded(t *testing.T) {
	w := newWorld(t)
	const more = 50
	b := w.node("b:1", func(cfg *Config) { cfg.MaxEndpoints, cfg.morePeers = 1, more })
	first := fmt.Sprintf("%032x", 1<<40)
	b.store.Fence(within(t, patience), Identity{Instance: first})
	for i := range 3 * more {
		who := fmt.Sprintf("%032x", i+1000)
		m := &metadata.ConnectionMessage{LocalNICPath: who + "@x", Extension: &metadata.ConnectionExtension{
			Version: 1, Kind: kindRetire, Instance: who, Target: b.instance, Connection: 5}}
		require.Empty(t, b.store.Answer(m).ReplyMsg)
		b.store.answering("s" + who + "@x")
		b.store.Fence(context.Background(), Identity{Instance: who})
	}
	b.store.mu.Lock()
	defer b.store.mu.Unlock()
	for what, n := range map[string]int{"peers": len(b.store.peers), "current": len(b.store.current), "fenced": len(b.store.fenced), "heard": len(b.store.heard)} {
		require.LessOrEqual(t, n, more+1, what)
	}
	require.GreaterOrEqual(t, b.store.fencedAt(first), uint64(1))
}
