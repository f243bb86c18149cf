package core

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pkg/errors"

	"mooncake/core/metadata"
)

// Engine is one process's endpoint for all transfers. Safe for concurrent use.
type Engine struct {
	cfg      Config
	log      *slog.Logger
	name     string // segment name: "<host>:<port>"
	port     uint16
	instance [16]byte
	ctx      context.Context // ends with Close
	cancel   context.CancelFunc

	memory    *memoryTable
	described description
	control   *metadata.Server
	client    *metadata.Client
	mailbox   *metadata.Mailbox
	// The best transport comes first: peers are reached by the first one that can.
	transports []transport
	counts     counts
	deadlines  deadlines

	background sync.WaitGroup // goroutines of the engine itself

	mu        sync.Mutex            // guards what follows
	processes map[string]*process   // the last one opened by each name
	live      map[*process]struct{} // all that a segment or a batch refers to
	batches   map[*Batch]struct{}   // not ended
	closed    bool
}

// Open starts an engine that peers reach at name, which is a host as in
// mc_engine_open. It listens for handshakes and data before Open returns.
func Open(name string, cfg Config) (*Engine, error) {
	host, err := metadata.HostOf(name)
	if err != nil {
		return nil, errors.WithMessage(ErrInvalid, "engine name: "+reason(err))
	}
	if err := cfg.check(); err != nil {
		return nil, err
	}
	e := &Engine{cfg: cfg, log: cfg.Log, processes: map[string]*process{},
		live: map[*process]struct{}{}, batches: map[*Batch]struct{}{}}
	if _, err := rand.Read(e.instance[:]); err != nil {
		return nil, errors.Wrap(ErrDevice, "random instance: "+err.Error())
	}
	e.ctx, e.cancel = context.WithCancel(context.Background())
	e.memory = newMemoryTable(e.fitsMessage, e.publish, e.settle)
	e.mailbox = metadata.NewMailbox(0, 0)
	e.client = &metadata.Client{ConnectTimeout: cfg.ConnectTimeout, ReplyTimeout: max(cfg.ConnectTimeout, 5*time.Second),
		MaxLength: cfg.MaxMessage, PreferIPv6: cfg.PreferIPv6}
	listener, err := cfg.listen(name)
	if err != nil {
		return nil, err
	}
	e.port = metadata.PortOf(listener)
	e.name = metadata.JoinName(host, e.port)
	if err := e.serve(listener); err != nil {
		listener.Close()
		return nil, err
	}
	if cfg.MetricInterval > 0 {
		e.background.Add(1)
		go e.logMetrics(cfg.MetricInterval)
	}
	e.log.Info("engine open", "name", e.name)
	return e, nil
}

// check refuses what this engine does not have.
func (c *Config) check() error {
	if c.Metadata != "" && c.Metadata != "P2PHANDSHAKE" {
		return errors.WithMessagef(ErrUnsupported, "metadata %q: use P2PHANDSHAKE", c.Metadata)
	}
	switch c.Protocol {
	case "", "tcp", "rdma":
		return nil
	}
	return errors.WithMessagef(ErrUnsupported, "protocol %q: use tcp or rdma", c.Protocol)
}

// listen binds the handshake port.
func (c *Config) listen(name string) (net.Listener, error) {
	port := c.RPCPort
	if port == 0 && c.LegacyPortBinding {
		_, p, err := metadata.SplitName(name, c.HandshakePort)
		if err != nil {
			return nil, errors.WithMessage(ErrInvalid, "engine name: "+reason(err))
		}
		port = p
	}
	listener, err := c.bind(port)
	if err != nil {
		return nil, errors.Wrap(ErrDevice, "handshake listener: "+err.Error())
	}
	return listener, nil
}

// bind listens on a port, or on a random one of the range for 0.
func (c *Config) bind(port uint16) (net.Listener, error) {
	if port != 0 {
		return metadata.ListenPort(port)
	}
	return metadata.ListenInRange(c.MinPort, c.MaxPort)
}

// serve starts the transports and then the handshake listener, so that nobody is
// told of a transport that is not there yet.
func (e *Engine) serve(listener net.Listener) error {
	if err := e.startTransports(); err != nil {
		e.closeTransports()
		e.releaseDevices()
		return err
	}
	handlers := metadata.Handlers{Metadata: e.describe, Notify: e.mailbox.Put}
	for _, t := range e.transports {
		if a, ok := t.(connectionAnswerer); ok {
			handlers.Connection = a.answer
		}
	}
	var err error
	e.control, err = metadata.Listen(metadata.ServerConfig{Listener: listener, MaxLength: e.cfg.MaxMessage, Logger: e.log}, handlers)
	if err != nil {
		e.closeTransports()
		e.releaseDevices()
		return errors.Wrap(ErrDevice, "handshake listener: "+err.Error())
	}
	return nil
}

