package local

import (
	"maps"
	"slices"
	"time"

	"github.com/pkg/errors"
)

// lose ends everything: the connection broke. gone: the peer's side touches nothing
// any more.
func (p *Peer) lose(cause error, gone bool) {
	if p.lost.Swap(true) || p.stop.Load() {
		return
	}
	if p.cfg.Lost != nil {
		p.cfg.Lost()
	}
	p.mu.Lock()
	if p.cause == nil {
		p.cause = cause
	}
	live := slices.Collect(maps.Keys(p.live))
	for _, po := range live {
		po.fail(po.because(cause))
	}
	p.mu.Unlock()
	for _, po := range live {
		n := 0
		for _, l := range p.lanes {
			n += l.takeBack(po, true)
		}
		p.mu.Lock()
		po.loud = po.loud || (n > 0 && !gone)
		p.mu.Unlock()
		p.finished(po, n, nil)
	}
	p.wakeAll()
	if p.remote != nil {
		p.remote.socket.SetReadDeadline(time.Unix(1, 0)) // the watcher has nothing more to see
	}
}

// checkEmpty notices that the last posting of a peer that closes has ended. p.mu is
// held.
func (p *Peer) checkEmpty() {
	if p.closing && len(p.live) == 0 && !p.left {
		p.left = true
		close(p.empty)
	}
}

// Close ends all postings with ErrClosed, and returns when nothing of this side
// touches memory any more. It must not be called from a Source.
func (p *Peer) Close() {
	p.mu.Lock()
	if p.closing {
		p.mu.Unlock()
		return
	}
	p.closing = true
	if p.cause == nil {
		p.cause = ErrClosed
	}
	live := slices.Collect(maps.Keys(p.live))
	p.checkEmpty()
	p.mu.Unlock()
	for _, po := range live {
		po.Stop(ErrClosed)
	}
	<-p.empty
	p.stop.Store(true)
	p.wakeAll()
	if r := p.remote; r != nil {
		for _, bell := range r.bells {
			bell.silence()
		}
		r.socket.SetReadDeadline(time.Unix(1, 0))
		r.other.stopWaiting()
	}
	p.wg.Wait()
	for _, l := range p.lanes {
		l.turn.Lock()   // a submitting thread may be leaving
		l.turn.Unlock() //nolint:staticcheck // having had it is what counts
	}
	if p.remote != nil {
		p.remote.close()
	} else {
		p.guest.close()
	}
}

// errGoneAway words the end of a connection.
func errGoneAway(r *Remote) error {
	if r.other.deadOrClosed() && r.other.file != nil {
		return errors.WithMessagef(ErrPeer, "process %d has ended", r.other.pid)
	}
	return errors.WithMessage(ErrPeer, "the peer closed the connection")
}
