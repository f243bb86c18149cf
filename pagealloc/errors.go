package pagealloc

import (
	"fmt"

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
	// ErrHolder says that a page to be freed belongs to another request.
	ErrHolder = errors.New("page belongs to another request")
	// ErrUnknown says that a request holds no pages.
	ErrUnknown = errors.New("request holds no pages")
	// ErrExists says that a request that is to begin holds pages already.
	ErrExists = errors.New("request holds pages already: grow it")
	// ErrExhausted says that fewer pages are free than were asked for.
	ErrExhausted = errors.New("not enough free pages")
)

// PageError is why a page could not be freed. It wraps ErrArgument, ErrForeign,
// ErrNotAllocated or ErrHolder.
type PageError struct {
	Page    uint64
	Request uint64 // that was to give it back, or Anyone
	err     error
}

func (e *PageError) Error() string {
	if e.Request == Anyone {
		return fmt.Sprintf("free of page %d: %v", e.Page, e.err)
	}
	return fmt.Sprintf("free of page %d of request %d: %v", e.Page, e.Request, e.err)
}

func (e *PageError) Unwrap() error { return e.err }

// RequestError is why nothing could be done for a request. It wraps ErrArgument,
// ErrUnknown, ErrExists or ErrExhausted.
type RequestError struct {
	Request uint64
	verb    string
	err     error
}

func (e *RequestError) Error() string {
	return fmt.Sprintf("%s request %d: %v", e.verb, e.Request, e.err)
}

func (e *RequestError) Unwrap() error { return e.err }

func unknown(request uint64, verb string) error {
	return &RequestError{request, verb, ErrUnknown}
}

// checkAlloc refuses what no allocator can give; held tells whether the request holds pages.
func checkAlloc(request, count, free uint64, held bool) error {
	var why error
	switch {
	case request == Anyone:
		why = errors.WithMessage(ErrArgument, "this number stands for any request")
	case count == 0:
		why = errors.WithMessage(ErrArgument, "a request has at least one page")
	case held:
		why = ErrExists
	case count > free:
		why = errors.WithMessagef(ErrExhausted, "%d are free", free)
	default:
		return nil
	}
	return &RequestError{request, fmt.Sprintf("alloc of %d pages for", count), why}
}

// checkGrow does so for growth.
func checkGrow(request, count, free uint64, held bool) error {
	var why error
	switch {
	case !held:
		why = ErrUnknown
	case count > free:
		why = errors.WithMessagef(ErrExhausted, "%d are free", free)
	default:
		return nil
	}
	return &RequestError{request, fmt.Sprintf("growth by %d pages of", count), why}
}

// checkBatch refuses a batch of growth whose arrays do not fit each other.
func checkBatch(requests, counts []uint64) error {
	if len(counts) != 0 && len(counts) != len(requests) {
		return errors.WithMessagef(ErrArgument, "growth of %d requests: there are %d counts", len(requests), len(counts))
	}
	return nil
}

func tooShort(pages []uint64, total uint64) error {
	return errors.WithMessagef(ErrArgument, "growth by %d pages: there is room for %d numbers", total, len(pages))
}

// countOf is what request i of a batch gets.
func countOf(counts []uint64, i int) uint64 {
	if len(counts) == 0 {
		return 1
	}
	return counts[i]
}

// foreign is about the first page of run that is not of pool; nil if all are.
func foreign(request uint64, run, pool Run) error {
	page := run.First
	switch {
	case run.First < pool.First:
	case run.End() > pool.End():
		page = max(run.First, pool.End())
	default:
		return nil
	}
	return &PageError{page, request, errors.WithMessagef(ErrForeign, "the pool has pages %d to %d", pool.First, pool.End()-1)}
}

func notAllocated(request, page uint64) error { return &PageError{page, request, ErrNotAllocated} }

func heldBy(request, page, holder uint64) error {
	return &PageError{page, request, errors.WithMessagef(ErrHolder, "request %d has it", holder)}
}
