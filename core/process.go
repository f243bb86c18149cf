package core

import (
	"context"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pkg/errors"

	"mooncake/core/metadata"
)

// process is one peer process, as far as this engine knows it. Segments opened on
// it and batches in flight share it, and with it its path.
type process struct {
	engine   *Engine
	name     string // as it was opened first
	identity string
	path     path

	known   atomic.Pointer[knowledge]
	suspect atomic.Bool // a connection broke: ask before the next batch
	reached atomic.Bool // the path knows whether to ask: a fence breaks its connection
	gone    atomic.Bool // another process answers there, or nobody

	refs int // guarded by engine.mu: segments, batches

	learning sync.Mutex                // orders answers
	asking   chan struct{}             // holds one token: one question at a time
	asked    atomic.Pointer[time.Time] // when the question of the last answer began
}

// knowledge is one descriptor of a peer, ready to look addresses up in.
type knowledge struct {
	descriptor *metadata.Descriptor
	spans      spans // the ranges it has registered
}

func newKnowledge(d *metadata.Descriptor) *knowledge {
	ranges := make([]span, len(d.Buffers))
	for i, b := range d.Buffers {
		ranges[i] = span{b.Addr, b.Addr + b.Length}
	}
	return &knowledge{d, newSpans(ranges)}
}

// identityOf tells processes at one address apart: by the instance that ours
// publish, else by the data port, which a peer picks at random when it starts.
func identityOf(d *metadata.Descriptor) string {
	if d.Extension != nil {
		return d.Extension.Instance
	}
	return d.Name + " data port " + strconv.Itoa(int(d.TCPDataPort))
}

// is tells whether d is of this process, and it is not known to be gone.
func (p *process) is(d *metadata.Descriptor) bool {
	return p.identity == identityOf(d) && !p.gone.Load()
}

// refresh asks the peer for its descriptor. ErrRestarted: another process answers.
func (p *process) refresh(ctx context.Context) error {
	before := time.Now()
	select {
	case p.asking <- struct{}{}:
	case <-ctx.Done():
		return errors.WithMessagef(ErrPeer, "%s: others wait for its answer: %v", p.name, ctx.Err())
	}
	defer func() { <-p.asking }()
	if p.asked.Load().After(before) {
		return nil // somebody else began to ask while this call waited
	}
	began := time.Now()
	// Before the question: what becomes suspect while it is under way stays so.
	wasSuspect := p.suspect.Swap(false)
	d, err := p.engine.fetch(ctx, p.name)
	if err != nil {
		if wasSuspect {
			p.suspect.Store(true)
		}
		return err
	}
	if identityOf(d) != p.identity {
		p.gone.Store(true)
		return errors.WithMessage(ErrRestarted, p.name)
	}
	p.learn(d, began)
	return nil
}

// learn keeps what the peer said when it was asked at the time began, unless it is
// known what it said later.
func (p *process) learn(d *metadata.Descriptor, began time.Time) {
	p.learning.Lock()
	defer p.learning.Unlock()
	if last := p.asked.Load(); last != nil && last.After(began) {
		return
	}
	p.known.Store(newKnowledge(d))
	p.asked.Store(&began)
}

// freshFor is how long what a peer said, before there is a connection to it, is
// taken for the present when a batch begins.
const freshFor = time.Second

// mustAsk tells whether the peer must be asked before a batch begins: it may be
// another process, or have fenced this engine off without a connection to show it.
func (p *process) mustAsk() bool {
	if p.suspect.Load() || p.engine.cfg.NoMetaCache {
		return true
	}
	if p.reached.Load() {
		return p.path.broken()
	}
	return time.Since(*p.asked.Load()) > freshFor
}

// fences is how many fences the peer is known to have made.
func (p *process) fences() uint64 {
	if ext := p.known.Load().descriptor.Extension; ext != nil {
		return ext.Fences
	}
	return 0
}

// release gives one reference back; the last one closes the path.
func (p *process) release() {
	e := p.engine
	e.mu.Lock()
	p.refs--
	if p.refs == 0 && !e.closed { // a closed engine closes all paths itself
		e.dropProcess(p)
		e.background.Add(1)
		// Not here: the caller may be one of the path's own goroutines.
		go p.closePath()
	}
	e.mu.Unlock()
}

func (p *process) closePath() {
	defer p.engine.background.Done()
	p.path.close()
}

// Segment is the address space that a peer's process publishes. It stands for
// that process: when another one answers at the same address, batches fail with
// ErrRestarted. Safe for concurrent use.
type Segment struct {
	process *process
	name    string
	closed  atomic.Bool
}

// Name returns the name the segment was opened by.
func (s *Segment) Name() string { return s.name }

// Buffer returns range i of what the peer had registered when it was last asked.
func (s *Segment) Buffer(i uint64) (Range, error) {
	bs := s.process.known.Load().descriptor.Buffers
	if i >= uint64(len(bs)) {
		return Range{}, errors.WithMessagef(ErrNotFound, "buffer %d of %s, which has %d", i, s.process.name, len(bs))
	}
	return Range{bs[i].Addr, bs[i].Length}, nil
}

// Stale tells whether the peer's process is known to be gone.
func (s *Segment) Stale() bool { return s.process.gone.Load() }

// Connect makes the connection that the first batch would otherwise have to wait for, and
// returns when it is there: over rdma one round trip to the peer. Other transports have
// nothing to wait for. It also asks the peer who it is, if a batch that began now would. ctx
// bounds the call, not the connection: ErrWaitTimeout when it ends first. Other errors are
// those of the first batch: ErrPeer, ErrRestarted, ErrDevice, ErrFull.
func (s *Segment) Connect(ctx context.Context) error {
	p := s.process
	if s.closed.Load() {
		return errors.WithMessage(ErrClosed, "segment")
	}
	if p.gone.Load() {
		return errors.WithMessage(ErrRestarted, p.name)
	}
	// Where a connection is made it finds out itself who answers.
	c, connects := p.path.(connectablePath)
	if p.suspect.Load() || !connects && p.mustAsk() {
		limited, cancel := context.WithTimeout(ctx, p.engine.cfg.ConnectTimeout)
		err := p.refresh(limited)
		cancel()
		if err != nil {
			return unlessEnded(ctx, p, err)
		}
	}
	if m, ok := p.path.(mendablePath); ok {
		if err := m.mend(); err != nil {
			return err
		}
	}
	if connects {
		return unlessEnded(ctx, p, c.ready(ctx))
	}
	return nil
}

// unlessEnded is err, or that the caller did not want to wait for longer.
func unlessEnded(ctx context.Context, p *process, err error) error {
	if err != nil && ctx.Err() != nil {
		return errors.WithMessagef(ErrWaitTimeout, "connect to %s", p.name)
	}
	return err
}

// Close gives the segment back; batches in flight go on. Twice is ErrClosed.
func (s *Segment) Close() error {
	if s.closed.Swap(true) {
		return errors.WithMessage(ErrClosed, "segment")
	}
	s.process.release()
	return nil
}
