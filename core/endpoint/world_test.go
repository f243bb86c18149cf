package endpoint

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pkg/errors"
	"github.com/stretchr/testify/require"

	"mooncake/core/metadata"
)

// What a network may do with a message; the bytes of a fuzz input choose. Most choices
// are to deliver it, or else nothing would ever be connected.
const (
	carryDropRequest = 8 + iota // nobody gets it, and the sender waits
	carryDropReply              // it is answered, and the sender waits
	carryRefuse                 // the sender is told at once
	carryBreak                  // it is answered, and the sender is told that it was not
	carryTwice                  // it is answered twice at once
	carryAgainLater             // and once more, a few seconds later
	carrySlowly                 // it takes a few seconds
	carryReplySlowly            // its reply does
)

// wild is a network that does as its script says, and a history of what must hold.
type wild struct {
	*world
	mu     sync.Mutex
	nodes  [2]*node
	script []byte
	kind   bool               // the rest of the script is not looked at: everything is delivered
	strays atomic.Int64       // what goes on beside the steps
	ends   []*Endpoint        // all that were ever connected
	dead   map[uint32]bool    // own queue pairs of endpoints whose retirement was confirmed
	fenced map[[2]string]bool // instances: who has fenced whom off
}

func (w *wild) next() byte {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.kind || len(w.script) == 0 {
		return 0
	}
	b := w.script[0]
	w.script = w.script[1:]
	return b
}

func (w *wild) carry(ctx context.Context, to string, m *metadata.ConnectionMessage, _ func() (*metadata.ConnectionMessage, error)) (*metadata.ConnectionMessage, error) {
	m = cloned(m)
	b := w.next()
	slowly := time.Duration(b>>4) * 2 * time.Second
	switch b & 15 {
	case carryDropRequest:
		<-ctx.Done()
		return nil, ctx.Err()
	case carryDropReply:
		w.net.deliver(to, m)
		<-ctx.Done()
		return nil, ctx.Err()
	case carryRefuse:
		return nil, errUnreachable
	case carryBreak:
		w.net.deliver(to, m)
		return nil, errUnreachable
	case carryTwice:
		w.stray(to, m, 0)
	case carryAgainLater:
		w.stray(to, m, slowly)
	case carrySlowly:
		w.stray(to, m, slowly) // it arrives, whether the sender waits for it or not
		if !sleep(ctx, slowly) {
			return nil, ctx.Err()
		}
	case carryReplySlowly:
		reply, err := w.net.deliver(to, m)
		time.Sleep(slowly)
		return reply, err
	}
	return w.net.deliver(to, m)
}

// stray delivers a message that nobody waits for any more.
func (w *wild) stray(to string, m *metadata.ConnectionMessage, after time.Duration) {
	w.aside(func() {
		time.Sleep(after)
		w.net.deliver(to, m)
	})
}

// aside runs do beside the steps, and beside other messages.
func (w *wild) aside(do func()) {
	w.strays.Add(1)
	go func() {
		defer w.strays.Add(-1)
		do()
	}()
}

// start gives node i a new process.
func (w *wild) start(i int) {
	n := w.node([]string{"a:1", "b:1"}[i], func(cfg *Config) {
		cfg.QueuePairs, cfg.OursPairs = 2, 2+i
		p := cfg.Hardware.(*port)
		p.attach = func(r Remote) error { return w.attach(cfg.Server, r) }
	})
	w.mu.Lock()
	w.nodes[i] = n
	w.mu.Unlock()
}

// attach checks that a connection does not come back after it was confirmed to be gone.
func (w *wild) attach(session string, r Remote) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if slices.ContainsFunc(r.Numbers, func(n uint32) bool { return w.dead[n] }) {
		w.t.Errorf("%s connects to queue pairs %v, whose connection it confirmed to be gone", session, r.Numbers)
	}
	return nil
}

// pair is node i and the other one.
func (w *wild) pair(i int) (n, other *node) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.nodes[i], w.nodes[1-i]
}

