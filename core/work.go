package core

import (
	"sync"
	"sync/atomic"
)

// work is a batch's supply of slices: the planner appends runs, lanes take slices
// off them. It is what a transport sees of a batch.
type work struct {
	batch   *Batch
	process *process
	regions []*Memory // the local memory, index as in run.region

	mu   sync.Mutex // guards what follows, between planner and lanes
	over bool       // the batch has ended: runs are dropped
	runs runs
	at   int    // run that the next slice comes from
	off  uint64 // bytes of it already given out
	hint int    // the peer's range of the last slice

	left atomic.Uint64 // bytes published and not given out
}

// publish makes planned runs available to lanes.
func (w *work) publish(fresh *runs) {
	var bytes uint64
	w.mu.Lock()
	for i := 0; i < fresh.n && !w.over; i++ {
		r := fresh.at(i)
		bytes += r.length
		w.runs.add(*r)
	}
	w.left.Add(bytes)
	w.mu.Unlock()
	fresh.n = 0
}

// next fills dst with slices, stopping once they exceed budget bytes.
func (w *work) next(dst []slice, budget uint64) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	remote := w.process.known.Load().spans
	var n int
	var bytes uint64
	for n < len(dst) && bytes < budget && w.at < w.runs.n {
		r := w.runs.at(w.at)
		dst[n], w.hint = r.cut(w.off, remote, w.hint)
		w.off += dst[n].length
		bytes += dst[n].length
		n++
		if w.off == r.length {
			w.at, w.off = w.at+1, 0
		}
	}
	w.left.Add(-bytes)
	return n
}

// release gives the runs' memory back for other batches. Only for a batch that has
// ended: a posting without slices left looks done.
func (w *work) release() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.over = true
	w.runs.release()
	w.at, w.off = 0, 0
	w.left.Store(0)
}
