package pagealloc

import (
	"slices"
	"sync"

	"github.com/pkg/errors"
)

// List is the Allocator that a Pool is compared with: a list of free pages, of which the
// first ones are taken. Nothing is set aside. It has some 20 bytes for each page.
//
// Of NewFIFO, freed pages go to the end of the list in the order in which the request got them, or in which
// they are given back: the list of the incident.
//
// Of NewSorted, freed pages are collected apart; when the list has fewer pages than a
// call wants, they are added and all of it is sorted. It is what serving
// frameworks do today when they move KV caches between machines.
type List struct {
	mu       sync.Mutex // guards all that follows
	pages    Run
	sorted   bool
	free     []uint64 // the list
	freed    []uint64 // of a sorted one: what is not in it yet
	memory   []uint64 // what free is part of
	holders  []uint32 // by page: number of the request; 0 for a free page
	requests map[uint64]*listed
	numbers  map[uint32]uint64 // request by number
	next     uint32
	taken    []Run
}

var _ Allocator = (*List)(nil)

// listed is a request that holds pages.
type listed struct {
	number uint32
	pages  uint64
	runs   []Run
}

// mostListed is how many pages a List may have: those take 2.5 GiB of memory.
const mostListed = 1 << 27

// NewFIFO makes a list of the count pages from page first. It fails with ErrArgument when
// count is 0 or more than 2^27, or the range passes the last page number.
func NewFIFO(first, count uint64) (*List, error) { return newList(first, count, false) }

// NewSorted is NewFIFO of a list that is sorted when it runs short.
func NewSorted(first, count uint64) (*List, error) { return newList(first, count, true) }

func newList(first, count uint64, sorted bool) (*List, error) {
	pages := Run{first, count}
	if err := pages.check(); err != nil {
		return nil, errors.WithMessage(err, "pool")
	}
	if count > mostListed {
		return nil, errors.WithMessagef(ErrArgument, "pool: %d pages, a list has at most %d", count, uint64(mostListed))
	}
	l := &List{
		pages:    pages,
		sorted:   sorted,
		memory:   make([]uint64, 2*count),
		holders:  make([]uint32, count),
		requests: map[uint64]*listed{},
		numbers:  map[uint32]uint64{},
	}
	l.free = l.memory[:count]
	list(l.free, []Run{pages})
	return l, nil
}

// Alloc implements Allocator.
func (l *List) Alloc(request, count, room uint64) ([]Run, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.alloc(request, count); err != nil {
		return nil, err
	}
	return append([]Run(nil), l.taken...), nil
}

// AllocPages implements Allocator.
func (l *List) AllocPages(request, room uint64, pages []uint64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.alloc(request, uint64(len(pages))); err != nil {
		return err
	}
	list(pages, l.taken)
	return nil
}

func (l *List) alloc(request, count uint64) error {
	_, held := l.requests[request]
	if err := checkAlloc(request, count, l.available(), held); err != nil {
		return err
	}
	r := &listed{number: l.number()}
	l.requests[request], l.numbers[r.number] = r, request
	l.take(r, count)
	return nil
}

// number finds one that is not in use, which matters after 2^32 requests.
func (l *List) number() uint32 {
	for {
		l.next++
		if _, used := l.numbers[l.next]; l.next != 0 && !used {
			return l.next
		}
	}
}

// take gives r the first count pages, which must be free, and leaves the runs in l.taken.
func (l *List) take(r *listed, count uint64) {
	if count > uint64(len(l.free)) {
		l.add(l.freed)
		l.freed = l.freed[:0]
		slices.Sort(l.free)
	}
	pages := l.free[:count]
	l.free = l.free[count:]
	for _, page := range pages {
		l.holders[page-l.pages.First] = r.number
	}
	r.pages += count
	r.runs = appendPages(r.runs, pages)
	l.taken = appendPages(l.taken[:0], pages)
}

// add puts pages at the end of the list, which is moved to the start of its memory when that is used up: there
// is room for twice as many pages as can be free.
func (l *List) add(pages []uint64) {
	if len(pages) > cap(l.free)-len(l.free) {
		l.free = l.memory[:copy(l.memory, l.free)]
	}
	l.free = append(l.free, pages...)
}

