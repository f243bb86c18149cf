package core

import (
	"math"
	"sync"
	"time"
)

// deadlines ends batches that are not done in time. One timer serves all batches of
// an engine: most end long before, and setting one for each costs a small call more
// than its checks. Times are counted from the first one.
type deadlines struct {
	mu    sync.Mutex // guards what follows
	began time.Time
	timer *time.Timer
	armed time.Duration // when the timer will fire; 0: it will not
}

// now is the time since the first deadline was set, never 0. d.mu is held.
func (d *deadlines) now() time.Duration {
	if d.began.IsZero() {
		d.began = time.Now()
	}
	return time.Since(d.began) + 1
}

// arm makes sure that the engine looks at its batches at the time due. d.mu is held.
func (e *Engine) arm(due time.Duration) {
	d := &e.deadlines
	if d.armed != 0 && due >= d.armed {
		return
	}
	d.armed = due
	if d.timer == nil {
		d.timer = time.AfterFunc(due-d.now(), e.sweep)
	} else {
		d.timer.Reset(due - d.now())
	}
}

// limit gives the batch d from now on.
func (b *Batch) limit(d time.Duration) {
	all := &b.engine.deadlines
	all.mu.Lock()
	defer all.mu.Unlock()
	due := all.now() + min(d, math.MaxInt64/2)
	b.due.Store(int64(due))
	b.engine.arm(due)
}

// sweep aborts the batches whose time has come.
func (e *Engine) sweep() {
	d := &e.deadlines
	d.mu.Lock()
	d.armed = 0 // before the look: who sets a deadline meanwhile arms again
	now := int64(d.now())
	d.mu.Unlock()
	var late []*Batch
	var next int64
	e.mu.Lock()
	for b := range e.batches {
		due := b.due.Load()
		switch {
		case due == 0:
		case due <= now:
			late = append(late, b)
		case next == 0 || due < next:
			next = due
		}
	}
	e.mu.Unlock()
	for _, b := range late {
		b.abort(ErrDeadline)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if next != 0 {
		e.arm(time.Duration(next))
	}
}

// stopSweeping is for an engine whose batches have ended.
func (e *Engine) stopSweeping() {
	d := &e.deadlines
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil {
		d.timer.Stop()
	}
}
