package local

import (
	"math"
	"time"
)

// When a posting goes through rings: figures of docs/decisions.md.
const (
	// packedBytes is how much must be ahead for it to be worth waking the peer up.
	packedBytes = 1 << 20
	// packedFrom is how many ranges are, where they are shorter than packedBelow: a
	// system call takes as long for such a one as for one of that length.
	packedFrom  = 384
	packedBelow = 4 << 10
)

// choice is between rings and system calls for postings of long ranges. Packing takes
// less of both processors together, but it needs the peer to have one free, and the two
// to share a cache. Which of it holds may change at any time, so postings are timed, and
// now and then one goes the other way.
type choice struct {
	last [2][lastPaces]float64 // ns a byte of postings that went through rings [1] or not [0]
	seen [2]int                // how many there were
	made int                   // choices
}

const (
	// lastPaces is how many postings are remembered. The best of them counts, since much
	// makes a posting slow that has nothing to do with the way it went.
	lastPaces = 4
	// The first postings go both ways in turn, and of the later ones every
	// exploreEvery-th the way that was slower.
	exploreFirst = 2 * lastPaces
	exploreEvery = 32
	// muchFaster is by what system calls must be faster to be preferred.
	muchFaster = 1.25
)

// rings makes a choice.
func (c *choice) rings() bool {
	c.made++
	if c.made <= exploreFirst {
		return c.made%2 == 1
	}
	best := c.seen[0] == 0 || muchFaster*c.pace(0) >= c.pace(1)
	if c.made%exploreEvery == 0 {
		return !best
	}
	return best
}

// pace is the best of the last postings one way.
func (c *choice) pace(way int) float64 {
	best := math.Inf(1)
	for _, pace := range c.last[way][:min(c.seen[way], lastPaces)] {
		best = min(best, pace)
	}
	return best
}

// took notes how long a posting took.
func (c *choice) took(rings bool, bytes uint64, d time.Duration) {
	way := 0
	if rings {
		way = 1
	}
	c.last[way][c.seen[way]%lastPaces] = float64(d) / float64(bytes)
	c.seen[way]++
}

// choose decides whether a posting goes through rings: lanes without one leave it to
// the others then. p.mu is held.
func (p *Peer) choose(po *Posting) {
	if po.packs || po.timed || p.guest != nil || p.remote.cfg.Mode == DirectOnly {
		return
	}
	slices, bytes := po.src.Ahead()
	switch {
	case slices == 0:
	case bytes/slices < packedBelow:
		po.packs = slices >= packedFrom
	case bytes >= packedBytes && p.remote.direct.Load():
		po.packs = p.choice.rings()
		po.timed, po.rings, po.began = true, po.packs, time.Now()
	default:
		po.packs = bytes >= packedBytes
	}
}

// timing notes how a posting did that has just ended. p.mu is held.
func (p *Peer) timing(po *Posting) {
	if bytes := po.arrived.Load(); po.timed && po.cause == nil && bytes >= packedBytes {
		p.choice.took(po.rings, bytes, time.Since(po.began))
	}
}

// packing tells whether a posting goes through rings.
func (p *Peer) packing(po *Posting) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return po.packs || (p.remote != nil && !p.remote.direct.Load())
}

// stalled notes that the peer does not make room in its rings for a posting, and lets the
// rest of it go the other way, if it has long ranges.
func (p *Peer) stalled(po *Posting) {
	p.mu.Lock()
	other := po.timed && po.packs && p.remote.direct.Load()
	if other {
		po.packs = false
	}
	p.mu.Unlock()
	if other {
		p.wakeAll()
	}
}
