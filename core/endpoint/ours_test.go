package endpoint

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pkg/errors"
	"github.com/stretchr/testify/require"

	"mooncake/core/metadata"
)

// One message connects; the peer's queue pairs are passive, and gone when Retire says so.
func TestOursConnectAndRetire(t *testing.T) {
	w := newWorld(t)
	a, b := w.node("a:1"), w.node("b:1", func(c *Config) { c.OursPairs = 7 })
	e := connected(t, a, b.ours())
	require.Same(t, e, connected(t, a, b.ours()))
	require.Equal(t, []string{"connect"}, w.net.kinds())
	require.True(t, w.fabric.linked(e.Queues()))
	require.True(t, e.Ours())
	require.Len(t, e.Queues().Numbers(), 2)
	require.Equal(t, 1, b.passive)
	remote := e.Queues().(*queues).remote
	require.True(t, remote.Ours)
	require.Equal(t, b.here.GID, remote.GID)
	require.EqualValues(t, 7, remote.LID)

	back := connected(t, b, a.ours())
	require.NotEqual(t, e.Queues().Numbers(), back.Queues().(*queues).remote.Numbers, "each direction has its own")
	require.Len(t, back.Queues().Numbers(), 7)

	passive := w.fabric.of(b.port, e.Queues().Numbers())
	require.Len(t, passive, 1)
	require.NoError(t, e.Err())
	require.True(t, e.Retire(within(t, patience)))
	require.ErrorIs(t, e.Err(), ErrRetired)
	require.True(t, isClosed(passive[0]) && isClosed(e.Queues()))
	asked := len(w.net.kinds())
	require.True(t, e.Retire(within(t, patience)))
	require.Len(t, w.net.kinds(), asked, "confirmed once is enough")
	require.False(t, e.PeerRestarted())

	next := connected(t, a, b.ours())
	require.NotSame(t, e, next)
	require.Greater(t, next.number, e.number)
	require.True(t, w.fabric.linked(next.Queues()))
	require.True(t, w.fabric.linked(back.Queues()), "the other direction was left alone")
}

// Whatever order the messages of a connection come in, and how often, retired stays
// retired.
func TestOursRetiredIsNotMadeAgain(t *testing.T) {
	w := newWorld(t)
	a, b := w.node("a:1"), w.node("b:1")
	connect := func(number uint64, pairs ...uint32) *metadata.ConnectionMessage {
		m := a.store.message(b.store.Path(), &queues{numbers: pairs})
		m.Extension = a.store.extension(kindConnect, b.instance, number)
		return b.store.Answer(m)
	}
	retire := func(number uint64) *metadata.ConnectionMessage {
		return b.store.Answer(a.store.unpaired(kindRetire, b.store.Path(), b.instance, number))
	}
	require.Empty(t, retire(5).ReplyMsg, "it has none")
	require.Contains(t, connect(5, 1, 2).ReplyMsg, "retired")
	require.Contains(t, connect(4, 1, 2).ReplyMsg, "retired")
	empty(t, b)

	first := connect(6, 1, 2)
	require.Empty(t, first.ReplyMsg)
	require.Equal(t, first, connect(6, 1, 2), "the same again gets the same")
	require.Contains(t, connect(6, 1, 3).ReplyMsg, "other queue pairs")
	require.Empty(t, connect(8, 1, 2, 3).ReplyMsg)
	eventually(t, "the one before to be closed", func() bool { return b.store.Len() == 1 })
	require.Contains(t, connect(6, 1, 2).ReplyMsg, "retired")
	require.Contains(t, connect(7, 1, 2).ReplyMsg, "since")
	require.Empty(t, retire(7).ReplyMsg)
	require.Equal(t, 1, b.store.Len(), "8 is another one")
	require.Empty(t, retire(8).ReplyMsg)
	empty(t, b)
	require.Empty(t, retire(8).ReplyMsg)
	require.Empty(t, retire(6).ReplyMsg)
}

