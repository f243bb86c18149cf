package core

import (
	"context"
	"math"
	"time"

	"github.com/pkg/errors"
)

// checkedTogether is how many blocks a call may have that are all checked before
// the first byte moves. A longer one is checked and moved piece by piece, so that
// its first slice leaves as early as that of a short one.
const checkedTogether = 16384

// Submit starts to move blocks between local memory and the segment, and returns
// without waiting for them. With at most checkedTogether blocks all are checked
// before the first byte moves; in a longer call each is checked before it moves
// itself. On error nothing of the call moves any more. The slices of blocks are read
// during the call only. It blocks while the kernel takes a window of data, for one
// message to the peer when a remote range is not known yet, and, on an error in a long
// call, until what was sent is quiet here.
func (s *Segment) Submit(op Op, blocks Blocks, opts Options) (*Batch, error) {
	b, err := s.batch(op, opts)
	if err != nil {
		return nil, err
	}
	if err := blocks.valid(); err != nil {
		return nil, err
	}
	defer b.discardOnPanic()
	b.intake.mu.Lock()
	defer b.intake.mu.Unlock()
	return b.taken(b.take(blocks, true))
}

// taken is the outcome of a call that gave a batch all of its blocks at once.
func (b *Batch) taken(err error) (*Batch, error) {
	if err != nil {
		err = b.engine.orClosed(err)
		b.discard(err)
		return nil, err
	}
	if b.posting == nil { // nothing to move
		if err := b.engine.admit(b); err != nil {
			return nil, err
		}
		b.finish(ending{quiet: true})
	}
	return b, nil
}

// orClosed is the better reason for an address that is not registered any more: that the
// engine is being closed.
func (e *Engine) orClosed(err error) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed && errors.Is(err, ErrAddress) {
		return errors.WithMessage(ErrClosed, "engine")
	}
	return err
}

// discardOnPanic is deferred where a caller's arrays are read: they may be unmapped
// meanwhile, and whoever recovers must not find a batch that never ends.
func (b *Batch) discardOnPanic() {
	if p := recover(); p != nil {
		b.discard(errors.WithMessagef(ErrInvalid, "blocks: %v", p))
		panic(p)
	}
}

// Open begins a batch that blocks are added to while those before are moving: Add, as
// often as need be, and then Seal. Until it is sealed it does not end well. It
// blocks for one message when the peer must be asked who it is.
func (s *Segment) Open(op Op, opts Options) (*Batch, error) {
	b, err := s.batch(op, opts)
	if err != nil {
		return nil, err
	}
	if _, err := b.inspect(Blocks{}, true); err != nil {
		return nil, err
	}
	if err := b.begin(); err != nil {
		return nil, err
	}
	return b, nil
}

// batch makes a batch that has not begun: nobody knows of it, and it holds nothing.
func (s *Segment) batch(op Op, opts Options) (*Batch, error) {
	if s.closed.Load() {
		return nil, errors.WithMessage(ErrClosed, "segment")
	}
	if op != Read && op != Write {
		return nil, errors.WithMessagef(ErrInvalid, "op is %d, not MC_READ (0) or MC_WRITE (1)", op)
	}
	p := s.process
	b := &Batch{engine: p.engine, process: p, op: op, opts: opts, began: time.Now(), done: make(chan struct{}), fd: -1}
	state := p.engine.memory.state.Load()
	b.intake.check.begin(op, state)
	b.intake.check.learn(p.known.Load().spans)
	b.intake.plan = planner{regions: state.spans, pinned: b.intake.check.pinned, out: &b.work, hint: -1}
	b.work.begin(b, p, state)
	return b, nil
}

// discard ends a batch that nobody gets to see, and waits until it is quiet here.
func (b *Batch) discard(err error) {
	if b.posting == nil {
		b.intake.check.unpin()
		return
	}
	b.abort(err)
	b.Close()
}

// inspect checks blocks on both sides; begins: they are the first of their batch.
func (b *Batch) inspect(blocks Blocks, begins bool) (bytes uint64, err error) {
	for asked := false; ; asked = true {
		bytes, err = b.intake.check.pass(blocks)
		if again, err := b.consult(err, asked, begins); !again {
			return bytes, err
		}
	}
}

// consult asks the peer if what a check found, err, calls for it: the check is to be
// made again then. The peer may have registered more since; and at the begin of a batch
// it may be another process by now.
func (b *Batch) consult(err error, asked, begins bool) (again bool, _ error) {
	p, check := b.process, &b.intake.check
	missing, unknown := err.(unknownRemote)
	switch {
	case err != nil && !unknown:
		return false, err
	case begins && p.gone.Load():
		return false, errors.WithMessage(ErrRestarted, p.name)
	case !unknown && (asked || !begins || !p.mustAsk()):
		return false, nil
	case asked:
		return false, errors.WithMessage(outside(missing.at, remoteSide, missing.addr, missing.n), p.name)
	}
	if err := p.ask(); err != nil {
		return false, err
	}
	check.learn(p.known.Load().spans)
	if r, ok := b.posting.(renewablePosting); ok {
		r.renew()
	}
	return true, nil
}

// ask asks the peer for its ranges.
func (p *process) ask() error {
	ctx, cancel := context.WithTimeout(p.engine.ctx, p.engine.cfg.ConnectTimeout)
	defer cancel()
	return p.refresh(ctx)
}

// admit makes a batch one of the engine's, with a word to wait on.
func (e *Engine) admit(b *Batch) error {
	w, err := words.get()
	if err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed || b.process.refs == 0 {
		words.put(w)
		return errors.WithMessage(ErrClosed, "engine or segment")
	}
	b.word, b.wordWas = w, w.p.Load()
	b.process.refs++
	e.batches[b] = struct{}{}
	e.counts.batches.Add(1)
	e.counts.open.Add(1)
	return nil
}

// begin admits a batch and opens the way for its slices.
func (b *Batch) begin() error {
	if m, ok := b.process.path.(mendablePath); ok {
		if err := m.mend(); err != nil {
			return err
		}
	}
	if err := b.engine.admit(b); err != nil {
		return err
	}
	b.mu.Lock()
	b.timed = b.bytes.Load()
	if d := b.deadline(); d > 0 {
		b.limit(d)
	}
	posting := b.process.path.post(b.op, &b.work)
	b.posting = posting
	if r, ok := posting.(receivingPosting); ok && b.opts.Waits {
		r.waits()
	}
	cause := b.cause // the engine may be closing
	b.mu.Unlock()
	if cause != nil {
		posting.quiesce(cause)
	}
	return nil
}

// deadline returns how long the batch may take from its begin on, 0 for ever.
func (b *Batch) deadline() time.Duration {
	switch {
	case b.opts.Deadline < 0:
		return 0
	case b.opts.Deadline > 0:
		return b.opts.Deadline
	}
	// Upstream's rule: 1 ns a byte on top.
	return b.engine.cfg.TransferTimeout + time.Duration(min(b.bytes.Load(), math.MaxInt64/2))
}