// restart is the death of node i, and its next process.
func (w *wild) restart(i int) {
	old := w.nodes[i]
	w.crash(old)
	w.fabric.mu.Lock()
	for q := range w.fabric.live {
		if q.port == old.port {
			q.broken = true // what dies with a process answers nobody
		}
	}
	w.fabric.mu.Unlock()
	old.store.Close()
	w.start(i)
}

// connect is what an engine does before it posts.
func (w *wild) connect(i int, ours bool, patience time.Duration) (*Endpoint, error) {
	from, to := w.pair(i)
	target := to.upstream()
	if ours {
		target = to.ours()
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	e, err := from.store.Connect(ctx, target)
	if err != nil {
		if ctx.Err() == nil && (errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)) {
			w.t.Errorf("an error of somebody else's context: %v", err)
		}
		return nil, err
	}
	w.mu.Lock()
	w.ends = append(w.ends, e)
	w.mu.Unlock()
	w.checkFences(to, from, e)
	return e, nil
}

// checkFences looks at what e is connected to: if that was made after a fence, e must
// know of it.
func (w *wild) checkFences(to, from *node, e *Endpoint) {
	w.mu.Lock()
	fenced := w.fenced[[2]string{to.instance, from.instance}]
	w.mu.Unlock()
	// What was there before the fence is gone.
	if fenced && e.Ours() && w.fabric.linked(e.Queues()) && e.Fenced() == 0 {
		w.t.Errorf("%s was fenced off, and is connected without knowing of it", from.session)
	}
}

// fence fences the other node off and checks that what it could write through is gone.
func (w *wild) fence(i int) {
	n, other := w.pair(i)
	before := w.reachable(n, other)
	_, err := n.store.Fence(context.Background(), Identity{Instance: other.instance, Names: []string{other.session}})
	require.NoError(w.t, err)
	for _, q := range before {
		if !isClosed(q) {
			w.t.Errorf("%s fenced %s off, which can still write through %v", n.session, other.session, q.numbers)
		}
	}
	w.mu.Lock()
	w.fenced[[2]string{n.instance, other.instance}] = true
	w.mu.Unlock()
}

// reachable are the queue pairs of n that other can write through now.
func (w *wild) reachable(n, other *node) []*queues {
	w.fabric.mu.Lock()
	defer w.fabric.mu.Unlock()
	var out []*queues
	for q := range w.fabric.live {
		if q.port != n.port || q.broken || q.remote.Numbers == nil {
			continue
		}
		initiated := q.remote.Ours && !q.passive
		for peer := range w.fabric.live {
			if peer.port == other.port && slices.Equal(peer.numbers, q.remote.Numbers) && !initiated {
				out = append(out, q)
			}
		}
	}
	return out
}

// retire retires one of the endpoints that were ever connected.
func (w *wild) retire(which byte, patience time.Duration) {
	w.mu.Lock()
	if len(w.ends) == 0 {
		w.mu.Unlock()
		return
	}
	e := w.ends[int(which)%len(w.ends)]
	w.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if !e.Retire(ctx) {
		return
	}
	numbers := e.Queues().Numbers()
	w.mu.Lock()
	for _, n := range numbers {
		w.dead[n] = true
	}
	w.mu.Unlock()
	w.fabric.mu.Lock()
	defer w.fabric.mu.Unlock()
	for q := range w.fabric.live {
		if slices.Equal(q.remote.Numbers, numbers) && !q.broken {
			w.t.Errorf("retired, and the peer still has %v connected to %v", q.numbers, numbers)
		}
	}
}