func TestOursRefusals(t *testing.T) {
	w := newWorld(t)
	a, b := w.node("a:1"), w.node("b:1")
	good := func() *metadata.ConnectionMessage {
		m := a.store.message(b.store.Path(), &queues{numbers: []uint32{1}})
		m.Extension = a.store.extension(kindConnect, b.instance, 3)
		return m
	}
	for name, c := range map[string]struct {
		change func(m *metadata.ConnectionMessage)
		want   string
	}{
		"target":       {func(m *metadata.ConnectionMessage) { m.Extension.Target = a.instance }, "another process"},
		"kind":         {func(m *metadata.ConnectionMessage) { m.Extension.Kind = "later" }, `kind "later"`},
		"number":       {func(m *metadata.ConnectionMessage) { m.Extension.Connection = 0 }, "at least 1"},
		"no pairs":     {func(m *metadata.ConnectionMessage) { m.QPNum = nil }, "within 1 to 256"},
		"many pairs":   {func(m *metadata.ConnectionMessage) { m.QPNum = make([]uint32, 257) }, "within 1 to 256"},
		"gid":          {func(m *metadata.ConnectionMessage) { m.LocalGID = "fe80::1" }, "GID"},
		"no gid":       {func(m *metadata.ConnectionMessage) { m.LocalGID = "" }, "GID"},
		"no path":      {func(m *metadata.ConnectionMessage) { m.LocalNICPath = "" }, "local_nic_path"},
		"own path":     {func(m *metadata.ConnectionMessage) { m.LocalNICPath = m.PeerNICPath }, "local_nic_path"},
		"foreign path": {func(m *metadata.ConnectionMessage) { m.PeerNICPath += "0" }, "peer_nic_path"},
	} {
		t.Run(name, func(t *testing.T) {
			m := good()
			c.change(m)
			reply := b.store.Answer(m)
			require.Contains(t, reply.ReplyMsg, c.want)
			require.Equal(t, b.instance, reply.Extension.Instance)
			empty(t, b)
		})
	}
	none := w.node("none:1", func(c *Config) { c.Instance = "" })
	require.Contains(t, none.store.Answer(good()).ReplyMsg, "no instance")
	_, err := none.store.Connect(within(t, patience), b.ours())
	require.ErrorIs(t, err, ErrArgument)
	require.Empty(t, b.store.Answer(good()).ReplyMsg)
}

// The peer's process has been replaced.
func TestOursRestarts(t *testing.T) {
	w := newWorld(t)
	a, b := w.node("a:1"), w.node("b:1")
	e := connected(t, a, b.ours())
	in := connected(t, b, a.ours())
	old := b.ours()
	w.crash(b)
	b2 := w.node("b:1")
	require.True(t, e.Retire(within(t, patience)), "its queue pairs died with it")
	require.True(t, e.PeerRestarted())
	_, err := a.store.Connect(within(t, patience), old)
	require.ErrorIs(t, err, ErrRestarted)

	passive := w.fabric.of(a.port, in.Queues().Numbers())
	require.Len(t, passive, 1)
	connected(t, b2, a.ours())
	eventually(t, "the dead process's queue pairs to be closed", func() bool { return isClosed(passive[0]) })

	// Who does not retire learns from the new process's request.
	e = connected(t, a, b2.ours())
	w.crash(b2)
	b3 := w.node("b:1")
	connected(t, b3, a.ours())
	<-e.Done()
	require.ErrorIs(t, e.Err(), ErrRestarted)
	e = connected(t, a, b3.ours())
	require.True(t, w.fabric.linked(e.Queues()))
}

// Something else answers by now.
func TestOursMeetsOthers(t *testing.T) {
	w := newWorld(t)
	a, b := w.node("a:1"), w.node("b:1")
	up := w.node("b:1", func(c *Config) { c.Instance = "" })
	w.net.carry = func(_ context.Context, _ string, m *metadata.ConnectionMessage, deliver func() (*metadata.ConnectionMessage, error)) (*metadata.ConnectionMessage, error) {
		m = cloned(m)
		m.Extension = nil // which upstream does not see
		return w.net.deliver("b:1", m)
	}
	refused(t, a, b.ours(), ErrRestarted, "without an instance")
	up.store.Close()
	w.net.carry = func(context.Context, string, *metadata.ConnectionMessage, func() (*metadata.ConnectionMessage, error)) (*metadata.ConnectionMessage, error) {
		return &metadata.ConnectionMessage{ReplyMsg: "this engine has no rdma"}, errors.New("rejected")
	}
	refused(t, a, b.ours(), ErrRejected, "no rdma")
}

