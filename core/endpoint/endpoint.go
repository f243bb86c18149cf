package endpoint

import (
	"context"
	"syscall"
	"time"

	"github.com/pkg/errors"

	"mooncake/core/metadata"
)

// Endpoint is a connection that this side may post to. Safe for concurrent use.
type Endpoint struct {
	link
	target Target
	number uint64        // of a connection to a peer of this implementation, else 0
	up     chan struct{} // closed when the endpoint may be posted to

	// Guarded by store.mu.
	asked     bool        // the peer was, or is being, asked to connect
	isUp      bool        // up is closed
	ack       *time.Timer // ends the wait for the peer's ready ack; nil if there is none
	fences    uint64
	confirmed bool // the peer's queue pairs are known to be gone
	restarted bool
}

// Queues are the endpoint's queue pairs. They are the endpoint's to break and close;
// others only post to them.
func (e *Endpoint) Queues() Queues { return e.queues }

// Target is what the endpoint connects to. Session is "" if the peer came first.
func (e *Endpoint) Target() Target { return e.target }

// Ours tells whether the peer is of this implementation. Then the endpoint is from
// here to there only.
func (e *Endpoint) Ours() bool { return e.target.Instance != "" }

// Done is closed when the endpoint is of no use any more: it was retired here, the
// peer connected anew, or said that its side is gone.
func (e *Endpoint) Done() <-chan struct{} { return e.dead }

// Err says why, once Done is closed; nil before.
func (e *Endpoint) Err() error {
	if !e.isDead() {
		return nil
	}
	return e.cause
}

// Fenced is how many fences the peer had made when it last fenced this engine off
// before this connection was made; 0: never. What was begun with knowledge of fewer
// must not go on here.
func (e *Endpoint) Fenced() uint64 {
	e.store.mu.Lock()
	defer e.store.mu.Unlock()
	return e.fences
}

// PeerRestarted tells whether Retire found another process in the peer's place.
func (e *Endpoint) PeerRestarted() bool {
	e.store.mu.Lock()
	defer e.store.mu.Unlock()
	return e.restarted
}

// Retire ends the endpoint: its queue pairs are broken at once and destroyed, and a
// peer of this implementation is told, again and again while it does not answer. It
// blocks until both is done, or ctx ends, or the peer has been silent for the
// handshake's time.
//
// confirmed: nothing that was ever posted to the endpoint can land at the peer any
// more, because the peer destroyed its queue pairs, never had any, or its process is
// gone (PeerRestarted). Peers of another implementation confirm nothing. Retire may be
// called again, also at once by several.
func (e *Endpoint) Retire(ctx context.Context) (confirmed bool) {
	s := e.store
	s.mu.Lock()
	e.die(ErrRetired)
	s.mu.Unlock()
	confirmed = e.confirm(ctx)
	select {
	case <-e.gone:
		return confirmed
	case <-ctx.Done():
		return false
	}
}

const (
	retireTry   = 5 * time.Second // for one answer
	firstPause  = 20 * time.Millisecond
	longestWait = time.Second // between two tries
)

// confirm asks the peer to retire its side until it says that it has.
func (e *Endpoint) confirm(ctx context.Context) bool {
	s := e.store
	s.mu.Lock()
	known := e.confirmed || e.path == s.path || e.Ours() && !e.asked
	s.mu.Unlock()
	if known || !e.Ours() {
		return known
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	defer context.AfterFunc(s.ctx, cancel)()
	for pause := firstPause; ; pause = min(2*pause, longestWait) {
		try, cancel := context.WithTimeout(ctx, retireTry)
		reply, err := s.cfg.Ask(try, e.target.Session, e.retireMessage())
		cancel()
		if e.learn(reply) || e.deserted(err) { // also if it comes late: it stays true
			return true
		}
		s.log.Debug("retire not confirmed", "peer", e.path, "connection", e.number, "err", err)
		if !sleep(ctx, pause) {
			return false
		}
	}
}

// learn tells whether the reply to a retire message confirms it.
func (e *Endpoint) learn(reply *metadata.ConnectionMessage) bool {
	if reply == nil || reply.Extension == nil {
		return false
	}
	ext := reply.Extension
	other := ext.Instance != e.target.Instance
	if !other && (reply.ReplyMsg != "" || ext.Kind != kindRetire || ext.Connection != e.number) {
		return false
	}
	e.store.mu.Lock()
	e.confirmed, e.restarted = true, e.restarted || other
	e.store.mu.Unlock()
	return true
}

// deserted tells whether nobody listens any more where the peer's process did: it is gone,
// or it is closing, which it does only after its queue pairs are destroyed.
func (e *Endpoint) deserted(err error) bool {
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return false
	}
	e.store.mu.Lock()
	defer e.store.mu.Unlock()
	e.confirmed = true
	return true
}

// setUp says that the endpoint may be posted to. store.mu is held.
func (e *Endpoint) setUp() {
	if e.isUp || e.isDead() {
		return
	}
	e.isUp = true
	e.stopWaiting()
	close(e.up)
}

// awaitAck gives the peer its time for the ready ack. store.mu is held.
func (e *Endpoint) awaitAck() {
	s := e.store
	if e.isUp || e.isDead() {
		return
	}
	e.ack = time.AfterFunc(s.cfg.AckTimeout, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if !e.isUp {
			e.die(errors.WithMessagef(ErrNoAck, "%s: nothing within %v", quote(e.path), s.cfg.AckTimeout))
		}
	})
}

func (e *Endpoint) stopWaiting() {
	if e.ack != nil {
		e.ack.Stop()
	}
}

// wait returns when the endpoint may be posted to, or is dead, or ctx ends.
func (e *Endpoint) wait(ctx context.Context) error {
	select {
	case <-e.up:
	case <-e.dead:
		return e.cause
	case <-ctx.Done():
		// Both may be so at once, and select chooses at random.
		select {
		case <-e.up:
		default:
			return errors.WithMessagef(ctx.Err(), "connect %s to %s", e.store.path, quote(e.path))
		}
	}
	return e.Err()
}

// sleep is false if ctx ended meanwhile.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
