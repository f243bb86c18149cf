//go:build cgo

package core

import (
	"context"
	"time"

	"github.com/pkg/errors"

	"mooncake/rdma"
)

// unfinished is what one posting had on a lane that broke.
type unfinished struct {
	posting *rdmaPosting
	pieces  []rdma.Undone
	posted  bool // some of them may be on their way, or have arrived
	late    bool // some of them may still arrive at the peer: a READ writes only here
}

// breakage is what is known while a repair waits for the peer.
type breakage struct {
	left []*unfinished
	late bool // postings that have to end do not wait for the peer any more
}

// confirmLimit is how long a posting that has to end waits for the peer to confirm that
// its end of the connection is closed. A peer that is alive needs a millisecond or two.
const confirmLimit = 500 * time.Millisecond

// repair is for a lane that broke and whose requests have all come back: what was on it is
// posted again, on another connection, once the peer's end of the old one is known to
// accept nothing more; or else fails. It blocks for messages to the peer.
func (p *rdmaPath) repair(lane *rdmaLane) {
	p.mu.Lock()
	if p.lane != lane { // the path is closing
		p.mu.Unlock()
		return
	}
	p.lane, p.connecting = nil, true // nobody else connects meanwhile
	p.mu.Unlock()
	t := p.transport
	why := lane.Failure()
	if lane.stalled.Load() {
		why.StatusText = "requests in flight, and none completed for too long"
	}
	blamed, left := t.postingOf(why.Ticket), t.unfinished(lane)
	defer p.hasten(left).Stop()
	t.forget(lane)
	if err := lane.detach(); err != nil {
		t.engine.log.Error("bug in mooncake: a broken lane is in use", "err", err)
	}
	confirmed := t.retire(lane.endpoint)
	p.mu.Lock()
	left = letGo(left, confirmed)
	p.mu.Unlock()

	ctx, cancel := context.WithTimeout(t.engine.ctx, t.engine.cfg.ConnectTimeout)
	defer cancel()
	p.process.suspect.Store(true)
	err := p.process.refresh(ctx)
	if errors.Is(err, ErrRestarted) {
		confirmed = true // the old process took its queue pairs with it
	}
	p.mu.Lock()
	p.judge(lane, why, blamed, left, err == nil)
	left = letGo(left, confirmed)
	wanted := p.wanted(left, confirmed)
	p.mu.Unlock()
	var next *rdmaLane
	if err == nil && wanted {
		next, err = p.dial(ctx)
	}
	confirmed = confirmed || next != nil && t.replaced(lane, next)
	p.resume(next, err, left, confirmed, why)
}

// hasten lets postings that have to end do so after confirmLimit.
func (p *rdmaPath) hasten(left []*unfinished) *time.Timer {
	b := &breakage{left: left}
	p.mu.Lock()
	p.broke = b
	p.mu.Unlock()
	return time.AfterFunc(confirmLimit, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		b.late = true
		for _, f := range left {
			if p.broke == b && f.posting.cause != nil {
				f.giveUp(false)
			}
		}
	})
}

// overdue ends a posting of which pieces were on a lane whose repair takes long. path.mu
// is held.
func (po *rdmaPosting) overdue() {
	b := po.path.broke
	if b == nil || !b.late {
		return
	}
	for _, f := range b.left {
		if f.posting == po {
			f.giveUp(false)
		}
	}
}

// giveUp lets go of a posting's pieces, once. confirmed: nothing of them can arrive at the
// peer any more. path.mu is held.
func (f *unfinished) giveUp(confirmed bool) {
	if len(f.pieces) > 0 {
		f.posting.loud = f.posting.loud || f.late && !confirmed
		f.posting.ticket.Drop(len(f.pieces))
		f.pieces = nil
	}
}

// unfinished collects by posting what was on a lane that broke.
func (t *rdmaTransport) unfinished(lane *rdmaLane) (all []*unfinished) {
	of := map[*rdma.Ticket]*unfinished{}
	var some [feedPieces]rdma.Undone
	for n := lane.Undone(some[:]); n > 0; n = lane.Undone(some[:]) {
		for _, u := range some[:n] {
			f := of[u.Ticket]
			if f == nil {
				f = &unfinished{posting: t.postingOf(u.Ticket)}
				of[u.Ticket] = f
				all = append(all, f)
			}
			f.pieces = append(f.pieces, u)
			f.posted = f.posted || u.Posted
			f.late = f.late || u.Posted && f.posting.op == Write
		}
	}
	return all
}

// letGo gives up what belongs to postings that must end, as far as nothing of it can arrive
// any more: they need not wait for another connection. It returns the rest. path.mu is held.
func letGo(left []*unfinished, confirmed bool) (rest []*unfinished) {
	for _, f := range left {
		if f.posting.cause != nil && (confirmed || !f.late) {
			f.giveUp(confirmed)
		} else {
			rest = append(rest, f)
		}
	}
	return rest
}

// replaced tells whether the peer has given up its end of a connection in place of which
// there is another one now. Upstream does so before it answers; one of ours begins to, and
// says when asked that it is done.
func (t *rdmaTransport) replaced(old, next *rdmaLane) bool {
	if old.ours {
		return t.retire(old.endpoint)
	}
	return old.device == next.device
}

