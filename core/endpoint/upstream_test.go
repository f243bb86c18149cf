package endpoint

import (
	"context"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pkg/errors"
	"github.com/stretchr/testify/require"

	"mooncake/core/metadata"
)

type message = metadata.ConnectionMessage

func truth(is bool) *bool { return &is }

// scripted answers every message of a test's node by itself.
func scripted(w *world, answer func(m *message) *message) *[]message {
	var mu sync.Mutex
	var heard []message
	w.net.carry = func(_ context.Context, _ string, m *message, _ func() (*message, error)) (*message, error) {
		mu.Lock()
		heard = append(heard, *m)
		mu.Unlock()
		reply := answer(m)
		if reply != nil && reply.ReplyMsg != "" {
			return reply, errors.WithMessage(metadata.ErrRejected, reply.ReplyMsg)
		}
		return reply, nil
	}
	return &heard
}

const (
	theirGID = "0:0:0:0:0:0:0:0:0:0:FF:ff:c0:0:2:1"
	theirs   = "b:1@mlx5_1"
	ourGID   = "00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:01"
)

var toThem = Target{"b:1", theirs, ""}

// fits is an answer of upstream that is as it should be.
func fits(m *message) *message {
	if *m.ReadyAck {
		return &message{}
	}
	return &message{LocalNICPath: theirs, PeerNICPath: m.LocalNICPath, QPNum: []uint32{901, 902}, LocalGID: theirGID, LocalLID: 9, ReadyAck: truth(false)}
}

// What an initiator sends, to the letter.
func TestUpstreamInitiator(t *testing.T) {
	w := newWorld(t)
	a := w.node("a:1")
	heard := scripted(w, fits)
	e := connected(t, a, toThem)
	numbers := e.Queues().Numbers()
	want := message{LocalNICPath: "a:1@mlx5_0", PeerNICPath: theirs, QPNum: numbers, LocalGID: ourGID, LocalLID: 7, ReadyAck: truth(false)}
	ack := want
	ack.ReadyAck = truth(true)
	require.Equal(t, []message{want, ack}, *heard)
	require.Equal(t, Remote{Address: Address{LID: 9, GID: GID{10: 255, 255, 192, 0, 2, 1}}, Numbers: []uint32{901, 902}}, e.Queues().(*queues).remote)
	require.False(t, e.Ours())
	require.False(t, e.Retire(within(t, patience)), "nobody there confirms anything")
	require.Len(t, *heard, 2, "and nobody is told")
	empty(t, a)
}

// A peer that knows no ready ack gets none.
func TestUpstreamWithoutAck(t *testing.T) {
	w := newWorld(t)
	a := w.node("a:1")
	heard := scripted(w, func(m *message) *message {
		reply := fits(m)
		reply.ReadyAck = nil
		return reply
	})
	connected(t, a, toThem)
	require.Len(t, *heard, 1)
	reply := a.store.Answer(&message{LocalNICPath: "c:1@x", PeerNICPath: a.store.Path(), QPNum: []uint32{1}, LocalGID: theirGID})
	require.Empty(t, reply.ReplyMsg)
	require.Nil(t, reply.ReadyAck)
	e := connected(t, a, Target{"c:1", "c:1@x", ""})
	require.Len(t, *heard, 1, "what the peer made is used at once")
	require.Len(t, e.Queues().Numbers(), 1)
}