// useful connects on a network that has become kind until requests would get through.
func (w *wild) useful(i int, ours bool) {
	for range 5 {
		e, err := w.connect(i, ours, time.Minute)
		if err != nil {
			continue
		}
		if e.Err() == nil && w.fabric.linked(e.Queues()) {
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		e.Retire(ctx)
		cancel()
	}
	w.t.Errorf("%s cannot connect (ours: %v)", w.nodes[i].session, ours)
}

// step is what one byte of the input makes happen.
func (w *wild) step(b byte) {
	i, patience := int(b>>7), time.Duration(b>>4&7)*4*time.Second+time.Millisecond
	switch b & 15 {
	case 0, 1, 2, 3:
		w.aside(func() { w.connect(i, true, patience) })
	case 4, 5:
		w.aside(func() { w.connect(i, false, patience) })
	case 6, 7, 8:
		w.aside(func() { w.retire(b>>4, patience) })
	case 9, 10:
		w.fence(i)
	case 11:
		w.restart(i)
	case 12, 13:
		time.Sleep(patience)
	default:
		synctest.Wait()
	}
}

// run plays an input: a byte is a step, or after a 0xff all the rest is for the network.
func (w *wild) run(input []byte) {
	steps, script, _ := slicesCut(input, 0xff)
	w.script = script
	w.start(0)
	w.start(1)
	for _, b := range steps[:min(len(steps), 40)] {
		w.step(b)
	}
	w.mu.Lock()
	w.kind = true
	w.mu.Unlock()
	for w.strays.Load() > 0 {
		time.Sleep(time.Second)
	}
	time.Sleep(2 * time.Minute) // all that goes on by itself has ended
	synctest.Wait()
	for i := range w.nodes {
		w.bounded()
		w.useful(i, true)
		w.useful(i, false)
		synctest.Wait()
	}
	w.bounded()
	for _, n := range w.nodes {
		n.store.Close()
		require.Zero(w.t, n.store.Len())
	}
	require.Zero(w.t, w.fabric.count(), "queue pairs that nobody destroyed")
}

// bounded checks how much of dead peers is left.
func (w *wild) bounded() {
	for _, n := range w.nodes {
		if got := len(w.passive(n)); got > 1 {
			w.t.Errorf("%s keeps %d connections of one peer's device", n.session, got)
		}
	}
}

// passive are the sides that n made for a peer of this implementation.
func (w *wild) passive(n *node) (out []*passive) {
	n.store.mu.Lock()
	defer n.store.mu.Unlock()
	for _, p := range n.store.peers {
		for a := range p.open {
			out = append(out, a)
		}
	}
	return out
}

func slicesCut(s []byte, at byte) (before, after []byte, found bool) {
	if i := slices.Index(s, at); i >= 0 {
		return s[:i], s[i+1:], true
	}
	return s, nil, false
}

func play(t *testing.T, input []byte) {
	synctest.Test(t, func(t *testing.T) {
		w := &wild{world: newWorld(t), dead: map[uint32]bool{}, fenced: map[[2]string]bool{}}
		w.net.carry = w.carry
		w.run(input)
	})
}

// The same worlds at every run, for the race detector.
func TestWorlds(t *testing.T) {
	for seed := range uint64(200) {
		random := rand.New(rand.NewPCG(seed, 0))
		input := make([]byte, 200)
		for i := range input {
			input[i] = byte(random.UintN(256))
		}
		input[20+random.IntN(20)] = 0xff
		play(t, input)
		if t.Failed() {
			t.Fatalf("seed %d: %q", seed, input)
		}
	}
}

// Two engines that connect, retire, fence and restart, and a network that loses, delays
// and repeats.
func FuzzWorld(f *testing.F) {
	f.Add([]byte{0x00, 0x80, 0x0e, 0x16, 0x0e, 0x04, 0x84, 0x0e, 0x09, 0x89, 0x0b, 0x00, 0x0e})
	f.Add([]byte{0x40, 0xc0, 0x44, 0xc4, 0x4c, 0x09, 0x8b, 0x40, 0x4c, 0xff, 9, 8, 12, 0x1d, 0x2e, 0x3f, 11, 10, 0, 9})
	f.Add([]byte{0x70, 0x0e, 0x0b, 0x70, 0x8b, 0x7c, 0x66, 0x76, 0x16, 0x7c, 0xff, 0x3d, 0x4d, 0x5e, 0x6e, 0x1f, 0x2f})
	f.Add([]byte{0x70, 0xf4, 0x74, 0x7c, 0x09, 0x89, 0x76, 0x66, 0xff, 0x1c, 0xc, 0xc, 0xb, 0xb, 0xb, 0x9, 0x9})
	f.Fuzz(func(t *testing.T, input []byte) { play(t, input) })
}
