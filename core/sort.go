package core

import (
	"math/bits"
	"sync"
)

// Lists may be shuffled: both sides in the same way, by a caller who kept blocks in a hash
// table, say. Blocks have no order, so a window whose blocks are neighbours of each other,
// but not one after the other, is sorted before it is planned. Lists that were shuffled on each
// side by itself, as those of FIFO pools are, gain nothing by it, and are found out by
// samples.

const (
	sortSamples = 64 // blocks of a window that are looked at
	// sortWindow is the shortest window that is worth a look.
	sortWindow = 4 * sortSamples
	// sortProbes are blocks whose successors are searched for.
	sortProbes = 8
	// maxCalm is how many windows pass unlooked at when those before were not sorted.
	maxCalm = 32
)

// sorting decides which windows are sorted.
type sorting struct {
	calm int // windows until the next look
	wait int // what calm will be then
}

const (
	indexBits = 12 // of a block in a window
	digitBits = 11 // sorted by at a time
	digits    = 1 << digitBits
)

// sorter is room to sort a window.
type sorter struct {
	keys, other           [laterWindow]uint64 // local address, and index in the window
	count                 [digits]uint32
	local, remote, length [laterWindow]uint64
}

var sorters = sync.Pool{New: func() any { return new(sorter) }}

// pays tells whether sorting a window will merge its blocks.
func (s *sorting) pays(b Blocks) bool {
	if len(b.Length) < sortWindow || len(b.Length) > laterWindow {
		return false
	}
	if s.calm > 0 {
		s.calm--
		return false
	}
	if scattered(b) && findsNeighbours(b) {
		s.wait = 0
		return true
	}
	s.wait = min(2*s.wait+1, maxCalm)
	s.calm = s.wait
	return false
}

// scattered tells whether blocks may be neighbours in another order: few follow the one
// before them, they are not in order, and several are equally far from their other side.
func scattered(b Blocks) bool {
	var seen [64]uint64 // a set of distances, by 12 bits of a hash
	breaks, descents, alike := 0, 0, 0
	for k := range sortSamples {
		i := k * (len(b.Length) - 1) / sortSamples
		x, y := stretch{b.Local[i], b.Remote[i], b.Length[i]}, stretch{b.Local[i+1], b.Remote[i+1], b.Length[i+1]}
		if x.meets(y) || y.meets(x) {
			continue
		}
		breaks++
		if y.local < x.local {
			descents++
		}
		h := (x.remote - x.local) * 0x9E3779B97F4A7C15 >> 52
		if seen[h/64]>>(h%64)&1 != 0 {
			alike++
		}
		seen[h/64] |= 1 << (h % 64)
	}
	return breaks > sortSamples/2 && descents > breaks/8 && alike > breaks/8
}

// meets tells whether y begins where s ends, on both sides.
func (s stretch) meets(y stretch) bool {
	return s.local+s.length == y.local && s.remote+s.length == y.remote
}

// findsNeighbours tells whether most of the blocks have one that begins where they end.
func findsNeighbours(b Blocks) bool {
	found := 0
	for k := range sortProbes {
		i := (2*k + 1) * len(b.Length) / (2 * sortProbes)
		local, remote := b.Local[i]+b.Length[i], b.Remote[i]+b.Length[i]
		for j, at := range b.Local {
			if at == local && b.Remote[j] == remote {
				found++
				break
			}
		}
	}
	return found >= sortProbes*3/4
}

// sort returns the blocks of a window in the order of their local addresses; false: they
// lie too far apart. The caller may change the arrays meanwhile: what is returned
// is then any blocks, of which each is looked at when it is planned.
func (s *sorter) sort(b Blocks) (sorted Blocks, ok bool) {
	n := len(b.Local)
	keys, other := s.keys[:n], s.other[:n]
	low := b.Local[0]
	for _, at := range b.Local {
		low = min(low, at)
	}
	var all uint64
	for i, at := range b.Local {
		keys[i] = at - low
		all |= at - low
	}
	if all == 0 {
		return b, false
	}
	// Pages are multiples of something: the bits that none of them has are left out.
	shift := bits.TrailingZeros64(all)
	width := bits.Len64(all >> shift)
	if width+indexBits > 64 {
		return b, false
	}
	for i := range keys {
		keys[i] = keys[i]>>shift<<indexBits | uint64(i)
	}
	for k, key := range s.radix(keys, other, width) {
		i := key % laterWindow
		s.local[k], s.remote[k], s.length[k] = b.Local[i], b.Remote[i], b.Length[i]
	}
	return Blocks{Local: s.local[:n], Remote: s.remote[:n], Length: s.length[:n]}, true
}

// radix returns keys in the order of the bits above their index; both slices are used.
func (s *sorter) radix(keys, other []uint64, width int) []uint64 {
	for digit := indexBits; digit < indexBits+width; digit += digitBits {
		clear(s.count[:])
		for _, key := range keys {
			s.count[key>>digit%digits]++
		}
		var sum uint32
		for d, c := range s.count {
			s.count[d], sum = sum, sum+c
		}
		for _, key := range keys {
			c := &s.count[key>>digit%digits]
			other[*c] = key
			*c++
		}
		keys, other = other, keys
	}
	return keys
}
