package core

import "sync"

// run is a stretch that is contiguous on both sides and lies in one local memory.
type run struct {
	local, remote, length uint64
	region                int32 // index into the batch's local regions
}

const (
	slabRuns = 1024
	// firstWindow is how many blocks are planned before the first slice may
	// leave; later windows are longer, since publishing costs a lock.
	firstWindow = 64
	laterWindow = 4096
)

// slab is a piece of a batch's runs; slabs are reused by later batches.
type slab [slabRuns]run

var slabs = sync.Pool{New: func() any { return new(slab) }}

// runs collects the runs of one batch in slabs, without an allocation per block
// once the pool is warm.
type runs struct {
	list []*slab
	n    int
}

func (r *runs) at(i int) *run { return &r.list[i/slabRuns][i%slabRuns] }

func (r *runs) add(x run) {
	if r.n == len(r.list)*slabRuns {
		r.list = append(r.list, slabs.Get().(*slab))
	}
	*r.at(r.n) = x
	r.n++
}

// release gives the slabs back; the runs are gone.
func (r *runs) release() {
	for i, c := range r.list {
		slabs.Put(c)
		r.list[i] = nil
	}
	r.list, r.n = r.list[:0], 0
}

// planner turns blocks into runs, window by window, in the order of the blocks.
// All blocks were checked before: every local byte is in a region that is pinned.
// But the arrays are the caller's, who may change them meanwhile, so that is
// looked at again wherever a run begins.
type planner struct {
	blocks  Blocks
	regions spans  // the local memory
	pinned  []bool // which of them the batch has pinned
	next    int    // first block not planned
	hint    int    // region of the last block
	last    run    // the run that the next block may prolong; length 0 for none
	changed bool   // a block is not what it was when it was checked
}

// window plans the next count blocks and hands finished runs to emit. more tells
// whether blocks are left; after the last window the last run is handed over too.
func (p *planner) window(count int, emit *runs) (more bool) {
	end := min(p.next+count, len(p.blocks.Length))
	local, remote, length := p.blocks.Local[:end], p.blocks.Remote[:end], p.blocks.Length[:end]
	for i := p.next; i < end; i++ {
		n := length[i]
		if n == 0 {
			continue
		}
		if p.prolongs(local[i], remote[i]) && n <= p.regions[p.last.region].end-local[i] {
			p.last.length += n
			continue
		}
		p.block(local[i], remote[i], n, emit)
	}
	p.next = end
	if end < len(p.blocks.Length) {
		return true
	}
	if p.last.length != 0 {
		emit.add(p.last)
		p.last = run{}
	}
	return false
}

// prolongs tells whether a block at these addresses follows the last run.
func (p *planner) prolongs(local, remote uint64) bool {
	return p.last.length != 0 && local == p.last.local+p.last.length && remote == p.last.remote+p.last.length
}

// block plans one block that does not fit the last run as it is, cut where local
// regions border.
func (p *planner) block(local, remote, n uint64, emit *runs) {
	for n > 0 {
		p.hint = p.regions.seek(local, p.hint)
		if p.hint < 0 || !p.pinned[p.hint] {
			p.changed = true
			return
		}
		k := min(n, p.regions[p.hint].end-local)
		if p.prolongs(local, remote) && int(p.last.region) == p.hint {
			p.last.length += k
		} else {
			if p.last.length != 0 {
				emit.add(p.last)
			}
			p.last = run{local, remote, k, int32(p.hint)}
		}
		local, remote, n = local+k, remote+k, n-k
	}
}
