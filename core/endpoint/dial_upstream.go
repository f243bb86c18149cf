package endpoint

import (
	"context"
	"slices"
	"strings"

	"github.com/pkg/errors"

	"mooncake/core/metadata"
)

// dialUpstream is upstream's handshake as initiator. The turn is not held while a
// question is under way: the peer may be asking at the same time, and its question has
// to be answered with the same queue pairs.
func (s *Store) dialUpstream(ctx context.Context, e *Endpoint) error {
	connected := false // by a question of the peer's
	err := e.with(ctx, func() error {
		connected = e.remote != nil
		if e.queues != nil {
			return nil
		}
		return e.make(s.cfg.QueuePairs, false)
	})
	if err != nil || connected {
		return err
	}
	notYet := false
	request := s.message(e.path, e.queues)
	request.ReadyAck = &notYet
	reply, err := s.ask(ctx, e.target.Session, request)
	var remote Remote
	if err == nil {
		remote, err = s.remoteOf(ctx, e.target.Session, e.path, reply, len(request.QPNum))
	}
	if connected, err = s.settle(e, remote, countMismatch(err)); err != nil || connected {
		return err
	}
	if reply.ReadyAck != nil {
		err = s.sendAck(ctx, e, request)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil {
		e.setUp()
	}
	if e.isUp { // the peer's own handshake may have done it
		return nil
	}
	return err
}

// settle connects e to what the reply said, unless a question of the peer's has
// connected it meanwhile: then the two have to agree, and without a reply, failed
// saying why, that connection is what counts.
func (s *Store) settle(e *Endpoint, remote Remote, failed error) (connected bool, err error) {
	// Not with the handshake's ctx, which may be over.
	err = e.with(s.ctx, func() error {
		switch {
		case failed == nil && e.remote == nil:
			return e.connect(remote)
		case failed == nil && !slices.Equal(e.remote, remote.Numbers):
			return errors.WithMessagef(ErrReconnected, "%s answers with other queue pairs than it asked with", quote(e.path))
		case failed != nil && e.remote != nil:
			connected = true
			return nil
		}
		return failed
	})
	return connected, err
}

// sendAck tells the peer that this side is ready. What the reply says does not
// matter, so long as it is no rejection.
func (s *Store) sendAck(ctx context.Context, e *Endpoint, request *metadata.ConnectionMessage) error {
	ready := true
	ack := *request
	ack.ReadyAck = &ready
	_, err := s.ask(ctx, e.target.Session, &ack)
	return errors.WithMessage(err, "ready ack")
}

// remoteOf is where a reply of upstream says that the peer is.
func (s *Store) remoteOf(ctx context.Context, session, path string, reply *metadata.ConnectionMessage, pairs int) (Remote, error) {
	switch {
	case reply.LocalNICPath == "" && reply.PeerNICPath == "":
		// Upstream nodes with tcp alone answer all requests so.
		return Remote{}, errors.WithMessagef(ErrNoRDMA, "%s: empty answer", quote(session))
	case reply.LocalNICPath != path:
		return Remote{}, errors.WithMessagef(ErrProtocol, "%s answers as %s, not as %s", quote(session), quote(reply.LocalNICPath), quote(path))
	case reply.PeerNICPath != s.path:
		return Remote{}, errors.WithMessagef(ErrProtocol, "%s answers to %s, not to %s", quote(session), quote(reply.PeerNICPath), s.path)
	case len(reply.QPNum) != pairs:
		return Remote{}, errors.WithMessagef(ErrQueuePairs, "%d here and %d at %s", pairs, len(reply.QPNum), quote(path))
	}
	return s.locate(ctx, session, reply)
}

// locate adds the peer's address, from its descriptor if the message has none.
func (s *Store) locate(ctx context.Context, session string, m *metadata.ConnectionMessage) (Remote, error) {
	r := Remote{Address: Address{LID: m.LocalLID}, Numbers: slices.Clone(m.QPNum)}
	if m.LocalGID != "" {
		gid, err := ParseGID(m.LocalGID)
		r.GID = gid
		return r, err
	}
	_, nic, _ := SplitNICPath(m.LocalNICPath)
	if s.cfg.Describe == nil {
		return r, errors.WithMessagef(ErrProtocol, "%s does not say its GID", quote(m.LocalNICPath))
	}
	address, err := s.cfg.Describe(ctx, session, nic)
	if err != nil {
		return r, errors.WithMessagef(ErrPeer, "%s does not say its GID, and its descriptor: %v", quote(m.LocalNICPath), err)
	}
	r.GID, r.LID = address.GID, address.LID
	return r, nil
}

// countMismatch finds the rejection for the number of queue pairs: upstream's text
// names another variable than the one that helps.
func countMismatch(err error) error {
	if err != nil && errors.Is(err, ErrRejected) && strings.Contains(strings.ToLower(err.Error()), "qp count") {
		return &failure{ErrQueuePairs, errors.WithMessage(err, ErrQueuePairs.Error())}
	}
	return err
}
