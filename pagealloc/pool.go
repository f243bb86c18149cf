package pagealloc

import (
	"sync"

	"github.com/pkg/errors"
)

// Pool is the Allocator that keeps runs long; the package comment has its rules. Each
// run that a call gives, takes back or changes costs O(log n) steps, n being the runs and
// requests in the pool.
//
// A run, free or held, takes 64 bytes and a request some 100; a page takes nothing. What
// once was used is kept for reuse: then no call allocates memory but for what it returns.
type Pool struct {
	mu    sync.Mutex // guards all that follows
	pages Run

	arena     arena
	byAddress tree
	byOpen    tree
	byCount   tree
	stale     []int32 // gaps that byCount may know by another count than they have

	holders []holder // by index; the first is nobody's
	idle    int32    // the first unused one, whose first is the next
	index   map[uint64]int32

	stats Stats // but for Requests and LongestRun
	taken []Run // what the call under way has taken
	given []Run // what it gives back
	batch []growth
}

var _ Allocator = (*Pool)(nil)

// holder is a request that holds pages.
type holder struct {
	request     uint64
	pages       uint64
	grown       uint64 // how many of the pages it ever got came by growing
	first, last int32  // spans, in the order in which it got them
}

// New makes a pool of the count pages from page first, all of them free. It fails
// with ErrArgument when count is 0 or the range passes the last page number.
func New(first, count uint64) (*Pool, error) {
	pages := Run{first, count}
	if err := pages.check(); err != nil {
		return nil, errors.WithMessage(err, "pool")
	}
	p := &Pool{
		pages:   pages,
		arena:   newArena(),
		holders: make([]holder, 1),
		index:   map[uint64]int32{},
		stats:   Stats{Pages: count},
	}
	p.byAddress = tree{arena: &p.arena, order: byAddress}
	p.byOpen = tree{arena: &p.arena, order: byOpen}
	p.byCount = tree{arena: &p.arena, order: byCount, child: 2}
	p.file(p.arena.add(none, pages, isGap))
	return p, nil
}

// Alloc implements Allocator.
func (p *Pool) Alloc(request, count, room uint64) ([]Run, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.alloc(request, count, room); err != nil {
		return nil, err
	}
	return append([]Run(nil), p.taken...), nil
}

// AllocPages implements Allocator.
func (p *Pool) AllocPages(request, room uint64, pages []uint64) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.alloc(request, uint64(len(pages)), room); err != nil {
		return err
	}
	list(pages, p.taken)
	return nil
}

// alloc leaves the runs in p.taken.
func (p *Pool) alloc(request, count, room uint64) error {
	_, held := p.index[request]
	if err := checkAlloc(request, count, p.stats.FreePages, held); err != nil {
		return err
	}
	p.taken = p.taken[:0]
	p.place(p.begin(request), count, room)
	return nil
}

// begin makes a holder of a request.
func (p *Pool) begin(request uint64) int32 {
	h := p.idle
	if h == none {
		p.holders = append(p.holders, holder{})
		h = int32(len(p.holders) - 1)
	} else {
		p.idle = p.holders[h].first
	}
	p.holders[h] = holder{request: request}
	p.index[request] = h
	return h
}

// end forgets a holder that has no spans any more.
func (p *Pool) end(h int32) {
	delete(p.index, p.holders[h].request)
	p.holders[h] = holder{first: p.idle}
	p.idle = h
}

// Runs implements Allocator.
func (p *Pool) Runs(runs []Run, request uint64) ([]Run, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	h, held := p.index[request]
	if !held {
		return runs, unknown(request, "runs of")
	}
	for s := p.holders[h].first; s != none; s = p.arena.spans[s].links[after] {
		runs = append(runs, p.arena.spans[s].Run)
	}
	return runs, nil
}

// Stats implements Allocator.
func (p *Pool) Stats() Stats {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.settle()
	s := p.stats
	s.Requests = uint64(len(p.index))
	if g := p.byCount.longest(); g != none {
		s.LongestRun = p.arena.spans[g].Count
	}
	return s
}
