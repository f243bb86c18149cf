package pagealloc

// Room that a request gets when it grows beyond what it had, in pages. With half of what it has grown by, prompts
// keep their runs at any page size, and a request that is decoded for long gets few runs: see TestIncident.
const (
	leastRoom = 2
	mostRoom  = 64
)

// growth is what one request of a batch gets.
type growth struct {
	holder int32
	count  uint64
}

// Grow implements Allocator.
func (p *Pool) Grow(request, count uint64) ([]Run, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	h, held := p.index[request]
	if err := checkGrow(request, count, p.stats.FreePages, held); err != nil {
		return nil, err
	}
	p.taken = p.taken[:0]
	p.grow(h, count)
	return append([]Run(nil), p.taken...), nil
}

// GrowBatch implements Allocator.
func (p *Pool) GrowBatch(requests, counts, pages []uint64) error {
	if err := checkBatch(requests, counts); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	total := uint64(0)
	p.batch = p.batch[:0]
	for i, request := range requests {
		h, held := p.index[request]
		n := countOf(counts, i)
		if err := checkGrow(request, n, p.stats.FreePages-total, held); err != nil {
			return err
		}
		total += n
		p.batch = append(p.batch, growth{h, n}) // counts may be the caller's memory: it is read once
	}
	if uint64(len(pages)) < total {
		return tooShort(pages, total)
	}
	for _, g := range p.batch {
		p.taken = p.taken[:0]
		p.grow(g.holder, g.count)
		pages = list(pages, p.taken)
	}
	return nil
}

// grow gives h count pages more, which must be free, and adds the runs to p.taken.
func (p *Pool) grow(h int32, count uint64) {
	tail := p.holders[h].last
	room := max(leastRoom, min(p.holders[h].grown/2, mostRoom))
	p.holders[h].grown += count
	if g := p.arena.spans[tail].next; count > 0 && p.arena.gapAt(g) {
		n := min(count, p.arena.spans[g].Count)
		p.hand(h, Run{p.arena.spans[g].First, n})
		p.arena.spans[tail].Count += n
		p.advance(g, n, room)
		count -= n
	}
	if count > 0 {
		p.place(h, count, room)
	}
}

// advance takes count pages off the start of gap g. If they are more than those set aside there, up to
// room others are.
func (p *Pool) advance(g int32, count, room uint64) {
	s := &p.arena.spans[g]
	if count > s.room || count == s.Count {
		p.unfile(g)
		if count == s.Count {
			p.arena.drop(g)
			return
		}
		s.First, s.Count = s.First+count, s.Count-count
		s.room = min(room, s.Count)
		p.file(g)
		return
	}
	// The common case: byOpen need not know, and byCount not yet.
	if s.filed == s.Count {
		if uint64(len(p.stale)) > 64+2*p.stats.FreeRuns { // also gaps that are gone
			p.settle()
		}
		p.stale = append(p.stale, g)
	}
	p.stats.FreePages -= count
	p.stats.ReservedPages -= count
	p.stats.Histogram[class(s.Count)]--
	p.stats.Histogram[class(s.Count-count)]++
	s.First, s.Count, s.room = s.First+count, s.Count-count, s.room-count
}

// Reserve implements Allocator.
func (p *Pool) Reserve(request, room uint64) (uint64, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	h, held := p.index[request]
	if !held {
		return 0, unknown(request, "room of")
	}
	g := p.arena.spans[p.holders[h].last].next
	if !p.arena.gapAt(g) {
		return 0, nil
	}
	p.unfile(g)
	s := &p.arena.spans[g]
	s.room = min(room, s.Count)
	p.file(g)
	return s.room, nil
}