func TestUpstreamRepliesAreChecked(t *testing.T) {
	for name, c := range map[string]struct {
		change func(r *message)
		want   error
		text   string
	}{
		"tcp only":     {func(r *message) { *r = message{} }, ErrNoRDMA, "not connected"},
		"rejected":     {func(r *message) { *r = message{ReplyMsg: "no such\ndevice"} }, ErrRejected, `no such\ndevice`},
		"count":        {func(r *message) { *r = message{ReplyMsg: "QP count mismatch in peer and local endpoints"} }, ErrQueuePairs, "MC_NUM_QP_PER_EP"},
		"short":        {func(r *message) { r.QPNum = r.QPNum[:1] }, ErrQueuePairs, "MC_NUM_QP_PER_EP"},
		"path":         {func(r *message) { r.LocalNICPath = "B:1@mlx5_1" }, ErrProtocol, `as "B:1@mlx5_1"`},
		"echo":         {func(r *message) { r.PeerNICPath += " " }, ErrProtocol, "answers to"},
		"no echo":      {func(r *message) { r.PeerNICPath = "" }, ErrProtocol, "answers to"},
		"gid":          {func(r *message) { r.LocalGID = "::1" }, ErrProtocol, "GID"},
		"unknown gid":  {func(r *message) { r.LocalGID = "" }, ErrPeer, "who knows"},
		"ack rejected": {func(r *message) {}, ErrRejected, "ready ack"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			a := w.node("a:1", func(cfg *Config) {
				cfg.Describe = func(context.Context, string, string) (Address, error) {
					return Address{}, errors.New("who knows")
				}
			})
			scripted(w, func(m *message) *message {
				if *m.ReadyAck && name == "ack rejected" {
					return &message{ReplyMsg: "not connected"}
				}
				r := fits(m)
				if !*m.ReadyAck {
					c.change(r)
				}
				return r
			})
			refused(t, a, toThem, c.want, c.text)
			scripted(w, fits)
			connected(t, a, toThem)
		})
	}
	w := newWorld(t)
	a := w.node("a:1")
	scripted(w, func(*message) *message { return nil })
	refused(t, a, toThem, ErrProtocol)
}

// Old peers do not say where they are.
func TestUpstreamOldPeers(t *testing.T) {
	w := newWorld(t)
	var asked []string
	a := w.node("a:1", func(cfg *Config) {
		cfg.Describe = func(_ context.Context, session, nic string) (Address, error) {
			asked = append(asked, session+" "+nic)
			return Address{GID: GID{1: 2}, LID: 3}, nil
		}
	})
	scripted(w, func(m *message) *message {
		return &message{LocalNICPath: theirs, PeerNICPath: m.LocalNICPath, QPNum: []uint32{901, 902}}
	})
	e := connected(t, a, Target{"somewhere:1", theirs, ""})
	require.Equal(t, Remote{Address: Address{GID: GID{1: 2}, LID: 3}, Numbers: []uint32{901, 902}}, e.Queues().(*queues).remote)
	reply := a.store.Answer(&message{LocalNICPath: "c:1@x", PeerNICPath: a.store.Path(), QPNum: []uint32{1}})
	require.Empty(t, reply.ReplyMsg)
	require.Equal(t, []string{"somewhere:1 mlx5_1", "c:1 x"}, asked)
}

// request is what upstream asks with.
func request(pairs ...uint32) *message {
	return &message{LocalNICPath: theirs, PeerNICPath: "a:1@mlx5_0", QPNum: pairs, LocalGID: theirGID, LocalLID: 9, ReadyAck: truth(false)}
}

func ackOf(m *message) *message {
	ack := *m
	ack.ReadyAck = truth(true)
	return &ack
}