func (l *List) available() uint64 { return uint64(len(l.free) + len(l.freed)) }

// Grow implements Allocator.
func (l *List) Grow(request, count uint64) ([]Run, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	r, held := l.requests[request]
	if err := checkGrow(request, count, l.available(), held); err != nil {
		return nil, err
	}
	l.take(r, count)
	return append([]Run(nil), l.taken...), nil
}

// GrowBatch implements Allocator.
func (l *List) GrowBatch(requests, counts, pages []uint64) error {
	if err := checkBatch(requests, counts); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	total := uint64(0)
	for i, request := range requests {
		n := countOf(counts, i)
		if err := checkGrow(request, n, l.available()-total, l.requests[request] != nil); err != nil {
			return err
		}
		total += n
	}
	if uint64(len(pages)) < total {
		return tooShort(pages, total)
	}
	for i, request := range requests {
		l.take(l.requests[request], countOf(counts, i))
		pages = list(pages, l.taken)
	}
	return nil
}

// Reserve implements Allocator: nothing can be set aside.
func (l *List) Reserve(request, room uint64) (uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, held := l.requests[request]; !held {
		return 0, unknown(request, "room of")
	}
	return 0, nil
}

// Free implements Allocator.
func (l *List) Free(request uint64, runs []Run) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.giveBack(request, runs)
}

// FreePages implements Allocator.
func (l *List) FreePages(request uint64, pages []uint64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.giveBack(request, appendPages(nil, pages))
}

func (l *List) giveBack(request uint64, runs []Run) error {
	merged, page, err := coalesce(slices.Clone(runs))
	if err != nil {
		return &PageError{page, request, err}
	}
	for _, run := range merged {
		if err := l.checkHeld(request, run); err != nil {
			return err
		}
	}
	shorter := map[*listed]bool{}
	for _, run := range runs {
		for page := run.First; page < run.End(); page++ {
			r := l.requests[l.numbers[l.holders[page-l.pages.First]]]
			shorter[r] = true
			r.pages--
		}
		l.put(run)
	}
	for r := range shorter {
		l.tidy(r)
	}
	return nil
}

func (l *List) checkHeld(request uint64, run Run) error {
	if err := foreign(request, run, l.pages); err != nil {
		return err
	}
	for page := run.First; page < run.End(); page++ {
		number := l.holders[page-l.pages.First]
		if number == 0 {
			return notAllocated(request, page)
		}
		if holder := l.numbers[number]; request != Anyone && request != holder {
			return heldBy(request, page, holder)
		}
	}
	return nil
}

// put makes the pages of run free.
func (l *List) put(run Run) {
	clear(l.holders[run.First-l.pages.First:][:run.Count])
	pages := Pages([]Run{run})
	if l.sorted {
		l.freed = append(l.freed, pages...)
	} else {
		l.add(pages)
	}
}

// tidy takes out of r's runs the pages that it does not hold any more, and ends r when none is left.
func (l *List) tidy(r *listed) {
	if r.pages == 0 {
		delete(l.requests, l.numbers[r.number])
		delete(l.numbers, r.number)
		return
	}
	kept := slices.DeleteFunc(Pages(r.runs), func(page uint64) bool {
		return l.holders[page-l.pages.First] != r.number
	})
	r.runs = appendPages(r.runs[:0], kept)
}

// Release implements Allocator.
func (l *List) Release(request uint64) (uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	r, held := l.requests[request]
	if !held {
		return 0, unknown(request, "release of")
	}
	for _, run := range r.runs {
		l.put(run)
	}
	pages := r.pages
	r.pages = 0
	l.tidy(r)
	return pages, nil
}

// Runs implements Allocator.
func (l *List) Runs(runs []Run, request uint64) ([]Run, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	r, held := l.requests[request]
	if !held {
		return runs, unknown(request, "runs of")
	}
	return append(runs, r.runs...), nil
}

// Stats implements Allocator. It looks at every free page.
func (l *List) Stats() Stats {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := Stats{Pages: l.pages.Count, Requests: uint64(len(l.requests))}
	for _, run := range appendPages(appendPages(nil, l.free), l.freed) {
		s.count(run.Count)
	}
	for _, r := range l.requests {
		s.AllocatedRuns += uint64(len(r.runs))
	}
	return s
}
