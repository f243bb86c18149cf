package endpoint

import (
	"context"
	"slices"
	"time"

	"github.com/pkg/errors"
)

// Nobody tells when a peer of another implementation is gone, or one of this that was
// killed: queue pairs to it stay, and that is of no harm while there is room. When there
// is none, a connection that peers use gives way to the next: first those whose queue
// pairs are in error or whose peer does not answer any more, then the one that was made
// longest ago, if nothing here posts to it. A peer that is there after all makes its
// connection again.

const (
	roomTime   = 3 * time.Second  // for others to give way
	mostLeave  = 8                // for one that comes: theirs may have fewer queue pairs
	settledFor = 30 * time.Second // until a connection may give way whose peer is there
)

// ErrNoRoom is what Hardware says that has as many queue pairs as it can.
var ErrNoRoom = errors.New("the device has no room for more queue pairs")

// Use is what this side does with queue pairs.
type Use int

const (
	Unused Use = iota // nobody here posts to them
	Idle              // somebody here does, and nothing is in flight
	Busy              // something is in flight
)

// Inspected are Queues that tell how they do. The methods may be called at any time.
type Inspected interface {
	Use() Use
	Broken() bool // in the error state
}

// guest is a connection that may give way, where its peer is asked, and when it was made
// and heard of.
type guest struct {
	*link
	session     string
	made, heard time.Time
}

// seat gives a link its place among those that there may be. The caller has the turn.
func (s *Store) seat(ctx context.Context, l *link) error {
	for {
		s.mu.Lock()
		dead := l.isDead()
		if !dead && !l.seated && s.seated < s.cfg.MaxEndpoints {
			l.seated = true
			s.seated++
		}
		seated := l.seated
		s.mu.Unlock()
		switch {
		case dead:
			return l.cause
		case seated:
			return nil
		}
		if !s.makeRoom(ctx) {
			return errors.WithMessagef(ErrFull, "%s has %d", s.path, s.cfg.MaxEndpoints)
		}
	}
}

// create makes queue pairs, in place of others if the device has as many as it can.
func (s *Store) create(ctx context.Context, by func(int) (Queues, error), n int) (Queues, error) {
	queues, err := by(n)
	for tries := 0; errors.Is(err, ErrNoRoom) && tries < mostLeave && s.makeRoom(ctx); tries++ {
		queues, err = by(n)
	}
	return queues, err
}

// makeRoom makes a connection give way and returns when it is destroyed. It is false if
// none can, or not before ctx ends.
func (s *Store) makeRoom(ctx context.Context) bool {
	l, before := s.leaving()
	if l == nil {
		s.askAround(ctx)
		var left int
		if l, left = s.leaving(); left != before {
			return true
		}
	}
	if l == nil {
		l = s.dismiss()
	}
	if l == nil {
		return false
	}
	select {
	case <-l.gone:
		return true
	case <-ctx.Done():
		return false
	}
}

// leaving is a link with a place that is being destroyed, if there is one, and how many
// were destroyed so far.
func (s *Store) leaving() (*link, int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for l := range s.links {
		if l.seated && l.isDead() {
			return l, s.left
		}
	}
	return nil, s.left
}

// guests are the connections that peers use, those before which no peer was heard of for
// that long first.
func (s *Store) guests() []guest {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []guest
	for l := range s.links {
		if l.incoming && l.seated && l.remote != nil && !l.isDead() {
			out = append(out, guest{l, s.sessionOf(l), l.made, l.heard})
		}
	}
	slices.SortFunc(out, func(a, b guest) int { return a.heard.Compare(b.heard) })
	return out
}

// sessionOf is where the peer of a link can be asked. s.mu is held.
func (s *Store) sessionOf(l *link) string {
	if a := s.passiveOf(l); a != nil {
		return a.session()
	}
	if e := s.shared[l.path]; e != nil && &e.link == l && e.target.Session != "" {
		return e.target.Session
	}
	return serverOf(l.path)
}

// dismiss ends the connection that was made longest ago, of those that nothing here posts
// to. Its peer is there, and is told if it is of this implementation: what it has in
// flight fails, and goes on over a new connection.
func (s *Store) dismiss() *link {
	guests := s.guests()
	slices.SortFunc(guests, func(a, b guest) int { return a.made.Compare(b.made) })
	for _, g := range guests {
		if time.Since(g.made) < settledFor {
			return nil
		}
		if use, _ := inspect(g.queues); use == Unused && s.giveWay(g.link, "it was made longest ago", true) {
			return g.link
		}
	}
	return nil
}

// giveWay ends a link, unless it has ended.
func (s *Store) giveWay(l *link, why string, tell bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l.isDead() {
		return false
	}
	s.log.Info("rdma connections are at their limit: one gives way", "peer", quote(l.path), "reason", why)
	if a := s.passiveOf(l); tell && a != nil && !s.closed {
		notice := a.closedLetter()
		s.background("tell a peer", func() {
			ctx, cancel := context.WithTimeout(s.ctx, farewell)
			defer cancel()
			s.send(ctx, notice)
		})
	}
	l.die(errors.WithMessagef(ErrRetired, "%s gave way to another connection: %s", quote(l.path), why))
	return true
}

// inspect is Unused for queue pairs that do not tell.
func inspect(q Queues) (use Use, broken bool) {
	if i, ok := q.(Inspected); ok {
		return i.Use(), i.Broken()
	}
	return Unused, false
}
