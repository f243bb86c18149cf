package pagealloc

// place gives h count pages, which must be free, and adds the runs to p.taken.
func (p *Pool) place(h int32, count, room uint64) {
	room = min(room, p.pages.Count) // so that sums do not wrap around
	for count > 0 {
		g, first, behind := p.choose(count, room)
		n := min(count, p.arena.spans[g].End()-first)
		p.take(h, g, Run{first, n}, behind)
		count -= n
	}
}

// choose finds the gap that serves count pages best by the rules of the package comment, the first page to
// be taken there, and how many behind those that are taken become room. When the pages from that one on are
// fewer than count, they are all to be taken.
func (p *Pool) choose(count, room uint64) (g int32, first, behind uint64) {
	if g = p.byOpen.atLeast(count+room, 0); g == none {
		g = p.byOpen.longest()
	}
	if g != none && p.arena.spans[g].open() >= count {
		s := &p.arena.spans[g]
		return g, s.First + s.room, min(room, s.open()-count)
	}
	p.settle()
	if g = p.byCount.atLeast(count+room, 0); g == none {
		g = p.byCount.longest()
	}
	s := &p.arena.spans[g]
	if s.Count < count {
		return g, s.First, 0
	}
	rest := s.Count - count
	behind = min(room, rest/2)
	return g, s.First + rest - behind, behind
}

// take makes run, which is in gap g, pages of h behind those it has, and sets up to room pages behind
// it aside. Of what was set aside in the gap the part in front of run remains so.
func (p *Pool) take(h, g int32, run Run, room uint64) {
	p.unfile(g)
	whole := p.arena.spans[g].Run
	s := p.arena.add(g, run, h)
	if rest := (Run{run.End(), whole.End() - run.End()}); rest.Count > 0 {
		r := p.arena.add(s, rest, isGap)
		p.arena.spans[r].room = min(room, rest.Count)
		p.file(r)
	}
	if front := run.First - whole.First; front > 0 {
		gs := &p.arena.spans[g]
		gs.Count, gs.room = front, min(gs.room, front)
		p.file(g)
	} else {
		p.arena.drop(g)
	}
	p.byAddress.insert(s)
	p.stats.AllocatedRuns++
	p.link(h, p.holders[h].last, s)
	p.hand(h, run)
}

// link puts span s into the order of h, behind span prev of it or, if that is 0, at the start.
func (p *Pool) link(h, prev, s int32) {
	next := &p.holders[h].first
	if prev != none {
		next = &p.arena.spans[prev].links[after]
	}
	p.arena.spans[s].links[before], p.arena.spans[s].links[after] = prev, *next
	if *next != none {
		p.arena.spans[*next].links[before] = s
	} else {
		p.holders[h].last = s
	}
	*next = s
}

// hand notes that h has got run.
func (p *Pool) hand(h int32, run Run) {
	p.holders[h].pages += run.Count
	p.taken = append(p.taken, run)
}

// file counts gap g and puts it into the trees.
func (p *Pool) file(g int32) {
	s := &p.arena.spans[g]
	s.filed = s.Count
	p.byCount.insert(g)
	if s.open() > 0 {
		p.byOpen.insert(g)
	}
	p.stats.FreePages += s.Count
	p.stats.ReservedPages += s.room
	p.stats.FreeRuns++
	p.stats.Histogram[class(s.Count)]++
}

// unfile undoes file, so that the gap can change.
func (p *Pool) unfile(g int32) {
	s := &p.arena.spans[g]
	p.byCount.remove(g)
	if s.open() > 0 {
		p.byOpen.remove(g)
	}
	p.stats.FreePages -= s.Count
	p.stats.ReservedPages -= s.room
	p.stats.FreeRuns--
	p.stats.Histogram[class(s.Count)]--
}

// settle makes byCount know every gap by the count that it has. Growing leaves that for later: it would be the
// larger part of its cost, and nobody asks byCount as long as pages that are not set aside suffice.
func (p *Pool) settle() {
	for _, g := range p.stale {
		if s := &p.arena.spans[g]; s.holder == isGap && s.filed != s.Count {
			p.byCount.remove(g)
			s.filed = s.Count
			p.byCount.insert(g)
		}
	}
	p.stale = p.stale[:0]
}
