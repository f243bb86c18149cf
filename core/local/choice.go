package local

import (
	"sync/atomic"
	"time"
)

// When a posting goes through rings: figures of docs/decisions.md. Packing takes less
// of both processors together than system calls do, but it needs the peer to run.
const (
	// packedBytes is how much must be ahead for it to be worth waking the peer up.
	packedBytes = 1 << 20
	// packedFrom is how many ranges are, where they are shorter than packedBelow: a
	// system call takes as long for such a one as for one of that length.
	packedFrom  = 384
	packedBelow = 4 << 10
)

// choice remembers how the peer did. Long ranges are copied by system calls for a
// while after it was seen not to empty its rings: it has no processor to do that on.
type choice struct {
	until  atomic.Int64 // no long ranges through rings before this time, in ns
	pauses atomic.Int64 // how long the last such while was, in ns; 0: it empties them
}

const (
	firstPause = 10 * time.Millisecond
	longPause  = time.Second
)

var started = time.Now()

// flowed notes that the peer empties its rings.
func (c *choice) flowed() {
	if c.pauses.Load() != 0 && time.Since(started) > time.Duration(c.until.Load()) {
		c.pauses.Store(0)
	}
}

// pause notes that it does not.
func (c *choice) pause() {
	now, d := time.Since(started), time.Duration(c.pauses.Load())
	if now < time.Duration(c.until.Load()) {
		return
	}
	d = min(max(2*d, firstPause), longPause)
	c.pauses.Store(int64(d))
	c.until.Store(int64(now + d))
}

func (c *choice) paused() bool { return time.Since(started) < time.Duration(c.until.Load()) }

// choose decides whether a posting goes through rings: lanes without one leave it to
// the others then. p.mu is held.
func (p *Peer) choose(po *Posting) {
	if po.packs || p.guest != nil || p.remote.cfg.Mode == DirectOnly {
		return
	}
	slices, bytes := po.src.Ahead()
	if slices == 0 {
		return
	}
	if po.short = bytes/slices < packedBelow; po.short {
		po.packs = slices >= packedFrom
	} else {
		po.packs = bytes >= packedBytes && !p.choice.paused()
	}
}

// packing tells whether a posting goes through rings.
func (p *Peer) packing(po *Posting) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return po.packs || (p.remote != nil && !p.remote.direct.Load())
}

// stalled notes that the peer does not make room for a posting, and lets the rest of it
// go another way, if it has long ranges.
func (p *Peer) stalled(po *Posting) {
	p.mu.Lock()
	other := !po.short && po.packs && p.remote.direct.Load()
	if other {
		po.packs = false
	}
	p.mu.Unlock()
	if other {
		p.choice.pause()
		p.wakeAll()
	}
}
