package core

import (
	"sync"
	"sync/atomic"
)

const slabRuns = 1024

// slab is a piece of a batch's runs; slabs are reused by later batches, so that
// nothing is allocated for a block.
type slab [slabRuns]run

var slabs = sync.Pool{New: func() any { return new(slab) }}

// work is a batch's supply of slices: the planner appends runs, lanes take slices
// off them. It is what a transport sees of a batch.
//
// The runs of page groups are not appended: they are made when lanes want them.
//
// The planner writes runs in place, without the lock: lanes look at published ones
// only, and a slab goes back when lanes have taken all of it, or when the batch has
// ended and the planner has left.
type work struct {
	batch   *Batch
	process *process
	regions []*Memory // the local memory, index as in run.region

	mu      sync.Mutex // guards what follows, between planner and lanes
	over    bool       // the batch has ended: what is planned is dropped
	filling bool       // a planner may write to the last slab
	list    []*slab    // nil where a slab has been given back
	runs    int        // published
	at      int        // run that the next slice comes from
	off     uint64     // bytes of it already given out
	hint    int        // the peer's range of the last slice
	pages   pageSupply // runs that are still to be made of page groups

	left atomic.Uint64 // bytes published and not given out

	room [4]*slab // for batches of few runs, which then need no allocation
}

// begin makes the work ready for a batch.
func (w *work) begin(b *Batch, p *process, local *memories) {
	w.batch, w.process, w.regions, w.hint = b, p, local.list, -1
	w.pages.regions = local.spans
	w.list = w.room[:0]
}

// grow gives the planner its next slab. Only between fill and filled.
func (w *work) grow() *slab {
	s := slabs.Get().(*slab)
	w.mu.Lock()
	w.list = append(w.list, s)
	w.mu.Unlock()
	return s
}

// fill says that a planner begins to write. false: it must not, the batch has ended.
func (w *work) fill() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.filling = !w.over
	return w.filling
}

// filled says that the planner has stopped.
func (w *work) filled() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.filling = false
	if w.over {
		w.drop()
	}
}

// publish makes planned runs available to lanes: n in all, with bytes more than before.
func (w *work) publish(n int, bytes uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.over {
		return
	}
	w.runs = n
	w.left.Add(bytes)
}

// supply hands checked page groups over, of so many bytes.
func (w *work) supply(pieces []pagePiece, bytes uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.over {
		dropPieces(pieces)
		return
	}
	w.pages.add(pieces)
	w.left.Add(bytes)
}

// refill makes some more of the page groups' runs, in place of those that lanes have
// taken; false: there are no more. w.mu is held.
func (w *work) refill() bool {
	if len(w.pages.pieces) == 0 {
		return false
	}
	if len(w.list) == 0 {
		w.list = append(w.list, nil)
	}
	if w.list[0] == nil {
		w.list[0] = slabs.Get().(*slab)
	}
	w.at, w.runs = 0, w.pages.fill(w.list[0][:])
	w.batch.found(w.runs, &w.pages.joined)
	return w.runs > 0
}

// next fills dst with slices, stopping once they exceed budget bytes.
func (w *work) next(dst []slice, budget uint64) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	remote := w.process.known.Load().spans
	var there span // the peer's range of the last slice
	if uint(w.hint) < uint(len(remote)) {
		there = remote[w.hint]
	}
	var n int
	var bytes uint64
	for n < len(dst) && bytes < budget && (w.at < w.runs || w.refill()) {
		r := &w.list[uint(w.at)/slabRuns][uint(w.at)%slabRuns]
		if w.off == 0 && r.length <= maxSlice && there.holds(r.remote, r.length) {
			dst[n] = slice(*r) // most: a whole run, where the last one was
			bytes += r.length
			n++
			w.passed()
			continue
		}
		dst[n], w.hint = r.cut(w.off, remote, w.hint)
		if w.hint >= 0 {
			there = remote[w.hint]
		}
		w.off += dst[n].length
		bytes += dst[n].length
		n++
		if w.off == r.length {
			w.off = 0
			w.passed()
		}
	}
	w.left.Add(-bytes)
	return n
}

// whole returns up to most runs that can be given out as they are and lie together; rest:
// there are more, or may be. They stay where they are until took says how many were taken,
// which is for the same caller: nobody else may take slices meanwhile.
func (w *work) whole(most int) (runs []run, rest bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.off != 0 || w.at >= w.runs && !w.refill() {
		return nil, true
	}
	i := uint(w.at) % slabRuns
	n := min(most, w.runs-w.at, int(slabRuns-i))
	return w.list[uint(w.at)/slabRuns][i : int(i)+n], w.at+n < w.runs || len(w.pages.pieces) > 0
}

// took takes the first n of the runs that whole returned off the work; bytes: of these.
func (w *work) took(n int, bytes uint64) {
	if n == 0 {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.at += n; uint(w.at)%slabRuns == 0 {
		w.giveBack()
	}
	w.left.Add(-bytes)
}

// waiting tells about how many runs are published, or still to be made of page groups, and
// not given out, and their bytes.
func (w *work) waiting() (runs, bytes uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return uint64(w.runs-w.at) + w.pages.waiting, w.left.Load()
}

// passed goes on to the next run, and gives a slab back that lanes are done with:
// a long batch then needs memory for what waits only. w.mu is held.
func (w *work) passed() {
	if w.at++; uint(w.at)%slabRuns == 0 {
		w.giveBack()
	}
}

// giveBack is by itself so that passed, which is called for every run, is inlined.
func (w *work) giveBack() {
	i := w.at/slabRuns - 1
	slabs.Put(w.list[i])
	w.list[i] = nil
}

// release gives the runs' memory back for other batches. Only for a batch that has
// ended: a posting without slices left looks done.
func (w *work) release() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.over = true
	w.runs, w.at, w.off = 0, 0, 0
	w.left.Store(0)
	w.pages.drop()
	if !w.filling {
		w.drop()
	}
}

// drop gives the slabs back. w.mu is held.
func (w *work) drop() {
	for i, s := range w.list {
		if s != nil {
			slabs.Put(s)
		}
		w.list[i] = nil
	}
	w.list = w.list[:0]
}
