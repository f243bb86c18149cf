package endpoint

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pkg/errors"
	"github.com/stretchr/testify/require"

	"mooncake/core/metadata"
)

const patience = 10 * time.Second

func within(t testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

// fabric is what all queue pairs of a test are on.
type fabric struct {
	mu   sync.Mutex
	last uint32
	live map[*queues]struct{}
}

func newFabric() *fabric { return &fabric{last: 100, live: map[*queues]struct{}{}} }

// of returns the live queue pairs of a port that are connected to what peer has, or to
// anything if peer is nil.
func (f *fabric) of(p *port, peer []uint32) []*queues {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []*queues
	for q := range f.live {
		if q.port == p && (peer == nil || slices.Equal(q.remote.Numbers, peer)) {
			out = append(out, q)
		}
	}
	return out
}

func (f *fabric) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.live)
}

// linked tells whether q's peer has queue pairs that are connected to q.
func (f *fabric) linked(x Queues) bool {
	q := x.(*queues)
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, live := f.live[q]; !live || q.broken {
		return false
	}
	for other := range f.live {
		if slices.Equal(other.numbers, q.remote.Numbers) {
			return slices.Equal(other.remote.Numbers, q.numbers) && !other.broken
		}
	}
	return false
}

// port is the hardware of one device port. The fields say how it behaves.
type port struct {
	fabric *fabric
	lasts  time.Duration // to make one queue pair
	create func() error  // before queue pairs are made
	attach func(Remote) error
	here   Address
	routes map[GID][]GID // what can be reached from an address, if not nil; the keys are all there are
	gate   chan struct{} // Close waits for it to be closed, if not nil

	mu      sync.Mutex
	made    []*queues
	passive int // how many of them were asked for as passive
}

func (p *port) NewQueues(n int) (Queues, error) {
	if p.create != nil {
		if err := p.create(); err != nil {
			return nil, err
		}
	}
	time.Sleep(time.Duration(n) * p.lasts)
	p.mu.Lock()
	q := &queues{port: p, gate: p.gate, address: p.here}
	p.mu.Unlock()
	f := p.fabric
	f.mu.Lock()
	for range n {
		f.last++
		q.numbers = append(q.numbers, f.last)
	}
	f.live[q] = struct{}{}
	f.mu.Unlock()
	p.mu.Lock()
	p.made = append(p.made, q)
	p.mu.Unlock()
	return q, nil
}

func (p *port) NewPassiveQueues(n int) (Queues, error) {
	p.mu.Lock()
	p.passive++
	p.mu.Unlock()
	made, err := p.NewQueues(n)
	if err == nil {
		made.(*queues).passive = true
	}
	return made, err
}

// reaches tells whether to can be reached from an address of the port.
func (p *port) reaches(from, to GID) bool {
	return p.routes == nil || slices.Contains(p.routes[from], to)
}

func (p *port) Readdress(q Queues, r Remote, why error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for from := range p.routes {
		if p.reaches(from, r.GID) {
			p.here.GID = from
			return nil
		}
	}
	return errors.WithMessagef(why, "none of %d addresses", len(p.routes))
}

// shut makes queue pairs from now on stay when they are closed, until open is called.
func (p *port) shut(t testing.TB) (open func()) {
	p.gate = make(chan struct{})
	open = sync.OnceFunc(func() { close(p.gate) })
	t.Cleanup(open)
	return open
}

// queues are one side of a connection. What is not constant belongs to fabric.mu.
type queues struct {
	port    *port
	numbers []uint32
	gate    chan struct{}
	passive bool
	address Address
	remote  Remote
	broken  bool
	closed  bool
	use     Use
}

func (q *queues) Numbers() []uint32 { return q.numbers }
func (q *queues) Address() Address  { return q.address }

func (q *queues) Connect(r Remote) error {
	if q.port.attach != nil {
		if err := q.port.attach(r); err != nil {
			return err
		}
	}
	if !q.port.reaches(q.address.GID, r.GID) {
		return errors.WithMessagef(ErrNoRoute, "from %s", q.address.GID)
	}
	f := q.port.fabric
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case q.closed || q.broken || q.remote.Numbers != nil:
		panic("connected twice, or after the end")
	case len(r.Numbers) != len(q.numbers):
		return errors.Errorf("%d numbers for %d queue pairs", len(r.Numbers), len(q.numbers))
	}
	q.remote = r
	return nil
}

func (q *queues) Break() {
	q.port.fabric.mu.Lock()
	defer q.port.fabric.mu.Unlock()
	q.broken = true
}

func (q *queues) Close() {
	if q.gate != nil {
		<-q.gate
	}
	f := q.port.fabric
	f.mu.Lock()
	defer f.mu.Unlock()
	if q.closed {
		panic("closed twice")
	}
	q.closed = true
	delete(f.live, q)
}

// isClosed is for queue pairs from an Endpoint.
func isClosed(x Queues) bool {
	q := x.(*queues)
	q.port.fabric.mu.Lock()
	defer q.port.fabric.mu.Unlock()
	return q.closed
}

