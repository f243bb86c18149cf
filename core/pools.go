package core

import "mooncake/pagealloc"

// What the C ABI needs of package pagealloc. An engine knows nothing of page pools, and
// a pool nothing of engines: they meet in the caller, which turns page numbers into addresses.
type (
	Pages     = pagealloc.Allocator
	PagesKind = pagealloc.Kind
)

// Why a call of Pages failed.
var (
	ErrPagesInvalid  = pagealloc.ErrArgument
	ErrPagesFull     = pagealloc.ErrExhausted
	ErrPageForeign   = pagealloc.ErrForeign
	ErrPageFree      = pagealloc.ErrNotAllocated
	ErrPageOfAnother = pagealloc.ErrHolder
	ErrNoRequest     = pagealloc.ErrUnknown
	ErrRequestExists = pagealloc.ErrExists
)

// NewPages makes a pool of the count pages from page first.
func NewPages(kind PagesKind, first, count uint64) (Pages, error) {
	return pagealloc.NewKind(kind, first, count)
}
