package pagealloc

import (
	"math"
	"math/bits"

	"github.com/pkg/errors"
)

// Anyone stands, as the request of a call that frees pages, for whichever requests
// hold them. No request has this number.
const Anyone = math.MaxUint64

// Allocator is what a Pool has in common with the lists that it is compared with.
// Requests have numbers that the caller chooses: any but Anyone. A request begins with
// Alloc and ends when its last page is freed. All methods may be called by several
// goroutines at once. A call that fails changes nothing.
type Allocator interface {
	// Alloc gives request, which must hold no pages, count of them, and sets up to room more aside
	// for it to grow into. It returns them as runs in the request's order; runs that follow
	// each other do not touch. It fails with ErrArgument when count is 0 or request is
	// Anyone, ErrExists, and ErrExhausted when fewer than count pages are free, set
	// aside for others or not.
	Alloc(request, count, room uint64) ([]Run, error)
	// AllocPages is Alloc of len(pages) pages, whose numbers it writes to pages.
	AllocPages(request, room uint64, pages []uint64) error
	// Grow gives request, which must hold pages, count more. It returns those as Alloc does.
	// It fails with ErrUnknown and ErrExhausted.
	Grow(request, count uint64) ([]Run, error)
	// GrowBatch gives every requests[i] counts[i] pages more, or one if counts is empty, in this order,
	// and writes the numbers of all to pages, one request's behind the other's. All requests
	// grow or, on an error, none of them. A count may be 0, and a request in the list twice.
	// It fails as Grow does, and with ErrArgument when counts and requests differ
	// in length or pages is too short. It allocates no memory but for a larger batch
	// than any before it.
	GrowBatch(requests, counts, pages []uint64) error
	// Reserve changes how many pages are set aside for request: to room, or as many as are free
	// right behind it, if that is less; 0 gives all of them back. It returns how many
	// are. It fails with ErrUnknown.
	Reserve(request, room uint64) (uint64, error)
	// Free takes pages back from request, or from whichever requests hold them if request is Anyone;
	// they need not be cut as they were given. It fails with a PageError
	// that has the number of the page: it wraps ErrArgument when a run is empty or a page is in
	// two runs, ErrForeign when a page is not of this pool, ErrNotAllocated when it
	// is free already, and ErrHolder when another request holds it.
	Free(request uint64, runs []Run) error
	// FreePages is Free of pages in any order.
	FreePages(request uint64, pages []uint64) error
	// Release frees every page of request and returns how many there were. It fails with ErrUnknown.
	Release(request uint64) (uint64, error)
	// Runs adds to runs those of request, in the order in which it got them. It fails with ErrUnknown.
	Runs(runs []Run, request uint64) ([]Run, error)
	// Stats describes the pool as it is now.
	Stats() Stats
}

// Kind is a kind of Allocator.
type Kind uint8

const (
	KindRuns   Kind = iota // a Pool
	KindFIFO               // a List of NewFIFO
	KindSorted             // a List of NewSorted
)

// NewKind makes an allocator of the count pages from page first, all of them free. It
// fails with ErrArgument.
func NewKind(kind Kind, first, count uint64) (Allocator, error) {
	switch kind {
	case KindRuns:
		return New(first, count)
	case KindFIFO:
		return NewFIFO(first, count)
	case KindSorted:
		return NewSorted(first, count)
	}
	return nil, errors.WithMessagef(ErrArgument, "kind %d of pool", kind)
}

// Stats describes an allocator at one moment.
type Stats struct {
	Pages         uint64 // of the pool
	FreePages     uint64 // that can be had, set aside or not
	ReservedPages uint64 // of the free ones, those set aside
	FreeRuns      uint64 // maximal runs of free pages; of a List, in the order in which it will give them
	LongestRun    uint64 // pages of the longest of them
	Requests      uint64 // that hold pages
	AllocatedRuns uint64 // runs that the pages of requests are in
	// Histogram counts free runs by length: element k those of 2^k to 2^(k+1)-1 pages.
	Histogram [64]uint64
}

// Fragmentation is the part of the free pages that the longest run does not have: 0 when all are in
// one run or none is free, near 1 when a request for all of them would get many runs.
func (s Stats) Fragmentation() float64 {
	if s.FreePages == 0 {
		return 0
	}
	return 1 - float64(s.LongestRun)/float64(s.FreePages)
}

// AllocatedPages is how many pages requests hold.
func (s Stats) AllocatedPages() uint64 { return s.Pages - s.FreePages }

// class is the element of Stats.Histogram that a run of count pages is counted in.
func class(count uint64) int { return bits.Len64(count) - 1 }

// count adds a free run.
func (s *Stats) count(run uint64) {
	s.FreePages += run
	s.FreeRuns++
	s.Histogram[class(run)]++
	s.LongestRun = max(s.LongestRun, run)
}

// list writes the numbers of the pages in runs and returns what is left of pages.
func list(pages []uint64, runs []Run) []uint64 {
	for _, run := range runs {
		for i := range pages[:run.Count] {
			pages[i] = run.First + uint64(i)
		}
		pages = pages[run.Count:]
	}
	return pages
}
