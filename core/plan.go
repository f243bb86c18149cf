package core

// run is a stretch that is contiguous on both sides and lies in one local memory.
type run struct {
	local, remote, length uint64
	region                int32 // index into the batch's local regions
	joins                 joins
}

// stretch is a run that is still being found: it has few enough fields for the compiler to
// keep it in registers.
type stretch struct{ local, remote, length uint64 }

// joins says on which sides a run begins where the one before it ends. A transport
// that gathers may put what joins at the remote side only into one request to write, one
// that scatters what joins at the local side only into one to read.
type joins uint8

const (
	joinsLocal  joins = 1
	joinsRemote joins = 2
	joinsBoth         = joinsLocal | joinsRemote // a run that was cut in two
)

// joining tells how a run joins one that ends so many bytes before it on each side.
func joining(local, remote uint64) (how joins) {
	if local == 0 {
		how = joinsLocal
	}
	if remote == 0 {
		how |= joinsRemote
	}
	return how
}

// set makes a run of a stretch. Field by field: a literal is made on the stack first, and
// copying that waits for the stores.
func (r *run) set(s stretch, region int32, how joins) {
	r.local, r.remote, r.length, r.region, r.joins = s.local, s.remote, s.length, region, how
}

// joined counts runs by how they join.
type joined [4]uint64

const (
	// firstWindow is how many blocks are planned before the first slice may
	// leave; later windows are longer, since publishing costs a lock.
	firstWindow = 64
	laterWindow = 4096
)

// planner turns blocks into runs, window by window, in the order of the blocks. A block
// prolongs the run before it at its end, or at its begin: lists may run backwards.
// All blocks were checked before: every local byte is in a region that is pinned.
// But the arrays are the caller's, who may change them meanwhile, so that is
// looked at again wherever a run begins.
type planner struct {
	regions spans  // the local memory
	pinned  []bool // which of them the batch has pinned
	out     *work  // where runs go

	hint int     // region of the last run
	last stretch // in that region: the run that the next block may prolong; length 0 for none
	room uint64  // by how much it may grow before its region ends
	how  joins   // how it joins the one before

	sorting sorting
	slab    *slab  // being filled
	n       int    // runs handed over, ever
	planned uint64 // bytes in them
	joined  joined
	changed bool // a block is not what it was when it was checked
}

// window plans at most laterWindow blocks, sorted if it pays.
func (p *planner) window(b Blocks) {
	if !p.sorting.pays(b) {
		p.inOrder(b)
		return
	}
	s := sorters.Get().(*sorter)
	defer sorters.Put(s)
	if sorted, ok := s.sort(b); ok {
		b = sorted
	}
	p.inOrder(b)
}

// inOrder plans blocks. The last run stays back, for the next block may prolong it.
func (p *planner) inOrder(b Blocks) {
	local, remote := b.Local[:len(b.Length)], b.Remote[:len(b.Length)]
	var region span
	if p.hint >= 0 {
		region = p.regions[p.hint]
	}
	last, room, how := p.last, p.room, p.how
	for i := 0; i < len(b.Length); i++ {
		from, to, n := local[i], remote[i], b.Length[i]
		// How far behind the last run's end.
		here, there := from-last.local-last.length, to-last.remote-last.length
		switch {
		case here|there == 0 && n <= room && last.length != 0:
			last.length += n
			room -= n
		case n == 0:
		case region.holds(from, n):
			if last.length != 0 {
				if from+n == last.local && to+n == last.remote {
					last, how = stretch{from, to, last.length + n}, 0
					continue
				}
				p.emit(last, how)
			}
			var more int
			more, last, how = p.streak(local[i+1:], remote[i+1:], b.Length[i+1:], region, stretch{from, to, n}, joining(here, there))
			i += more
			room = region.end - last.local - last.length
		default:
			p.last, p.how = last, how
			p.elsewhere(from, to, n)
			if p.changed {
				return
			}
			last, room, how, region = p.last, p.room, p.how, p.regions[p.hint]
		}
	}
	p.last, p.room, p.how = last, room, how
}

// streak plans blocks of which each is a run by itself, as most are where it matters, without
// looking at whether they prolong one in any other way than to stop there. last is the block
// before them, a run that may still be prolonged. It returns how many blocks were planned,
// and the last of them, which stays back.
func (p *planner) streak(local, remote, length []uint64, region span, last stretch, how joins) (int, stretch, joins) {
	at := uint(p.n) % slabRuns
	if at == 0 {
		return 0, last, how // emit begins a slab
	}
	places := p.slab[at:]
	i, hint := 0, int32(p.hint)
	var bytes uint64
	for ; i < len(length) && i < len(places) && i < len(local) && i < len(remote); i++ {
		from, to, n := local[i], remote[i], length[i]
		here, there := from-last.local-last.length, to-last.remote-last.length
		if here|there == 0 || n == 0 || !region.holds(from, n) || from+n == last.local && to+n == last.remote {
			break
		}
		places[i].set(last, hint, how)
		if how != 0 {
			p.joined[how&joinsBoth]++
		}
		bytes += last.length
		last, how = stretch{from, to, n}, joining(here, there)
	}
	p.n += i
	p.planned += bytes
	return i, last, how
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
		here, there := local-l.local-l.length, remote-l.remote-l.length
		if l.length != 0 && p.hint == hint && here|there == 0 {
			l.length += k
		} else {
			p.flush()
			p.last, p.how = stretch{local, remote, k}, joining(here, there)
		}
		p.hint, p.room = hint, p.regions[hint].end-local-k
		local, remote, n = local+k, remote+k, n-k
	}
}

// flush hands the last run over: nothing will prolong it.
func (p *planner) flush() {
	if p.last.length != 0 {
		p.emit(p.last, p.how)
		p.last, p.room = stretch{}, 0
	}
}

// emit hands a run of the hinted region over; lanes see it once it is published.
func (p *planner) emit(r stretch, how joins) {
	at := uint(p.n) % slabRuns
	if at == 0 {
		p.slab = p.out.grow()
	}
	p.slab[at].set(r, int32(p.hint), how)
	if how != 0 {
		p.joined[how&joinsBoth]++
	}
	p.n++
	p.planned += r.length
}