func (e *Engine) closeTransports() {
	for _, t := range e.transports {
		t.close()
	}
}

// releaseDevices gives devices back, once no memory is registered with them any more.
func (e *Engine) releaseDevices() {
	for _, t := range e.transports {
		if d, ok := t.(deviceTransport); ok {
			d.release()
		}
	}
}

// publish tells everybody who must know that the registered memory has changed.
// Peers hear of memory last, when every transport lets them reach it.
func (e *Engine) publish(s *memories) {
	for _, t := range e.transports {
		if w, ok := t.(memoryWatcher); ok {
			w.publish(s)
		}
	}
	e.described.change(s)
}

// settle returns when no peer touches memory that was withdrawn before the call.
func (e *Engine) settle() {
	for _, t := range e.transports {
		if w, ok := t.(memoryWatcher); ok {
			w.settle()
		}
	}
}

// reach finds the best way to a peer process.
func (e *Engine) reach(p *process) (err error) {
	p.path, err = e.wayTo(p, e.transports)
	return err
}

// wayTo finds the first of some transports that reaches a peer.
func (e *Engine) wayTo(p *process, among []transport) (path, error) {
	for _, t := range among {
		path, err := t.reach(p)
		if path != nil || err != nil {
			return path, err
		}
	}
	remedy := ""
	if e.cfg.RDMA.Force && !e.cfg.ForceTCP {
		remedy = ": MC_FORCE_HCA is set here, without which an engine has tcp, too"
	}
	return nil, errors.WithMessagef(ErrUnsupported, "%s offers %v, and this engine has %s%s", p.name,
		p.known.Load().descriptor.Protocols, e.offers(), remedy)
}

// remoteTransports are those for peers on other hosts.
func (e *Engine) remoteTransports() []transport {
	for i, t := range e.transports {
		if _, here := t.(*localTransport); !here {
			return e.transports[i:]
		}
	}
	return nil
}

// offers names the transports of this engine, for messages.
func (e *Engine) offers() string {
	var names []string
	for _, t := range e.transports {
		names = append(names, t.name())
	}
	return strings.Join(names, ", ")
}

var rdmaFallback sync.Once

// startTransports starts the transports that this engine is to have, the best one first.
func (e *Engine) startTransports() error {
	if l := newLocalTransport(e); l != nil {
		e.transports = append(e.transports, l)
	}
	if e.cfg.Protocol != "tcp" && !e.cfg.ForceTCP {
		t, err := newRDMATransport(e)
		switch {
		case err == nil:
			e.transports = append(e.transports, t)
		case e.cfg.RDMA.Force:
			return errors.WithMessage(err, "MC_FORCE_HCA is set, and rdma cannot be used")
		case e.cfg.Protocol == "rdma":
			// Once a process: servers open several engines.
			rdmaFallback.Do(func() {
				e.log.Warn("rdma was asked for and cannot be used: using tcp (MC_FORCE_HCA=1 makes this an error, MC_FORCE_TCP=1 or protocol tcp silences it)",
					"why", err)
			})
		}
		if err == nil && e.cfg.RDMA.Force {
			return nil
		}
	}
	t, err := newTCPTransport(e)
	if err != nil {
		return err
	}
	e.transports = append(e.transports, t)
	return nil
}

// Close ends the engine: batches in flight fail, peers are served no more, and
// nothing of this process touches registered memory when it returns. Twice is
// ErrClosed.
func (e *Engine) Close() error {
	e.mu.Lock()
	if e.closed {
		e.mu.Unlock()
		return errors.WithMessage(ErrClosed, "engine")
	}
	e.closed = true
	running := make([]*Batch, 0, len(e.batches))
	for b := range e.batches {
		running = append(running, b)
	}
	open := make([]*process, 0, len(e.live))
	for p := range e.live {
		open = append(open, p)
	}
	e.mu.Unlock()
	e.cancel()
	for _, b := range running {
		b.abort(errors.WithMessage(ErrClosed, "engine"))
	}
	for _, b := range running {
		<-b.done
	}
	e.stopSweeping()
	for _, p := range open {
		p.path.close()
	}
	// The control listener last: to RDMA peers, that nobody listens any more means that
	// nothing can land here any more.
	e.closeTransports()
	e.control.Close()
	e.background.Wait()
	e.memory.close()
	e.releaseDevices()
	return nil
}

