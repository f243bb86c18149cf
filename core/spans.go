package core

import (
	"slices"
	"sort"
)

// span is an address range [start, end).
type span struct{ start, end uint64 }

// spans are disjoint address ranges in ascending order.
type spans []span

// newSpans sorts ranges; where they overlap (a peer may say anything) the later
// one loses its overlapping part.
func newSpans(ranges []span) spans {
	s := slices.Clone(ranges)
	slices.SortFunc(s, func(a, b span) int {
		if a.start < b.start {
			return -1
		}
		if a.start > b.start {
			return 1
		}
		return 0
	})
	out := s[:0]
	for _, r := range s {
		if n := len(out); n > 0 && r.start < out[n-1].end {
			r.start = out[n-1].end
		}
		if r.start < r.end {
			out = append(out, r)
		}
	}
	return out
}

// seek returns the index of the range that holds addr, or -1. hint is the answer
// to the last question: neighbouring blocks mostly lie in one range.
func (s spans) seek(addr uint64, hint int) int {
	if hint >= 0 && hint < len(s) && s[hint].start <= addr && addr < s[hint].end {
		return hint
	}
	i := sort.Search(len(s), func(i int) bool { return s[i].end > addr })
	if i < len(s) && s[i].start <= addr {
		return i
	}
	return -1
}

// covers tells whether every byte of [addr, end) lies in a range, and in which
// range the first one does; adjacent ranges will do. end > addr.
func (s spans) covers(addr, end uint64, hint int) (first int, ok bool) {
	first = s.seek(addr, hint)
	if first < 0 {
		return first, false
	}
	for i := first; ; i++ {
		if end <= s[i].end {
			return first, true
		}
		if i+1 == len(s) || s[i+1].start != s[i].end {
			return first, false
		}
	}
}
