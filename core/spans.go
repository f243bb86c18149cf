package core

import "slices"

// span is an address range [start, end).
type span struct{ start, end uint64 }

// holds tells whether [addr, addr+n) lies in the range, for any numbers: the
// comparisons cannot overflow.
func (s span) holds(addr, n uint64) bool {
	return n <= s.end-s.start && addr-s.start <= s.end-s.start-n
}

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
// to the last question: neighbouring blocks mostly lie in one range, or walk from
// one to the next.
func (s spans) seek(addr uint64, hint int) int {
	if uint(hint) < uint(len(s)) {
		if s[hint].start <= addr && addr < s[hint].end {
			return hint
		}
		if next := hint + 1; next < len(s) && s[next].start <= addr && addr < s[next].end {
			return next
		}
	}
	// Written out, since a search with a function costs three times as much.
	low, high := 0, len(s)
	for low < high {
		mid := int(uint(low+high) >> 1)
		if s[mid].end > addr {
			high = mid
		} else {
			low = mid + 1
		}
	}
	if low < len(s) && s[low].start <= addr {
		return low
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
