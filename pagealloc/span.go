package pagealloc

import "math/rand/v2"

// span is a stretch of the pool: pages of one request, or a gap, which is a maximal
// run of free pages. The spans of a pool cover it. They are named by their index, so
// that the collector has no pointers to follow, and unused ones are used again.
type span struct {
	Run
	room   uint64 // of a gap: how many of its first pages are set aside for the request that ends there
	filed  uint64 // of a gap: the count that byCount knows it by
	holder int32  // index of the request; or isGap, isNothing
	// The neighbours by address, in a ring that goes through span 0. Of an unused span
	// next is the next unused one.
	prev, next int32
	priority   uint32 // in trees: no child has a higher one
	// Of a gap the children in byOpen, then those in byCount. Of a request's span the
	// children in byAddress, then the spans before and after it in the request's order.
	links [4]int32
}

const (
	none   = 0 // as an index: nobody
	before = 2 // in links
	after  = 3

	isGap     = 0 // as a holder
	isNothing = -1
)

// open is how many pages of a gap are not set aside.
func (s *span) open() uint64 { return s.Count - s.room }

// arena has the spans of a pool. A pointer into spans is valid until add is called.
type arena struct {
	spans  []span
	unused int32
	rng    *rand.PCG
}

// The seed is fixed: the shape of the trees is then the same in every process, and a
// pool's behaviour never depends on it.
func newArena() arena {
	return arena{spans: []span{{holder: isNothing}}, rng: rand.NewPCG(1, 2)}
}

// add makes a span that is behind span prev, which is 0 at the pool's start.
func (a *arena) add(prev int32, run Run, holder int32) int32 {
	i := a.unused
	if i == none {
		i = int32(len(a.spans))
		if i < 0 {
			panic("pagealloc: a pool cannot have more than 2147483647 runs")
		}
		a.spans = append(a.spans, span{})
	} else {
		a.unused = a.spans[i].next
	}
	next := a.spans[prev].next
	a.spans[i] = span{Run: run, holder: holder, prev: prev, next: next, priority: uint32(a.rng.Uint64() >> 32)}
	a.spans[prev].next = i
	a.spans[next].prev = i
	return i
}

// drop ends a span; its neighbours become each other's.
func (a *arena) drop(i int32) {
	s := &a.spans[i]
	a.spans[s.prev].next = s.next
	a.spans[s.next].prev = s.prev
	*s = span{holder: isNothing, next: a.unused}
	a.unused = i
}

// gapAt tells whether span i is a gap.
func (a *arena) gapAt(i int32) bool { return a.spans[i].holder == isGap }
