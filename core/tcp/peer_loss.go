package tcp

import (
	"slices"

	"github.com/pkg/errors"
)

// leave takes a lane that has ended out of service, and gets others to do what it
// would have done. It returns the count of broken connections.
func (p *Peer) leave(l *lane) uint64 {
	// First, so that who no longer sees the lane (see HungUp) knows that it was lost.
	p.lost(l.loss.cause)
	p.mu.Lock()
	p.lanes = slices.DeleteFunc(p.lanes, func(other *lane) bool { return other == l })
	after := p.count(l.loss.cause, l.sentB.Load() > 0)
	var ended []*finishedPosting
	if len(p.lanes) == 0 && p.dialing == 0 && p.barren >= 2 {
		// A peer that accepts connections and closes them at once is no better
		// than one that refuses them.
		p.barren = 0
		ended = p.dialFailed(errors.WithMessagef(ErrPeer, "%s: %v", p.cfg.Name, l.loss.cause))
	}
	p.mu.Unlock()
	for _, e := range ended {
		e.report()
	}
	p.rouse()
	return after
}

// count keeps the books of broken connections. p.mu is held.
func (p *Peer) count(cause error, carried bool) uint64 {
	if connectionBroke(cause) {
		p.breaks++
		p.barren++
	}
	if carried {
		p.barren = 0
	}
	return p.breaks
}

// lost tells the owner that a connection has broken.
func (p *Peer) lost(cause error) {
	if p.cfg.Lost != nil && connectionBroke(cause) && p.ctx.Err() == nil {
		p.cfg.Lost()
	}
}

// blame fails the posting at whose request a lane was lost, if it is among those
// whose slices entries are.
func (p *Peer) blame(entries []entry, why loss) {
	if connectionBroke(why.cause) || errors.Is(why.cause, errQuiesced) || why.recut {
		return
	}
	i := slices.IndexFunc(entries, func(e entry) bool { return e.posting == why.culprit })
	if i < 0 {
		return
	}
	e := &entries[i]
	if errors.Is(why.cause, ErrRejected) && why.example.posting == why.culprit {
		e = &why.example
	}
	p.mu.Lock()
	e.posting.fail(errors.WithMessagef(why.cause, "%s: %d bytes at %#x", p.cfg.Name, e.Len, e.Remote), true)
	p.mu.Unlock()
}

// covered tells whether a rejected slice may be sent once more. It blocks for a
// question to the peer.
func (p *Peer) covered(e *entry) bool {
	return e.attempt == 0 && p.cfg.Covered != nil && p.cfg.Covered(e.Slice)
}

// retireSome retires those slices of a lane whose postings some chooses, and
// returns the others. some is called with p.mu held.
func (p *Peer) retireSome(l carrier, entries []entry, why loss, some func(*Posting) bool) (others []entry) {
	var out []entry
	p.mu.Lock()
	for _, e := range entries {
		if some(e.posting) {
			out = append(out, e)
		} else {
			others = append(others, e)
		}
	}
	p.mu.Unlock()
	p.retired(l, out, why)
	return others
}

// retired takes slices off the books of a lane that was lost: they are sent again
// elsewhere, or end their postings.
func (p *Peer) retired(l carrier, entries []entry, why loss) {
	var ended []*finishedPosting
	resent := map[*Posting]int{}
	p.mu.Lock()
	for i := range entries {
		e := &entries[i]
		e.posting.carry(l, -1)
		if p.again(e, why) {
			resent[e.posting]++
		}
	}
	for po, n := range resent {
		po.src.Resent(n)
	}
	for i := range entries {
		ended = append(ended, entries[i].posting.settle())
	}
	p.mu.Unlock()
	for _, e := range ended {
		e.report()
	}
	p.rouse()
}

// again decides what becomes of a slice whose lane was lost; true: it was queued
// to be sent once more. p.mu is held.
func (p *Peer) again(e *entry, why loss) bool {
	po := e.posting
	switch {
	case po.cause != nil:
		if !why.fenced {
			po.loud = true
		}
		return false
	case !why.fenced:
		// Bytes may still be on their way: sending them again could let an old
		// copy land after the new one was confirmed.
		po.fail(errors.WithMessagef(ErrPeer, "%s: %v", p.cfg.Name, why.cause), false)
		return false
	case connectionBroke(why.cause):
		if e.attempt > 0 {
			po.fail(errors.WithMessagef(ErrPeer, "%s: connection broke twice: %v", p.cfg.Name, why.cause), true)
			return false
		}
		e.attempt++
		po.redoAfter = max(po.redoAfter, why.after)
	}
	if why.recut {
		e.attempt++
	}
	// Else another posting was to blame, and this slice is so far unserved.
	po.src.Recut(e.Slice, func(s Slice) {
		po.redo = append(po.redo, entry{Slice: s, posting: po, attempt: e.attempt})
	})
	p.enqueue(po)
	return true
}

// connectionBroke tells a lost connection from one that was given up for another
// reason.
func connectionBroke(cause error) bool {
	for _, other := range []error{errQuiesced, ErrRejected, ErrProtocol, ErrMemory} {
		if errors.Is(cause, other) {
			return false
		}
	}
	return true
}
