package core

// run is a stretch that is contiguous on both sides and lies in one local memory.
type run struct {
	local, remote, length uint64
	region                int32 // index into the batch's local regions
}

const (
	// firstWindow is how many blocks are planned before the first slice may
	// leave; later windows are longer, since publishing costs a lock.
	firstWindow = 64
	laterWindow = 4096
)

// planner turns blocks into runs, window by window, in the order of the blocks.
// All blocks were checked before: every local byte is in a region that is pinned.
// But the arrays are the caller's, who may change them meanwhile, so that is
// looked at again wherever a run begins.
type planner struct {
	regions spans  // the local memory
	pinned  []bool // which of them the batch has pinned
	out     *work  // where runs go

	hint int    // region of the last run
	last run    // the run that the next block may prolong; length 0 for none
	room uint64 // by how much it may grow before its region ends

	slab    *slab  // being filled
	n       int    // runs handed over, ever
	planned uint64 // bytes in them
	changed bool   // a block is not what it was when it was checked
}

// window plans blocks. The last run stays back, for the next block may prolong it.
func (p *planner) window(b Blocks) {
	local, remote := b.Local[:len(b.Length)], b.Remote[:len(b.Length)]
	var region span
	if p.hint >= 0 {
		region = p.regions[p.hint]
	}
	last, room := p.last, p.room
	for i, n := range b.Length {
		from, to := local[i], remote[i]
		switch {
		case n <= room && from == last.local+last.length && to == last.remote+last.length && last.length != 0:
			last.length += n
			room -= n
		case n == 0:
		case region.holds(from, n):
			if last.length != 0 {
				p.emit(last)
			}
			last.local, last.remote, last.length, last.region = from, to, n, int32(p.hint)
			room = region.end - from - n
		default:
			p.last = last
			p.elsewhere(from, to, n)
			if p.changed {
				return
			}
			last, room, region = p.last, p.room, p.regions[p.hint]
		}
	}
	p.last, p.room = last, room
}

// elsewhere plans a block that does not lie in the region of the last one, or goes
// beyond it, cut where regions border.
func (p *planner) elsewhere(local, remote, n uint64) {
	for n > 0 {
		hint := p.regions.seek(local, p.hint)
		if hint < 0 || !p.pinned[hint] {
			p.changed = true
			return
		}
		k := min(n, p.regions[hint].end-local)
		l := &p.last
		if l.length != 0 && int(l.region) == hint && local == l.local+l.length && remote == l.remote+l.length {
			l.length += k
		} else {
			p.flush()
			p.last = run{local, remote, k, int32(hint)}
		}
		p.hint, p.room = hint, p.regions[hint].end-local-k
		local, remote, n = local+k, remote+k, n-k
	}
}

// flush hands the last run over: nothing will prolong it.
func (p *planner) flush() {
	if p.last.length != 0 {
		p.emit(p.last)
		p.last, p.room = run{}, 0
	}
}

// emit hands a run over; lanes see it once it is published.
func (p *planner) emit(r run) {
	at := uint(p.n) % slabRuns
	if at == 0 {
		p.slab = p.out.grow()
	}
	p.slab[at] = r
	p.n++
	p.planned += r.length
}
