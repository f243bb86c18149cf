package endpoint

import (
	"context"
	"math/rand/v2"
	"slices"

	"github.com/pkg/errors"

	"mooncake/core/metadata"
)

// connectTries is how often Connect begins anew when another event ended what it was
// waiting for.
const connectTries = 4

// Connect returns the endpoint to a peer's device that may be posted to; there is one,
// which all callers share. If there is none yet it is made, which blocks for the
// handshake. The handshake does not belong to the call that began it: when ctx ends
// only this call fails, with ctx's error, and the next finds what became of it.
//
// Errors: ErrArgument, ErrPeer, ErrRejected, ErrNoRDMA, ErrProtocol, ErrQueuePairs,
// ErrNoAck, ErrRestarted, ErrFull, ErrDevice, ErrClosed. After one nothing is left of
// the endpoint here; the next Connect begins anew.
func (s *Store) Connect(ctx context.Context, t Target) (*Endpoint, error) {
	if err := s.checkTarget(t); err != nil {
		return nil, err
	}
	for try := 1; ; try++ {
		e, err := s.endpoint(t)
		if err == nil {
			err = e.wait(ctx)
		}
		if err == nil {
			return e, nil
		}
		if try == connectTries || !again(err) {
			return nil, err
		}
	}
}

func (s *Store) checkTarget(t Target) error {
	_, _, ok := SplitNICPath(t.NICPath)
	switch {
	case !ok || len(t.NICPath) > metadata.MaxNICPath:
		return errors.WithMessagef(ErrArgument, "device path %s is not <server>@<device>", quote(t.NICPath))
	case t.Instance != "" && !validInstance(t.Instance):
		return errors.WithMessagef(ErrArgument, "instance %s is not 32 lower-case hex digits", quote(t.Instance))
	case t.Instance != "" && s.cfg.Instance == "":
		return errors.WithMessage(ErrArgument, "this store has no instance, so it connects as upstream does only")
	case t.NICPath == s.path && t.Instance != "" && t.Instance != s.cfg.Instance:
		return errors.WithMessagef(ErrRestarted, "%s is this port, not one of instance %s", t.NICPath, t.Instance)
	case t.NICPath != s.path && t.Session == "":
		return errors.WithMessagef(ErrArgument, "no session to ask %s at", quote(t.NICPath))
	}
	return nil
}

// endpoint is the one to t; a new one is being connected.
func (s *Store) endpoint(t Target) (*Endpoint, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.find(t); e != nil {
		return e, nil
	}
	e, err := s.newEndpoint(t)
	if err == nil {
		s.background("connect", func() { s.dial(e) })
	}
	return e, err
}

// find is the endpoint to t if there is one that is not dead. s.mu is held.
func (s *Store) find(t Target) *Endpoint {
	if s.isShared(t) {
		return s.shared[t.NICPath]
	}
	return s.active[peerKey{t.NICPath, t.Instance}]
}

// isShared tells whether the endpoint to t serves both directions.
func (s *Store) isShared(t Target) bool { return t.Instance == "" || t.NICPath == s.path }

// newEndpoint takes room for an endpoint that find will find. s.mu is held.
func (s *Store) newEndpoint(t Target) (*Endpoint, error) {
	e := &Endpoint{target: t, up: make(chan struct{})}
	e.path, e.instance = t.NICPath, t.Instance
	if s.isShared(t) {
		e.incoming = t.NICPath != s.path // what is posted to itself is not a peer's
		e.onDead = func() { e.stopWaiting(); delete(s.shared, t.NICPath) }
	} else {
		e.number = nextNumber()
		e.onDead = func() {
			delete(s.active, peerKey{t.NICPath, t.Instance})
			if s.targets[t.NICPath] == e {
				delete(s.targets, t.NICPath)
			}
		}
	}
	if err := s.open(&e.link); err != nil {
		return nil, err
	}
	if s.isShared(t) {
		s.shared[t.NICPath] = e
	} else {
		s.active[peerKey{t.NICPath, t.Instance}] = e
	}
	return e, nil
}