// Name returns the engine's segment name, "<host>:<port>": its session.
func (e *Engine) Name() string { return e.name }

// Port returns the port of the handshake listener.
func (e *Engine) Port() uint16 { return e.port }

// Register makes ranges of this process's memory usable by batches and open to
// peers, all or none. The memory must be mapped and stay so until deregistered;
// it is not touched.
func (e *Engine) Register(ranges []Range, location string) ([]*Memory, error) {
	return e.memory.add(ranges, location)
}

// OpenSegment finds the peer named "<host>:<port>" and reads which memory it has
// registered. It blocks for one message.
func (e *Engine) OpenSegment(ctx context.Context, name string) (*Segment, error) {
	name, err := peerName(name)
	if err != nil {
		return nil, err
	}
	began := time.Now()
	d, err := e.fetch(ctx, name)
	if err != nil {
		return nil, err
	}
	if s, err := e.knownSegment(name, d, began, nil); s != nil || err != nil {
		return s, err
	}
	fresh := &process{engine: e, name: name, identity: identityOf(d), asking: make(chan struct{}, 1)}
	fresh.learn(d, began)
	if err := e.reach(fresh); err != nil {
		return nil, err
	}
	// Others may have opened it meanwhile, or closed the engine.
	s, err := e.knownSegment(name, d, began, fresh)
	if err != nil || s.process != fresh {
		fresh.path.close()
	}
	return s, err
}

// knownSegment makes a segment of the process that d is of, if that is open already,
// or else of fresh; nil if that is nil.
func (e *Engine) knownSegment(name string, d *metadata.Descriptor, began time.Time, fresh *process) (*Segment, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return nil, errors.WithMessage(ErrClosed, "engine")
	}
	p := e.processes[name]
	if p == nil || !p.is(d) {
		p = e.sameProcess(d)
	}
	switch {
	case p != nil:
		p.learn(d, began)
		e.processes[name] = p
	case fresh == nil:
		return nil, nil
	default:
		p = fresh
		e.processes[name] = p
		e.live[p] = struct{}{}
	}
	p.refs++
	return &Segment{process: p, name: name}, nil
}

// sameProcess finds the process that d is of among those opened by another name: a
// transport may have one connection only between two engines. e.mu is held.
func (e *Engine) sameProcess(d *metadata.Descriptor) *process {
	for p := range e.live {
		// Peers of other kinds can call themselves alike. One with the same devices is
		// the same all the same, as far as a connection is concerned.
		if p.is(d) && (d.Extension != nil || len(d.Devices) > 0 && slices.Equal(d.Devices, p.known.Load().descriptor.Devices)) {
			return p
		}
	}
	return nil
}

// peerName checks the name of a peer; leading slashes are dropped, as upstream does.
func peerName(name string) (string, error) {
	name = strings.TrimLeft(name, "/")
	if _, port, err := metadata.SplitName(name, 0); err != nil {
		return "", errors.WithMessage(ErrInvalid, "peer: "+reason(err))
	} else if port == 0 {
		return "", errors.WithMessagef(ErrInvalid, "peer: %q has no port; a peer is named <host>:<port>, its session", name)
	}
	return name, nil
}

// dropProcess forgets a process that nobody refers to. e.mu is held.
func (e *Engine) dropProcess(p *process) {
	delete(e.live, p)
	for name, q := range e.processes {
		if q == p {
			delete(e.processes, name)
		}
	}
}

func (e *Engine) forgetBatch(b *Batch) {
	e.mu.Lock()
	delete(e.batches, b)
	e.mu.Unlock()
}

// instanceText is the engine's instance as its descriptor has it.
func (e *Engine) instanceText() string { return hex.EncodeToString(e.instance[:]) }

// inBackground runs what may take long; Close waits for it.
func (e *Engine) inBackground(do func()) error {
	e.mu.Lock()
	if e.closed { // Close may be waiting for those in the background already
		e.mu.Unlock()
		do()
		return errors.WithMessage(ErrClosed, "engine")
	}
	e.background.Add(1)
	e.mu.Unlock()
	go func() {
		defer e.background.Done()
		do()
	}()
	return nil
}
