package pagealloc

import (
	"cmp"
	"math"
	"slices"

	"github.com/pkg/errors"
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
func FromPages(pages []uint64) ([]Run, error) { return coalesced(appendPages(nil, pages)) }

// Coalesce gives the maximal runs of the pages in runs, in address order. runs is
// not changed. It fails with ErrArgument when a run is empty, or a page is in two
// runs; the message has the page's number.
func Coalesce(runs []Run) ([]Run, error) { return coalesced(slices.Clone(runs)) }

func coalesced(runs []Run) ([]Run, error) {
	runs, _, err := coalesce(runs)
	return runs, err
}

// appendPages adds pages to runs, a page to the last run when it follows it.
func appendPages(runs []Run, pages []uint64) []Run {
	for _, page := range pages {
		if last := len(runs) - 1; last >= 0 && runs[last].End() == page {
			runs[last].Count++
		} else {
			runs = append(runs, Run{page, 1})
		}
	}
	return runs
}

// coalesce is Coalesce in place; on an error page is the one at fault.
func coalesce(runs []Run) (merged []Run, page uint64, err error) {
	slices.SortFunc(runs, func(a, b Run) int { return cmp.Compare(a.First, b.First) })
	merged = runs[:0]
	for _, run := range runs {
		if err := run.check(); err != nil {
			return nil, run.First, err
		}
		if len(merged) == 0 {
			merged = append(merged, run)
			continue
		}
		last := &merged[len(merged)-1]
		switch {
		case run.First < last.End():
			return nil, run.First, errors.WithMessagef(ErrArgument, "page %d is listed twice", run.First)
		case run.First == last.End():
			last.Count += run.Count
		default:
			merged = append(merged, run)
		}
	}
	return merged, 0, nil
}

// Pages lists the pages of runs one by one, in the order of runs.
func Pages(runs []Run) []uint64 {
	total := uint64(0)
	for _, run := range runs {
		total += run.Count
	}
	pages := make([]uint64, total)
	list(pages, runs)
	return pages
}