// The responder makes as many queue pairs as it is asked for, answers in the same way
// as often as it is asked, and posts when it may.
func TestUpstreamResponder(t *testing.T) {
	w := newWorld(t)
	a := w.node("a:1")
	require.NotEmpty(t, a.store.Answer(ackOf(request(1))).ReplyMsg, "an ack of nothing")
	reply := a.store.Answer(request(1, 2, 3))
	require.Len(t, reply.QPNum, 3)
	require.Equal(t, &message{LocalNICPath: "a:1@mlx5_0", PeerNICPath: theirs, QPNum: reply.QPNum, LocalGID: ourGID, LocalLID: 7, ReadyAck: truth(false)}, reply)
	require.Equal(t, reply, a.store.Answer(request(1, 2, 3)))
	require.Len(t, a.made, 1)
	require.Equal(t, Remote{Address: Address{LID: 9, GID: GID{10: 255, 255, 192, 0, 2, 1}}, Numbers: []uint32{1, 2, 3}}, a.made[0].remote)

	waiting := make(chan *Endpoint)
	go func() { waiting <- connected(t, a, toThem) }()
	require.NotEmpty(t, a.store.Answer(ackOf(request(1, 2))).ReplyMsg)
	select {
	case <-waiting:
		t.Fatal("posts before the peer is ready")
	case <-time.After(20 * time.Millisecond):
	}
	require.Equal(t, &message{}, a.store.Answer(ackOf(request(1, 2, 3))))
	e := <-waiting
	require.Equal(t, reply.QPNum, e.Queues().Numbers())
	require.Empty(t, w.net.kinds(), "a working endpoint is used as it is")
	require.Equal(t, &message{}, a.store.Answer(ackOf(request(1, 2, 3))))

	// Other numbers: the peer has begun anew.
	second := a.store.Answer(request(4))
	require.Empty(t, second.ReplyMsg)
	<-e.Done()
	require.ErrorIs(t, e.Err(), ErrReconnected)
	eventually(t, "the old queue pairs to be closed", func() bool { return isClosed(e.Queues()) })
	require.Len(t, a.store.Answer(request(make([]uint32, 256)...)).QPNum, 256)
	eventually(t, "one set of queue pairs", func() bool { return a.store.Len() == 1 })
	require.NotEmpty(t, a.store.Answer(request(make([]uint32, 257)...)).ReplyMsg)
	require.NotEmpty(t, a.store.Answer(request()).ReplyMsg)
	for _, path := range []string{"", "a:1@mlx5_1", "a:1@mlx5_0 ", "A:1@mlx5_0", "a:1"} {
		m := request(1)
		m.PeerNICPath = path
		reply := a.store.Answer(m)
		require.Contains(t, reply.ReplyMsg, "peer_nic_path")
		require.Empty(t, reply.LocalNICPath)
	}
	require.Equal(t, 1, a.store.Len())
}

// Without the announced ack the responder gives up after its own time.
func TestUpstreamAckNeverComes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.node("a:1")
		require.Empty(t, a.store.Answer(request(1, 2)).ReplyMsg)
		time.Sleep(4 * time.Second)
		_, err := a.store.Connect(context.Background(), toThem)
		require.ErrorIs(t, err, ErrNoAck)
		synctest.Wait()
		require.Zero(t, a.store.Len())
		a.store.Answer(request(1, 2))
		time.Sleep(9 * time.Second)
		a.store.Answer(ackOf(request(1, 2)))
		time.Sleep(time.Minute)
		require.Equal(t, 1, a.store.Len())
		a.store.Close()
	})
}

// Both ask before either has answered: one connection comes of it.
func TestUpstreamSimultaneousOpen(t *testing.T) {
	for name, pairs := range map[string][2]int{"equal": {2, 2}, "different": {2, 3}, "the other way": {3, 2}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				a := w.node("a:1", func(cfg *Config) { cfg.QueuePairs = pairs[0] })
				b := w.node("b:1", func(cfg *Config) { cfg.QueuePairs = pairs[1] })
				var both sync.WaitGroup
				both.Add(2)
				met := make(chan struct{})
				go func() { both.Wait(); close(met) }()
				var once [2]sync.Once
				w.net.carry = func(_ context.Context, to string, m *message, deliver func() (*message, error)) (*message, error) {
					once[to[0]-'a'].Do(func() { both.Done(); <-met })
					return deliver()
				}
				type result struct {
					e   *Endpoint
					err error
				}
				results := make(chan result, 2)
				for from, to := range map[*node]*node{a: b, b: a} {
					go func() {
						e, err := from.store.Connect(within(t, patience), to.upstream())
						results <- result{e, err}
					}()
				}
				first, second := <-results, <-results
				if pairs[0] == pairs[1] {
					require.NoError(t, first.err)
					require.NoError(t, second.err)
				}
				for _, r := range []result{first, second} {
					if r.err != nil {
						require.ErrorIs(t, r.err, ErrQueuePairs)
						continue
					}
					require.True(t, w.fabric.linked(r.e.Queues()))
				}
				again := connected(t, a, b.upstream())
				require.True(t, w.fabric.linked(again.Queues()))
				require.Same(t, again, connected(t, a, b.upstream()))
				eventually(t, "one set each", func() bool { return a.store.Len() == 1 && b.store.Len() == 1 })
			})
		})
	}
}

