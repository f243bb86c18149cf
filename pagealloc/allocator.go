package pagealloc

import "github.com/pkg/errors"

// Pool is a range of pages of which some are free. One goroutine at a time may
// use it.
type Pool struct {
	pages     Run
	free      uint64
	byAddress *tree
	// bySize has the same runs as byAddress, shortest first, then by address: the
	// first one at or after {0, n} is the best fit for n pages.
	bySize *tree
}

// Stats describes a pool at one moment.
type Stats struct {
	Pages      uint64 // of the pool
	FreePages  uint64
	FreeRuns   uint64 // maximal runs of free pages
	LongestRun uint64 // pages of the longest of them
}

// New makes a pool of the count pages from page first, all of them free. It fails
// with ErrArgument when count is 0 or the range passes the last page number.
func New(first, count uint64) (*Pool, error) {
	pages := Run{first, count}
	if err := pages.check(); err != nil {
		return nil, errors.WithMessage(err, "pool")
	}
	p := &Pool{
		pages:     pages,
		byAddress: newTree(func(a, b Run) bool { return a.First < b.First }),
		bySize: newTree(func(a, b Run) bool {
			return a.Count < b.Count || a.Count == b.Count && a.First < b.First
		}),
	}
	p.insert(pages)
	return p, nil
}

// Alloc takes count pages out of the pool. They come from the start of the shortest
// free run that holds them all, the lowest of equals. Where no run is long enough,
// the longest runs are used up first, and the remainder is served in the same way.
// The runs are in the order in which they were taken; neighbours of the list never
// touch. Time is O(log n) for each run returned, n being the number of free runs.
//
// It fails with ErrArgument when count is 0, and with ErrExhausted when fewer
// than count pages are free; then nothing is taken.
func (p *Pool) Alloc(count uint64) ([]Run, error) {
	if count == 0 {
		return nil, errors.WithMessage(ErrArgument, "alloc of 0 pages")
	}
	if count > p.free {
		return nil, errors.WithMessagef(ErrExhausted, "alloc of %d pages, %d are free", count, p.free)
	}
	var runs []Run
	for count > 0 {
		from := p.fit(count)
		taken := Run{from.First, min(from.Count, count)}
		p.remove(from)
		if rest := (Run{taken.End(), from.Count - taken.Count}); rest.Count > 0 {
			p.insert(rest)
		}
		runs = append(runs, taken)
		count -= taken.Count
	}
	return runs, nil
}

// fit chooses the free run that serves count pages best. There must be one.
func (p *Pool) fit(count uint64) Run {
	if best, ok := p.bySize.atLeast(Run{0, count}); ok {
		return best
	}
	longest, _ := p.bySize.last()
	// last is the highest of the longest runs, we want the lowest.
	longest, _ = p.bySize.atLeast(Run{0, longest.Count})
	return longest
}

// Free gives pages back; they need not be cut as Alloc returned them. All of runs
// or, on an error, none of them are freed. Time is O(log n) for each run, and
// sorting runs.
//
// It fails with ErrArgument when a run is empty or a page is in two runs,
// ErrForeign when a page is not of this pool, and ErrNotAllocated when a page is
// free already; the message has the page's number.
func (p *Pool) Free(runs []Run) error {
	merged, err := Coalesce(runs)
	if err != nil {
		return errors.WithMessage(err, "free")
	}
	for _, run := range merged {
		if err := p.checkAllocated(run); err != nil {
			return errors.WithMessage(err, "free")
		}
	}
	for _, run := range merged {
		p.insert(p.absorb(run))
	}
	return nil
}

// checkAllocated tells whether every page of run was handed out by this pool.
func (p *Pool) checkAllocated(run Run) error {
	if run.First < p.pages.First {
		return p.foreign(run.First)
	}
	if run.End() > p.pages.End() {
		return p.foreign(max(run.First, p.pages.End()))
	}
	if before, ok := p.byAddress.atMost(run); ok && before.End() > run.First {
		return errors.WithMessagef(ErrNotAllocated, "page %d", run.First)
	}
	if after, ok := p.byAddress.atLeast(run); ok && after.First < run.End() {
		return errors.WithMessagef(ErrNotAllocated, "page %d", after.First)
	}
	return nil
}

func (p *Pool) foreign(page uint64) error {
	return errors.WithMessagef(ErrForeign, "page %d, the pool has pages %d to %d",
		page, p.pages.First, p.pages.End()-1)
}

// absorb takes the free neighbours of run out of the pool and returns run grown by
// them.
func (p *Pool) absorb(run Run) Run {
	if before, ok := p.byAddress.atMost(run); ok && before.End() == run.First {
		p.remove(before)
		run = Run{before.First, before.Count + run.Count}
	}
	if after, ok := p.byAddress.atLeast(run); ok && after.First == run.End() {
		p.remove(after)
		run.Count += after.Count
	}
	return run
}

func (p *Pool) insert(run Run) {
	p.byAddress.insert(run)
	p.bySize.insert(run)
	p.free += run.Count
}

func (p *Pool) remove(run Run) {
	p.byAddress.remove(run)
	p.bySize.remove(run)
	p.free -= run.Count
}

// Stats describes the pool as it is now.
func (p *Pool) Stats() Stats {
	longest, _ := p.bySize.last()
	return Stats{
		Pages:      p.pages.Count,
		FreePages:  p.free,
		FreeRuns:   uint64(p.byAddress.size),
		LongestRun: longest.Count,
	}
}