// judge fails the posting that a lane broke by, and counts the break against all others
// when the connection is to blame. answered: the peer has just said what is registered; a process
// that dies loses its memory before its queue pairs, and is not said to have refused. p.mu is held.
func (p *rdmaPath) judge(lane *rdmaLane, why rdma.Failure, blamed *rdmaPosting, left []*unfinished, answered bool) {
	switch {
	case (why.Cause == 0 || why.Cause == rdma.FailedByCaller) && !lane.stalled.Load(): // for a batch that had to end, or the peer told
	case why.Cause == rdma.FailedCompletion && refusedByPeer(why.Status) && answered && !p.confused(lane, why):
		if blamed != nil && !p.stale(lane, why.Piece, blamed) {
			blamed.fail(errors.WithMessagef(ErrRejected, "%s: %d bytes at %#x: %s", p.process.name, why.Piece.Length, why.Piece.Remote, why.StatusText), true)
		}
	case why.Cause == rdma.FailedPost || why.Cause == rdma.FailedPiece || refusedHere(why.Status):
		if blamed != nil {
			blamed.fail(errors.WithMessagef(ErrDevice, "%s: %d bytes at %#x: %s", p.transport.port.name, why.Piece.Length, why.Piece.Local, why.StatusText), true)
		}
	default:
		for _, f := range left {
			if f.posted {
				f.posting.breaks++
			}
		}
	}
}

// Completions that blame a request itself, as verbs numbers them.
const (
	wcLocalLength   = 1
	wcLocalQP       = 2
	wcLocalMemory   = 4
	wcLocalAccess   = 8
	wcRemoteInvalid = 9
	wcRemoteAccess  = 10
	wcRemoteFailed  = 11
)

// confused tells whether the peer called a request invalid that is not. Soft-RoCE does so at
// times when it has to send packets again. p.mu is held.
func (p *rdmaPath) confused(lane *rdmaLane, why rdma.Failure) bool {
	keys := p.remoteKeys(lane.device)
	i := keys.spans.seek(why.Piece.Remote, -1)
	return why.Status == wcRemoteInvalid && i >= 0 &&
		keys.spans[i].holds(why.Piece.Remote, uint64(why.Piece.Length)) && keys.rkeys[i] == why.Piece.RKey
}

func refusedByPeer(status int) bool {
	return status == wcRemoteInvalid || status == wcRemoteAccess || status == wcRemoteFailed
}

func refusedHere(status int) bool {
	return status == wcLocalLength || status == wcLocalQP || status == wcLocalMemory || status == wcLocalAccess
}

// stale tells whether the peer refused a piece because its memory was registered anew
// since its key was learned: with the key of now it may be posted once more. p.mu is held.
func (p *rdmaPath) stale(lane *rdmaLane, piece rdma.Piece, po *rdmaPosting) bool {
	keys := p.remoteKeys(lane.device)
	i := keys.spans.seek(piece.Remote, -1)
	if i < 0 || !keys.spans[i].holds(piece.Remote, uint64(piece.Length)) || keys.rkeys[i] == piece.RKey {
		return false
	}
	po.renewed++
	return po.renewed <= 2
}

// wanted tells whether a connection is needed: somebody goes on, or the peer has not
// confirmed yet that it accepts nothing more on the old one. p.mu is held.
func (p *rdmaPath) wanted(left []*unfinished, confirmed bool) bool {
	if p.closed {
		return false
	}
	for po := range p.live {
		if po.cause == nil && po.breaks < 2 {
			return true
		}
	}
	for _, f := range left {
		if f.late && !confirmed {
			return true
		}
	}
	return false
}

// resume puts what was on a broken lane in line for the next one, or fails it.
func (p *rdmaPath) resume(next *rdmaLane, err error, left []*unfinished, confirmed bool, why rdma.Failure) {
	p.mu.Lock()
	p.connecting, p.broke = false, nil
	if next != nil {
		p.use(next)
	}
	for po := range p.live {
		po.uncut()
	}
	for _, f := range left {
		if len(f.pieces) == 0 { // it could not wait
			continue
		}
		p.redo(f, next != nil, err, confirmed, why)
	}
	if next == nil && err != nil {
		for po := range p.live {
			po.fail(err, true)
		}
	}
	if next != nil || err != nil {
		p.tell(err)
	}
	p.connectIfNeeded()
	done := p.settle()
	p.mu.Unlock()
	report(done)
	p.serve(nil)
}

// redo decides what becomes of a posting's pieces. p.mu is held.
func (p *rdmaPath) redo(f *unfinished, connected bool, err error, confirmed bool, why rdma.Failure) {
	po := f.posting
	reason := why.StatusText
	if err != nil {
		reason += "; " + err.Error()
	}
	switch {
	case po.cause != nil:
	case errors.Is(err, ErrRestarted):
		po.fail(err, true)
	case f.late && !confirmed:
		// Bytes may still be on their way: posting them again could let an old copy land
		// after the new one was confirmed.
		po.fail(errors.WithMessagef(ErrPeer, "%s: %s", p.process.name, reason), false)
	case po.breaks > 1:
		po.fail(errors.WithMessagef(ErrPeer, "%s: the connection broke twice: %s", p.process.name, reason), true)
	case !connected && err != nil:
		po.fail(err, true)
	}
	if po.cause != nil {
		f.giveUp(confirmed)
		return
	}
	po.redo = append(po.redo, f.pieces...)
	p.transport.engine.counts.resent.Add(uint64(len(f.pieces)))
	p.enqueue(po)
}

// uncut takes back pieces that no lane took: their keys may be old. path.mu is held.
func (po *rdmaPosting) uncut() {
	for _, p := range po.kept {
		po.back = append(po.back, slice{local: p.Local, remote: p.Remote, length: uint64(p.Length), region: int32(p.User)})
	}
	if po.kept = nil; po.waiting() && po.cause == nil {
		po.path.enqueue(po)
	}
}
