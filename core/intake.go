package core

import (
	"sync"
	"time"

	"github.com/pkg/errors"
)

// intake is the side of a batch that blocks come in by.
type intake struct {
	mu     sync.Mutex // guards what follows, between callers of Add and Seal
	sealed bool
	check  checker
	plan   planner
	// What the planner had handed over when it was last published.
	runs  int
	bytes uint64
}

// maxBytes bounds a batch, so that counters of bytes cannot overflow.
const maxBytes = 1 << 62

var errChanged = errors.WithMessage(ErrInvalid, "local or length: an element was changed during the call")

// Add gives a batch from Open more blocks, as in Submit: with at most checkedTogether
// blocks all of them are checked before the first one moves. Local memory must have
// been registered before Open. On error the batch fails for the same reason: wait for
// its end to know it quiet. A batch that has ended, or is about to, takes no more and
// gives no error: its outcome is the answer. Blocks as Submit does.
func (b *Batch) Add(blocks Blocks) error {
	b.intake.mu.Lock()
	defer b.intake.mu.Unlock()
	if b.intake.sealed {
		return errors.WithMessage(ErrInvalid, "the batch is sealed: it takes no more blocks")
	}
	if b.ending() {
		return nil
	}
	defer func() {
		if p := recover(); p != nil { // as in Submit
			b.abort(errors.WithMessagef(ErrInvalid, "blocks: %v", p))
			panic(p)
		}
	}()
	err := blocks.valid()
	if err == nil {
		err = b.take(blocks, false)
	}
	if err != nil {
		err = b.engine.orClosed(err)
		b.abort(err)
	}
	return err
}

// Seal says that a batch from Open gets no more blocks: it ends when those it has are
// moved. Twice is harmless.
func (b *Batch) Seal() {
	b.intake.mu.Lock()
	defer b.intake.mu.Unlock()
	if b.intake.sealed || b.ending() || !b.work.fill() {
		return
	}
	defer b.work.filled()
	b.seal()
}

// take checks and posts blocks piece by piece; last: no more will come. A batch that
// has not begun does so with the first piece that has bytes.
func (b *Batch) take(blocks Blocks, last bool) error {
	count := len(blocks.Length)
	piece := max(1, count)
	if count > checkedTogether {
		piece = laterWindow
	}
	for from := 0; from < count || from == 0; from += piece {
		part := blocks.part(from, min(from+piece, count))
		bytes, err := b.inspect(part, b.posting == nil && from == 0)
		if err == errEnded {
			return nil
		}
		if err != nil {
			return err
		}
		if err := b.post(part, bytes, last && from+piece >= count); err != nil {
			return err
		}
		if b.posting != nil && b.ending() {
			return nil
		}
	}
	return nil
}

// post plans checked blocks and pushes them window by window: the first slices leave
// while later blocks are still being planned.
func (b *Batch) post(blocks Blocks, bytes uint64, last bool) error {
	count := len(blocks.Length)
	b.intake.check.done += uint64(count)
	if err := b.grow(uint64(count), bytes); err != nil {
		return err
	}
	if b.posting == nil || !b.work.fill() {
		return nil // nothing to move yet, or it has ended
	}
	defer b.work.filled()
	plan := &b.intake.plan
	for from, size := 0, firstWindow; from < count; size = laterWindow {
		if b.ending() {
			return nil
		}
		to := min(from+size, count)
		plan.window(blocks.part(from, to))
		if plan.changed {
			return errChanged
		}
		if to < count || !last {
			b.push()
		}
		from = to
	}
	if plan.planned+plan.last.length != b.bytes.Load() {
		return errChanged
	}
	if last {
		b.seal()
	}
	return nil
}

// grow counts blocks that were checked. A batch begins with the first byte to be moved.
func (b *Batch) grow(blocks, bytes uint64) error {
	b.blocks.Add(blocks)
	b.engine.counts.blocks.Add(blocks)
	if b.bytes.Add(bytes) > maxBytes {
		return tooManyBytes()
	}
	if b.posting == nil && bytes > 0 {
		return b.begin()
	}
	return nil
}

func tooManyBytes() error {
	return errors.WithMessagef(ErrInvalid, "length: the blocks have more than %d bytes together", uint64(maxBytes))
}

// push lets lanes have what was planned since the last time.
func (b *Batch) push() {
	if b.publish() {
		b.posting.push()
	}
}

// seal pushes the last run and says that there are no more.
func (b *Batch) seal() {
	b.intake.sealed = true
	b.intake.plan.flush()
	b.publish()
	b.extend()
	b.posting.seal()
}

// publish shows lanes what was planned since the last time; false: nothing.
func (b *Batch) publish() bool {
	in := &b.intake
	fresh := in.plan.n - in.runs
	if fresh == 0 {
		return false
	}
	b.found(fresh, &in.plan.joined)
	b.work.publish(in.plan.n, in.plan.planned-in.bytes)
	in.runs, in.bytes = in.plan.n, in.plan.planned
	return true
}

// found counts runs, and how all of the batch's join.
func (b *Batch) found(runs int, all *joined) {
	b.runs.Add(uint64(runs))
	b.engine.counts.runs.Add(uint64(runs))
	b.joined[joinsLocal].Store(all[joinsLocal])
	b.joined[joinsRemote].Store(all[joinsRemote])
}

// extend moves the default deadline by the bytes that came after the begin.
func (b *Batch) extend() {
	if b.opts.Deadline != 0 || b.bytes.Load() == b.timed {
		return
	}
	if b.due.Load() != 0 {
		b.limit(b.deadline() - time.Since(b.began))
	}
}