// network carries messages between nodes.
type network struct {
	mu    sync.Mutex
	nodes map[string]*node // by session
	log   []string         // kinds of the messages, in order
	// carry, if set, decides over each message; deliver passes it on.
	carry func(ctx context.Context, to string, m *metadata.ConnectionMessage, deliver func() (*metadata.ConnectionMessage, error)) (*metadata.ConnectionMessage, error)
}

func kindOf(m *metadata.ConnectionMessage) string {
	switch {
	case m.Extension != nil:
		return m.Extension.Kind
	case m.ReadyAck != nil && *m.ReadyAck:
		return "ack"
	}
	return "upstream"
}

func (n *network) ask(ctx context.Context, session string, m *metadata.ConnectionMessage) (*metadata.ConnectionMessage, error) {
	n.mu.Lock()
	n.log = append(n.log, kindOf(m))
	carry := n.carry
	n.mu.Unlock()
	deliver := func() (*metadata.ConnectionMessage, error) { return n.deliver(session, m) }
	if carry != nil {
		return carry(ctx, session, m, deliver)
	}
	return deliver()
}

var errUnreachable = errors.New("connection refused")

func (n *network) deliver(session string, m *metadata.ConnectionMessage) (*metadata.ConnectionMessage, error) {
	n.mu.Lock()
	to := n.nodes[session]
	n.mu.Unlock()
	if to == nil {
		return nil, errUnreachable
	}
	reply := cloned(to.store.Answer(cloned(m)))
	if reply.ReplyMsg != "" {
		return reply, errors.WithMessage(metadata.ErrRejected, reply.ReplyMsg)
	}
	return reply, nil
}

func (n *network) kinds() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.log)
}

// cloned is what arrives of m: nothing of it is shared with the sender.
func cloned(m *metadata.ConnectionMessage) *metadata.ConnectionMessage {
	c := *m
	c.QPNum = slices.Clone(m.QPNum)
	if m.ReadyAck != nil {
		ready := *m.ReadyAck
		c.ReadyAck = &ready
	}
	if m.Extension != nil {
		ext := *m.Extension
		c.Extension = &ext
	}
	return &c
}

// node is an engine with one port.
type node struct {
	*port
	store    *Store
	net      *network
	session  string
	instance string
	crashed  atomic.Bool
}

func (n *node) ask(ctx context.Context, session string, m *metadata.ConnectionMessage) (*metadata.ConnectionMessage, error) {
	if n.crashed.Load() {
		return nil, errUnreachable
	}
	return n.net.ask(ctx, session, m)
}

type world struct {
	t      testing.TB
	fabric *fabric
	net    *network
	births int
}

func newWorld(t testing.TB) *world {
	return &world{t: t, fabric: newFabric(), net: &network{nodes: map[string]*node{}}}
}

// node starts an engine; the next one of the same name takes its place.
func (w *world) node(session string, change ...func(*Config)) *node {
	w.births++
	n := &node{port: &port{fabric: w.fabric}, net: w.net, session: session, instance: fmt.Sprintf("%032x", w.births)}
	cfg := Config{Server: session, NIC: "mlx5_0", Instance: n.instance, Hardware: n.port, Ask: n.ask}
	n.port.here = Address{GID: GID{15: byte(w.births)}, LID: 7}
	for _, c := range change {
		c(&cfg)
	}
	store, err := New(cfg)
	require.NoError(w.t, err)
	n.store = store
	w.net.mu.Lock()
	w.net.nodes[session] = n
	w.net.mu.Unlock()
	w.t.Cleanup(n.store.Close)
	return n
}

// crash takes a node away as the death of its process would: no message says so.
func (w *world) crash(n *node) {
	w.net.mu.Lock()
	if w.net.nodes[n.session] == n {
		delete(w.net.nodes, n.session)
	}
	w.net.mu.Unlock()
	n.crashed.Store(true) // what the store still does must not reach anybody
}

// ours and upstream are n as others see it.
func (n *node) ours() Target     { return Target{n.session, n.store.Path(), n.instance} }
func (n *node) upstream() Target { return Target{n.session, n.store.Path(), ""} }

func connected(t testing.TB, from *node, to Target) *Endpoint {
	t.Helper()
	e, err := from.store.Connect(within(t, patience), to)
	require.NoError(t, err)
	return e
}

func refused(t testing.TB, from *node, to Target, kind error, parts ...string) {
	t.Helper()
	_, err := from.store.Connect(within(t, patience), to)
	require.ErrorIs(t, err, kind)
	for _, part := range parts {
		require.ErrorContains(t, err, part)
	}
	empty(t, from)
}

// empty waits until nothing is left of a node's queue pairs.
func empty(t testing.TB, n *node) {
	t.Helper()
	eventually(t, n.session+" to have no queue pairs", func() bool { return n.store.Len() == 0 })
	require.Empty(t, n.fabric.of(n.port, nil))
}

func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}