// Lost messages end in time, nothing is left, and a late answer is not believed.
func TestOursLoses(t *testing.T) {
	for name, late := range map[string]bool{"request": false, "reply": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				a, b := w.node("a:1"), w.node("b:1")
				lost := true
				w.net.carry = func(ctx context.Context, _ string, m *metadata.ConnectionMessage, deliver func() (*metadata.ConnectionMessage, error)) (*metadata.ConnectionMessage, error) {
					if !lost || m.Extension.Kind != kindConnect {
						return deliver()
					}
					if late {
						reply, err := deliver()
						<-ctx.Done()
						return reply, err
					}
					<-ctx.Done()
					return nil, ctx.Err()
				}
				begun := time.Now()
				_, err := a.store.Connect(context.Background(), b.ours())
				require.ErrorIs(t, err, ErrPeer)
				require.NotErrorIs(t, err, context.DeadlineExceeded, "nobody here had a deadline")
				require.Equal(t, 20*time.Second, time.Since(begun))
				synctest.Wait()
				require.Zero(t, a.store.Len())
				require.Zero(t, b.store.Len(), "the peer was told to give its own back")
				lost = false
				require.True(t, w.fabric.linked(connected(t, a, b.ours()).Queues()))
				a.store.Close()
				b.store.Close()
			})
		})
	}
}

// A message that finds no room at the peer is sent again, with the same number.
func TestOursAsksAgain(t *testing.T) {
	w := newWorld(t)
	a, b := w.node("a:1"), w.node("b:1")
	var mu sync.Mutex
	turn := 0
	w.net.carry = func(_ context.Context, _ string, m *metadata.ConnectionMessage, deliver func() (*metadata.ConnectionMessage, error)) (*metadata.ConnectionMessage, error) {
		mu.Lock()
		defer mu.Unlock()
		turn++
		switch turn {
		case 1:
			return nil, errUnreachable
		case 2:
			deliver() // the reply is lost
			return nil, errUnreachable
		}
		return deliver()
	}
	e := connected(t, a, b.ours())
	require.True(t, w.fabric.linked(e.Queues()))
	require.Len(t, b.made, 1)
	w.crash(b)
	turn = 2
	_, err := a.store.Connect(within(t, patience), Target{"b:1", b.store.Path(), a.instance})
	require.ErrorIs(t, err, ErrPeer)
	require.ErrorContains(t, err, "refused")
}

// Retire goes on asking while ctx lasts, and says so if nobody confirms.
func TestRetireUnconfirmed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a, b := w.node("a:1"), w.node("b:1")
		e := connected(t, a, b.ours())
		w.net.mu.Lock()
		delete(w.net.nodes, "b:1")
		w.net.mu.Unlock()
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		require.False(t, e.Retire(ctx))
		require.True(t, isClosed(e.Queues()), "it is closed here")
		require.Equal(t, 1, b.store.Len())
		begun := time.Now()
		require.False(t, e.Retire(context.Background()))
		require.Equal(t, 20*time.Second, time.Since(begun))
		w.net.mu.Lock()
		w.net.nodes["b:1"] = b
		w.net.mu.Unlock()
		require.True(t, e.Retire(context.Background()))
		require.Zero(t, b.store.Len())
		a.store.Close()
		b.store.Close()
	})
}

// Before the peer can have heard of it there is nothing to ask.
func TestRetireBeforeAsking(t *testing.T) {
	w := newWorld(t)
	a := w.node("a:1")
	making, goOn := make(chan struct{}), make(chan struct{})
	a.create = func() error { close(making); <-goOn; return nil }
	target := Target{"nowhere:1", "nowhere:1@x", a.instance}
	ctx, cancel := context.WithCancel(context.Background())
	outcome := make(chan error)
	go func() { _, err := a.store.Connect(ctx, target); outcome <- err }()
	<-making
	cancel() // or else it would begin anew
	require.ErrorIs(t, <-outcome, context.Canceled)
	a.store.mu.Lock()
	e := a.store.find(target)
	a.store.mu.Unlock()
	go func() { <-e.Done(); close(goOn) }()
	require.True(t, e.Retire(within(t, patience)))
	require.Empty(t, w.net.kinds())
	a.store.Close()
}

