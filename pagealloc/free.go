package pagealloc

// Free implements Allocator. Pages freed at the end of a request become room of
// it again if it has room, as the next it gets are likely to be those.
func (p *Pool) Free(request uint64, runs []Run) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.given = append(p.given[:0], runs...)
	return p.giveBack(request)
}

// FreePages implements Allocator.
func (p *Pool) FreePages(request uint64, pages []uint64) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.given = appendPages(p.given[:0], pages)
	return p.giveBack(request)
}

// giveBack frees the pages of p.given.
func (p *Pool) giveBack(request uint64) error {
	runs, page, err := coalesce(p.given)
	if err != nil {
		return &PageError{page, request, err}
	}
	for _, run := range runs {
		if err := p.checkHeld(request, run); err != nil {
			return err
		}
	}
	for _, run := range runs {
		for run.Count > 0 {
			s := p.byAddress.holding(run.First)
			part := Run{run.First, min(run.End(), p.arena.spans[s].End()) - run.First}
			p.cut(s, part)
			run = Run{part.End(), run.Count - part.Count}
		}
	}
	return nil
}

// checkHeld tells whether every page of run is held, and by request if that is not Anyone.
func (p *Pool) checkHeld(request uint64, run Run) error {
	if err := foreign(request, run, p.pages); err != nil {
		return err
	}
	page := run.First
	for s := p.byAddress.holding(page); page < run.End(); s = p.arena.spans[s].next {
		span := &p.arena.spans[s]
		if span.holder <= isGap || span.End() <= page {
			return notAllocated(request, page)
		}
		if holder := p.holders[span.holder].request; request != Anyone && request != holder {
			return heldBy(request, page, holder)
		}
		page = span.End()
	}
	return nil
}

// cut frees part, which is all or some of span s.
func (p *Pool) cut(s int32, part Run) {
	span := &p.arena.spans[s]
	h := span.holder
	switch {
	case part == span.Run:
		p.unlink(h, s)
		p.vacate(s)
	case part.First == span.First:
		span.First, span.Count = part.End(), span.Count-part.Count
		p.join(span.prev, part)
	case part.End() == span.End():
		span.Count -= part.Count
		if p.arena.spans[span.next].room > 0 {
			p.retreat(span.next, part.Count)
		} else {
			p.join(s, part)
		}
	default:
		rest := Run{part.End(), span.End() - part.End()}
		span.Count = part.First - span.First
		r := p.arena.add(s, rest, h)
		p.byAddress.insert(r)
		p.stats.AllocatedRuns++
		p.link(h, s, r)
		p.join(s, part)
	}
	if p.holders[h].pages -= part.Count; p.holders[h].pages == 0 {
		p.end(h)
	}
}

// retreat puts count pages in front of gap g and sets them aside with those that are.
func (p *Pool) retreat(g int32, count uint64) {
	p.unfile(g)
	s := &p.arena.spans[g]
	s.First, s.Count, s.room = s.First-count, s.Count+count, s.room+count
	p.file(g)
}

// unlink takes span s out of the order of h. Spans that then follow each other there become one if
// they are neighbours.
func (p *Pool) unlink(h, s int32) {
	prev, next := p.arena.spans[s].links[before], p.arena.spans[s].links[after]
	if prev != none {
		p.arena.spans[prev].links[after] = next
	} else {
		p.holders[h].first = next
	}
	if next != none {
		p.arena.spans[next].links[before] = prev
	} else {
		p.holders[h].last = prev
	}
	if prev != none && p.arena.spans[prev].next == next && next != none {
		count := p.arena.spans[next].Count
		p.unlink(h, next)
		p.byAddress.remove(next)
		p.stats.AllocatedRuns--
		p.arena.drop(next)
		p.arena.spans[prev].Count += count
	}
}

// Release implements Allocator.
func (p *Pool) Release(request uint64) (uint64, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	h, held := p.index[request]
	if !held {
		return 0, unknown(request, "release of")
	}
	for s := p.holders[h].first; s != none; {
		next := p.arena.spans[s].links[after]
		p.vacate(s)
		s = next
	}
	pages := p.holders[h].pages
	p.end(h)
	return pages, nil
}

// vacate ends span s, which is in no order any more, and makes its pages free. What was set aside
// behind it is not any more.
func (p *Pool) vacate(s int32) {
	p.byAddress.remove(s)
	p.stats.AllocatedRuns--
	prev, run := p.arena.spans[s].prev, p.arena.spans[s].Run
	p.arena.drop(s)
	p.join(prev, run)
}

// join makes run, which is between span prev and the next one and in no span, free: one gap with those at its sides.
func (p *Pool) join(prev int32, run Run) {
	if next := p.arena.spans[prev].next; p.arena.gapAt(next) {
		p.unfile(next)
		run.Count += p.arena.spans[next].Count
		p.arena.drop(next)
	}
	if p.arena.gapAt(prev) {
		p.unfile(prev)
		p.arena.spans[prev].Count += run.Count
	} else {
		prev = p.arena.add(prev, run, isGap)
	}
	p.file(prev)
}
