//go:build cgo

package core

import (
	"math/rand/v2"
	"slices"
)

// stormShape is what one batch moves: where each block lies in its slot, on either side,
// and its length.
type stormShape struct {
	at     [][3]int
	groups []PageGroup // if not nil: the same, as page groups
}

// newStormShape makes a random one for a slot; no two blocks share a byte on either side.
func newStormShape(r *rand.Rand, size int, here, there uint64) stormShape {
	switch r.IntN(8) {
	case 0:
		n := 1 + r.IntN(size)
		return stormShape{at: [][3]int{{r.IntN(size - n + 1), r.IntN(size - n + 1), n}}}
	case 1: // few and small: a queue pair of their own
		return stormBlocks(r, size, 1+r.IntN(64), 1+r.IntN(2000))
	case 2: // so many that they are checked while the first ones move
		return stormBlocks(r, size, 20_000, 1+r.IntN(24))
	case 3, 4:
		return stormPages(r, size, here, there)
	}
	return stormBlocks(r, size, 1+r.IntN(3000), 1<<r.IntN(18))
}

// stormBlocks are blocks of up to most bytes, in order or not, side by side or not on each
// side.
func stormBlocks(r *rand.Rand, size, count, most int) (s stormShape) {
	gaps := [2]int{r.IntN(3) * r.IntN(100), r.IntN(3) * r.IntN(100)}
	odd := r.IntN(2) == 0
	here, there := r.IntN(min(4096, size)), r.IntN(min(4096, size))
	for range count {
		n := most
		if odd {
			n = r.IntN(most + 1)
		}
		if here+n > size || there+n > size {
			break
		}
		s.at = append(s.at, [3]int{here, there, n})
		here, there = here+n, there+n
		for i, p := range []*int{&here, &there} {
			if gaps[i] > 0 {
				*p += r.IntN(gaps[i])
			}
		}
	}
	switch r.IntN(3) {
	case 0: // one side in order, the other not
		for i := range s.at {
			if j := r.IntN(i + 1); s.at[i][2] == s.at[j][2] {
				s.at[i][1], s.at[j][1] = s.at[j][1], s.at[i][1]
			}
		}
	case 1:
		r.Shuffle(len(s.at), func(i, j int) { s.at[i], s.at[j] = s.at[j], s.at[i] })
	}
	return s
}

// stormPages are page groups, each in a part of the slot of its own.
func stormPages(r *rand.Rand, size int, here, there uint64) (s stormShape) {
	count := 1 + r.IntN(3)
	part := size / count
	for n := range count {
		if g, ok := stormGroup(r, part, here+uint64(n*part), there+uint64(n*part)); ok {
			s.groups = append(s.groups, g)
		}
	}
	list := blockList(s.groups)
	for i, n := range list.Length {
		s.at = append(s.at, [3]int{int(list.Local[i] - here), int(list.Remote[i] - there), int(n)})
	}
	return s
}

func stormGroup(r *rand.Rand, size int, here, there uint64) (g PageGroup, ok bool) {
	layers := 1 + r.IntN(4)
	length := 1 + r.IntN(1<<r.IntN(14))
	strides := [2]int{length + r.IntN(2)*r.IntN(100), length + r.IntN(2)*r.IntN(100)}
	limit := size / layers / max(strides[0], strides[1])
	if limit == 0 {
		return g, false
	}
	many := min(limit, 1+r.IntN(3000/layers))
	local, remote := runsOfPages(r, many, limit, 1+r.IntN(30)), runsOfPages(r, many, limit, 1+r.IntN(30))
	many = min(len(local), len(remote))
	g.Local, g.Remote = listOf(r, local[:many]), listOf(r, remote[:many])
	pagewise := r.IntN(2) == 0
	for k := range layers {
		at := [2]int{k * limit * strides[0], k * limit * strides[1]}
		between := strides
		if pagewise {
			at = [2]int{k * strides[0], k * strides[1]}
			between = [2]int{layers * strides[0], layers * strides[1]}
		}
		g.Layers = append(g.Layers, Layer{LocalBase: here + uint64(at[0]), RemoteBase: there + uint64(at[1]),
			LocalStride: uint64(between[0]), RemoteStride: uint64(between[1]), Length: uint64(length)})
	}
	return g, true
}

// blocks is the shape as a block list.
func (s *stormShape) blocks(here, there uint64) (b Blocks) {
	for _, x := range s.at {
		b.Local = append(b.Local, here+uint64(x[0]))
		b.Remote = append(b.Remote, there+uint64(x[1]))
		b.Length = append(b.Length, uint64(x[2]))
	}
	return b
}

// cuts are the borders of a random number of ranges that make up size bytes.
func cuts(r *rand.Rand, size, most int) []int {
	at := []int{0, size}
	for range r.IntN(most) {
		at = append(at, 1+r.IntN(size-1))
	}
	slices.Sort(at)
	return slices.Compact(at)
}