// What the same process answers confirms only if it says so, of that connection.
func TestRetireReadsTheAnswer(t *testing.T) {
	w := newWorld(t)
	a, b := w.node("a:1"), w.node("b:1")
	e := connected(t, a, b.ours())
	answers := []func(m *message){
		func(m *message) { m.ReplyMsg = "still being closed" },
		func(m *message) { m.Extension.Kind = kindConnect },
		func(m *message) { m.Extension.Connection++ },
		func(m *message) { m.Extension = nil },
	}
	w.net.carry = func(_ context.Context, _ string, m *message, deliver func() (*message, error)) (*message, error) {
		if len(answers) == 0 {
			return deliver()
		}
		require.Equal(t, 1, b.store.Len(), "confirmed, and yet asked again")
		reply := &message{Extension: b.store.extension(kindRetire, a.instance, e.number)}
		answers[0](reply)
		answers = answers[1:]
		return reply, nil
	}
	require.True(t, e.Retire(within(t, patience)))
	require.Empty(t, answers, "confirmed too early")
	require.False(t, e.PeerRestarted())
	empty(t, b)
}

// The notice of a closed connection is for that one only.
func TestClosedNoticeIsForOne(t *testing.T) {
	w := newWorld(t)
	a, b := w.node("a:1"), w.node("b:1")
	e := connected(t, a, b.ours())
	remote := e.Queues().(*queues).remote.Numbers
	notice := func(number uint64, pairs []uint32) {
		m := b.store.unpaired(kindClosed, a.store.Path(), a.instance, number)
		m.QPNum = pairs
		require.Empty(t, a.store.Answer(m).ReplyMsg)
	}
	notice(e.number+1, remote)
	notice(e.number, remote[:1])
	notice(e.number, nil)
	require.NoError(t, e.Err())
	notice(e.number, remote)
	require.ErrorIs(t, e.Err(), ErrPeerClosed)
	require.True(t, e.Retire(within(t, patience)))
	require.Contains(t, w.net.kinds(), kindRetire, "a notice confirms nothing")
}

// A confirmation comes only after the peer's queue pairs are destroyed.
func TestRetireWaitsForThePeer(t *testing.T) {
	w := newWorld(t)
	a, b := w.node("a:1"), w.node("b:1")
	open := b.shut(t)
	e := connected(t, a, b.ours())
	done := make(chan bool)
	go func() { done <- e.Retire(within(t, patience)) }()
	eventually(t, "the message", func() bool { return len(w.net.kinds()) == 2 })
	eventually(t, "the own side", func() bool { return isClosed(e.Queues()) })
	select {
	case <-done:
		t.Fatal("confirmed before the peer was done")
	case <-time.After(20 * time.Millisecond):
	}
	open()
	require.True(t, <-done)
	require.Zero(t, b.store.Len())
}

// Retire in the middle of the handshake.
func TestRetireWhileConnecting(t *testing.T) {
	w := newWorld(t)
	a, b := w.node("a:1"), w.node("b:1")
	asked, goOn := make(chan struct{}), make(chan struct{})
	var once sync.Once
	w.net.carry = func(_ context.Context, _ string, m *metadata.ConnectionMessage, deliver func() (*metadata.ConnectionMessage, error)) (*metadata.ConnectionMessage, error) {
		if m.Extension.Kind == kindConnect {
			once.Do(func() { close(asked); <-goOn })
		}
		return deliver()
	}
	first := make(chan error, 1)
	var got *Endpoint
	go func() {
		e, err := a.store.Connect(within(t, patience), b.ours())
		got = e
		first <- err
	}()
	<-asked
	a.store.mu.Lock()
	e := a.store.find(b.ours())
	a.store.mu.Unlock()
	require.True(t, e.Retire(within(t, patience)), "before the peer has heard of it")
	close(goOn)
	require.NoError(t, <-first, "who waited gets another one")
	require.NotSame(t, e, got)
	require.True(t, w.fabric.linked(got.Queues()))
	eventually(t, "one set of queue pairs on each side", func() bool { return a.store.Len() == 1 && b.store.Len() == 1 })
}