// Upstream asks with another number of queue pairs at the same moment: it refuses ours,
// and gets its own.
func TestUpstreamAsksForAnotherCount(t *testing.T) {
	w := newWorld(t)
	a := w.node("a:1")
	replies := make(chan *message, 1)
	scripted(w, func(m *message) *message {
		go func() { replies <- a.store.Answer(request(1, 2, 3)) }()
		eventually(t, "the question to meet ours", func() bool {
			a.store.mu.Lock()
			defer a.store.mu.Unlock()
			return len(a.store.heard) > 0
		})
		return &message{ReplyMsg: "QP count mismatch in peer and local endpoints"}
	})
	_, err := a.store.Connect(within(t, patience), toThem)
	require.ErrorIs(t, err, ErrQueuePairs)
	require.Len(t, (<-replies).QPNum, 3)
	require.Empty(t, a.store.Answer(ackOf(request(1, 2, 3))).ReplyMsg)
	require.Len(t, connected(t, a, toThem).Queues().Numbers(), 3)
}

// The peer's own question connects the endpoint, and the answer to ours is lost or says
// something else.
func TestUpstreamCrossed(t *testing.T) {
	for name, answer := range map[string]func(m *message) *message{
		"lost":  func(*message) *message { return &message{ReplyMsg: "busy"} },
		"equal": fits,
		"other": func(m *message) *message {
			r := fits(m)
			if !*m.ReadyAck {
				r.QPNum = []uint32{5, 6}
			}
			return r
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			a := w.node("a:1")
			first, crossed := true, make(chan struct{})
			scripted(w, func(m *message) *message {
				if first {
					first = false
					defer close(crossed)
					reply := a.store.Answer(request(901, 902))
					require.Empty(t, reply.ReplyMsg)
					require.Equal(t, m.QPNum, reply.QPNum, "the same queue pairs")
					require.Equal(t, &message{}, a.store.Answer(ackOf(request(901, 902))))
					return answer(m)
				}
				return fits(m)
			})
			e := connected(t, a, toThem)
			<-crossed
			require.Equal(t, []uint32{901, 902}, e.Queues().(*queues).remote.Numbers)
			if name == "other" {
				// It was up when the peer said so, until its answer came.
				eventually(t, "the first one to end", func() bool { return isClosed(a.made[0]) })
				e = connected(t, a, toThem)
				require.Len(t, a.made, 2)
			} else {
				require.Len(t, a.made, 1)
			}
			require.NoError(t, e.Err())
		})
	}
}

// A port that connects to itself needs nobody.
func TestLoopback(t *testing.T) {
	w := newWorld(t)
	a := w.node("a:1")
	for _, to := range []Target{a.ours(), a.upstream()} {
		e := connected(t, a, to)
		require.Equal(t, e.Queues().Numbers(), e.Queues().(*queues).remote.Numbers)
		require.Empty(t, w.net.kinds())
		met, err := a.store.Fence(within(t, patience), Identity{Instance: a.instance, Names: []string{"a:1"}})
		require.NoError(t, err)
		require.False(t, met)
		require.NoError(t, e.Err())
		require.True(t, e.Retire(within(t, patience)))
		empty(t, a)
	}
	refused(t, a, Target{"a:1", a.store.Path(), w.node("b:1").instance}, ErrRestarted)
}

// The same two stores, connecting as upstream's do, many times over.
func TestUpstreamReconnects(t *testing.T) {
	w := newWorld(t)
	a, b := w.node("a:1"), w.node("b:1", func(cfg *Config) { cfg.QueuePairs = 5 })
	for i := range 20 {
		from, to := a, b
		if i%2 == 1 {
			from, to = b, a
		}
		e := connected(t, from, to.upstream())
		if !w.fabric.linked(e.Queues()) { // its requests would fail
			require.Positive(t, i)
			e.Retire(within(t, patience))
			e = connected(t, from, to.upstream())
		}
		require.True(t, w.fabric.linked(e.Queues()))
		back := connected(t, to, from.upstream())
		require.Equal(t, e.Queues().Numbers(), back.Queues().(*queues).remote.Numbers)
		e.Retire(within(t, patience))
		require.NoError(t, back.Err(), "nobody told it")
		if i%3 == 0 {
			back.Retire(within(t, patience))
		}
	}
	require.False(t, slices.Contains(w.net.kinds(), kindConnect))
}