// replaced ends the connection from here to an earlier process at the same path. s.mu
// is held.
func (s *Store) replaced(by peerKey) {
	if e := s.targets[by.path]; e != nil && e.instance != by.instance {
		e.die(errors.WithMessage(ErrRestarted, quote(e.path)))
	}
}

// dial runs the handshake for e, in a goroutine of its own.
func (s *Store) dial(e *Endpoint) {
	ctx, cancel := context.WithTimeout(s.ctx, s.cfg.Timeout)
	defer cancel()
	handshake := s.dialUpstream
	switch {
	case e.path == s.path:
		handshake = s.dialItself
	case e.Ours():
		handshake = s.dialOurs
	}
	err := s.safely("connect", func() error { return handshake(ctx, e) })
	if err != nil {
		s.mu.Lock()
		e.die(errors.WithMessagef(err, "connect %s to %s", s.path, quote(e.path)))
		s.mu.Unlock()
	}
}

// dialItself connects each queue pair to itself: what upstream does when both ends are
// the same port, without any message.
func (s *Store) dialItself(ctx context.Context, e *Endpoint) error {
	return e.with(ctx, func() error {
		if err := e.make(s.cfg.OursPairs, false); err != nil {
			return err
		}
		err := e.connect(Remote{Address: e.queues.Address(), Numbers: slices.Clone(e.queues.Numbers()), Ours: true})
		if err != nil {
			return err
		}
		s.mu.Lock()
		e.setUp()
		s.mu.Unlock()
		return nil
	})
}

// askTries is how often a question is asked that got no answer: a server may have had
// no room for the connection. Every message may come twice.
const askTries = 5

// mostReason is how much of a peer's reason for a rejection is passed on, in bytes: one of ours
// names all addresses that it tried.
const mostReason = 2000

// ask sends m and returns the reply. A reply that comes after ctx ended is not
// believed. ErrPeer: there was none. ErrRejected comes with the reply, if that is known.
func (s *Store) ask(ctx context.Context, session string, m *metadata.ConnectionMessage) (*metadata.ConnectionMessage, error) {
	pause := firstPause
	for try := 1; ; try++ {
		reply, err := s.cfg.Ask(ctx, session, m)
		switch {
		case s.ctx.Err() != nil:
			return nil, ErrClosed
		case ctx.Err() != nil:
			return nil, errors.WithMessagef(ErrPeer, "%s: no answer within %v", quote(session), s.cfg.Timeout)
		case reply != nil && reply.ReplyMsg != "":
			return reply, errors.WithMessagef(ErrRejected, "%s: %s", quote(session), quoteUpTo(reply.ReplyMsg, mostReason))
		case errors.Is(err, metadata.ErrRejected):
			return nil, errors.WithMessage(ErrRejected, err.Error())
		case err == nil && reply != nil:
			return reply, nil
		case err == nil:
			return nil, errors.WithMessagef(ErrProtocol, "%s: no reply", quote(session))
		case errors.Is(err, metadata.ErrArgument):
			return nil, errors.WithMessage(ErrArgument, err.Error())
		case try == askTries:
			return nil, errors.WithMessage(ErrPeer, err.Error())
		}
		// Many may have been turned away at once; they must not come back at once.
		if !sleep(ctx, pause/2+rand.N(pause)) {
			return nil, errors.WithMessage(ErrPeer, err.Error())
		}
		pause *= 3
	}
}

// message is a message from this port to a peer's, about queue pairs of this side.
func (s *Store) message(path string, queues Queues) *metadata.ConnectionMessage {
	here := queues.Address()
	return &metadata.ConnectionMessage{
		LocalNICPath: s.path, PeerNICPath: path, QPNum: slices.Clone(queues.Numbers()),
		LocalGID: here.GID.String(), LocalLID: here.LID,
	}
}
