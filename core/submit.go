package core

import (
	"context"
	"math"
	"time"

	"github.com/pkg/errors"
)

// Submit starts to move blocks between local memory and the segment, and returns
// without waiting for them. All blocks are checked before the first byte moves;
// on error none was. The slices of blocks are read during the call only. It
// blocks while the kernel takes a window of data, and for one message to the peer
// when a remote range is not known yet.
func (s *Segment) Submit(op Op, blocks Blocks, opts Options) (*Batch, error) {
	if s.closed.Load() {
		return nil, errors.WithMessage(ErrClosed, "segment")
	}
	if err := blocks.valid(op); err != nil {
		return nil, err
	}
	p := s.process
	e := p.engine
	state := e.memory.state.Load()
	if i, err := blocks.inside(blocks.Local, localSide, state.spans); err != nil {
		return nil, err
	} else if i >= 0 {
		return nil, blocks.outside(i, localSide, blocks.Local)
	}
	if err := p.checkRemote(blocks); err != nil {
		return nil, err
	}
	b, err := e.newBatch(op, blocks)
	if err != nil {
		return nil, err
	}
	if b.bytes == 0 {
		b.finish(ending{quiet: true})
		return b, nil
	}
	defer func() {
		// The arrays are the caller's: they may be unmapped while they are read.
		// Whoever recovers must not find a batch that never ends.
		if p := recover(); p != nil {
			b.discard(errors.WithMessagef(ErrInvalid, "blocks: %v", p))
			panic(p)
		}
	}()
	pinned, err := b.pin(blocks, state)
	if err == nil {
		err = e.holdProcess(p)
	}
	if err == nil {
		b.process = p
		err = b.start(blocks, state, pinned, opts)
	}
	if err != nil {
		b.discard(err)
		return nil, err
	}
	return b, nil
}

// discard ends a batch that nobody gets to see, and waits until it is quiet here.
func (b *Batch) discard(err error) {
	if b.posting == nil {
		b.finish(ending{err: err, quiet: true})
	} else {
		b.abort(err)
	}
	b.Close()
}

// checkRemote checks the remote side of all blocks, asking the peer when it may
// have registered more since, or may be another process by now.
func (p *process) checkRemote(blocks Blocks) error {
	ctx, cancel := context.WithTimeout(p.engine.ctx, p.engine.cfg.ConnectTimeout)
	defer cancel()
	if p.gone.Load() {
		return errors.WithMessage(ErrRestarted, p.name)
	}
	asked := p.mustAsk()
	if asked {
		if err := p.refresh(ctx); err != nil {
			return err
		}
	}
	for {
		i, err := blocks.inside(blocks.Remote, remoteSide, p.known.Load().spans)
		if err != nil {
			return err
		}
		if i < 0 {
			return nil
		}
		if asked {
			return errors.WithMessage(blocks.outside(i, remoteSide, blocks.Remote), p.name)
		}
		asked = true
		if err := p.refresh(ctx); err != nil {
			return err
		}
	}
}

// pin keeps the local memory of the blocks registered until the batch has ended:
// every region once, found by walking the blocks. It returns which.
func (b *Batch) pin(blocks Blocks, state *memories) ([]bool, error) {
	pinned := make([]bool, len(state.list))
	hint := -1
	for i, addr := range blocks.Local {
		n := blocks.Length[i]
		if n == 0 || (hint >= 0 && addr >= state.spans[hint].start && addr+n <= state.spans[hint].end) {
			continue
		}
		hint = state.spans.seek(addr, hint)
		if hint < 0 {
			return nil, blocks.outside(i, localSide, blocks.Local)
		}
		for ; hint < len(state.list) && state.spans[hint].start < addr+n; hint++ {
			if pinned[hint] {
				continue
			}
			m := state.list[hint]
			if b.op == Read && !m.writable {
				return nil, errors.WithMessagef(ErrInvalid, "block %d: local memory at %#x is read-only", i, addr)
			}
			if !m.Pin() {
				return nil, blocks.outside(i, localSide, blocks.Local)
			}
			pinned[hint] = true
			b.pinned = append(b.pinned, m)
		}
		hint--
	}
	return pinned, nil
}

// start posts the batch window by window: the first slices leave while later
// blocks are still being planned.
func (b *Batch) start(blocks Blocks, state *memories, pinned []bool, opts Options) error {
	b.work = &work{batch: b, process: b.process, regions: state.list, hint: -1}
	b.mu.Lock()
	if d := b.deadline(opts); d > 0 {
		b.timer = time.AfterFunc(d, func() { b.abort(ErrDeadline) })
	}
	posting := b.process.path.post(b.op, b.work)
	b.posting = posting
	cause := b.cause // the engine may be closing
	b.mu.Unlock()
	if cause != nil {
		posting.quiesce(cause)
	}
	plan := planner{blocks: blocks, regions: state.spans, pinned: pinned, hint: -1}
	var fresh runs
	defer fresh.release()
	for size, more := firstWindow, true; more && !b.ending(); size = laterWindow {
		more = plan.window(size, &fresh)
		if plan.changed {
			return errors.WithMessage(ErrInvalid, "local: an element was changed during the call")
		}
		b.runs.Add(uint64(fresh.n))
		b.engine.counts.runs.Add(uint64(fresh.n))
		b.work.publish(&fresh)
		if !more {
			posting.seal()
		} else {
			posting.push()
		}
	}
	return nil
}

// deadline returns how long the batch may take, 0 for ever.
func (b *Batch) deadline(opts Options) time.Duration {
	switch {
	case opts.Deadline < 0:
		return 0
	case opts.Deadline > 0:
		return opts.Deadline
	}
	// Upstream's rule: 1 ns a byte on top.
	return b.engine.cfg.TransferTimeout + time.Duration(min(b.bytes, math.MaxInt64/2))
}
