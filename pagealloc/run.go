package pagealloc

import (
	"cmp"
	"math"
	"slices"

	"github.com/pkg/errors"
)

// Errors that callers can act on; compare with errors.Is.
var (
	// ErrArgument says that an argument makes no sense for any pool.
	ErrArgument = errors.New("invalid argument")
	// ErrForeign says that a page does not belong to the pool.
	ErrForeign = errors.New("page is outside the pool")
	// ErrNotAllocated says that a page to be freed is free already.
	ErrNotAllocated = errors.New("page is not allocated")
	// ErrExhausted says that fewer pages are free than were asked for.
	ErrExhausted = errors.New("not enough free pages")
)

// Run is Count consecutive pages from page First.
type Run struct {
	First, Count uint64
}

// End is the page after the last one of r.
func (r Run) End() uint64 { return r.First + r.Count }

// Split cuts r before its page number at: head has at pages, tail the others.
// Either may be empty. It fails with ErrArgument when r has fewer than at pages.
func (r Run) Split(at uint64) (head, tail Run, err error) {
	if at > r.Count {
		return Run{}, Run{}, errors.WithMessagef(ErrArgument,
			"split at %d: the run from page %d has %d pages", at, r.First, r.Count)
	}
	return Run{r.First, at}, Run{r.First + at, r.Count - at}, nil
}

func (r Run) check() error {
	if r.Count == 0 {
		return errors.WithMessagef(ErrArgument, "the run from page %d is empty", r.First)
	}
	if r.First > math.MaxUint64-r.Count {
		return errors.WithMessagef(ErrArgument,
			"the run of %d pages from page %d passes the last page number", r.Count, r.First)
	}
	return nil
}

// FromPages gives the maximal runs of a set of pages, in address order. pages may
// be in any order and is not changed. It fails with ErrArgument when a page is in
// the list twice; the message has its number.
func FromPages(pages []uint64) ([]Run, error) {
	sorted := slices.Clone(pages)
	slices.Sort(sorted)
	var runs []Run
	for i, page := range sorted {
		switch {
		case page == math.MaxUint64:
			// The End of a run must be a number too.
			return nil, errors.WithMessagef(ErrArgument, "page %d is too large", page)
		case i > 0 && sorted[i-1] == page:
			return nil, errors.WithMessagef(ErrArgument, "page %d is listed twice", page)
		case i > 0 && sorted[i-1]+1 == page:
			runs[len(runs)-1].Count++
		default:
			runs = append(runs, Run{page, 1})
		}
	}
	return runs, nil
}

// Coalesce gives the maximal runs of the pages in runs, in address order. runs is
// not changed. It fails with ErrArgument when a run is empty, or a page is in two
// runs; the message has the page's number.
func Coalesce(runs []Run) ([]Run, error) {
	sorted := slices.Clone(runs)
	slices.SortFunc(sorted, func(a, b Run) int { return cmp.Compare(a.First, b.First) })
	merged := sorted[:0]
	for _, run := range sorted {
		if err := run.check(); err != nil {
			return nil, err
		}
		if len(merged) == 0 {
			merged = append(merged, run)
			continue
		}
		last := &merged[len(merged)-1]
		switch {
		case run.First < last.End():
			return nil, errors.WithMessagef(ErrArgument, "page %d is listed twice", run.First)
		case run.First == last.End():
			last.Count += run.Count
		default:
			merged = append(merged, run)
		}
	}
	return merged, nil
}

// Pages lists the pages of runs one by one, in the order of runs.
func Pages(runs []Run) []uint64 {
	total := uint64(0)
	for _, run := range runs {
		total += run.Count
	}
	pages := make([]uint64, 0, total)
	for _, run := range runs {
		for page := run.First; page < run.End(); page++ {
			pages = append(pages, page)
		}
	}
	return pages
}
