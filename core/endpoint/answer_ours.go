package endpoint

import (
	"context"
	"slices"

	"github.com/pkg/errors"

	"mooncake/core/metadata"
)

// answerOurs answers a message of a peer of this implementation.
func (s *Store) answerOurs(ctx context.Context, m *metadata.ConnectionMessage) (*metadata.ConnectionMessage, error) {
	ext := m.Extension
	switch {
	case s.cfg.Instance == "":
		return nil, errors.WithMessage(ErrArgument, "this port has no instance to connect to")
	case ext.Target != s.cfg.Instance:
		return nil, errors.WithMessagef(ErrRestarted, "the message is for instance %s", quote(ext.Target))
	case ext.Connection == 0:
		return nil, errors.WithMessage(ErrArgument, "connection: must be at least 1")
	}
	switch ext.Kind {
	case kindConnect:
		return s.answerConnect(ctx, m)
	case kindRetire:
		return s.answerRetire(ctx, m)
	case kindClosed:
		return s.answerClosedNotice(m)
	}
	return nil, errors.WithMessagef(ErrArgument, "kind %s is not known here", quote(ext.Kind))
}

// answerConnect makes queue pairs for the sender's and connects them.
func (s *Store) answerConnect(ctx context.Context, m *metadata.ConnectionMessage) (*metadata.ConnectionMessage, error) {
	if m.PeerNICPath != s.path {
		return nil, errors.WithMessagef(ErrArgument, "peer_nic_path %s is not %s", quote(m.PeerNICPath), s.path)
	}
	remote, err := s.where(ctx, m)
	if err != nil {
		return nil, err
	}
	remote.Ours, remote.MTU = true, m.Extension.MTU
	for range answerTries {
		var a *passive
		s.mu.Lock()
		a, err = s.admit(m)
		s.mu.Unlock()
		if err != nil {
			return nil, err
		}
		var reply *metadata.ConnectionMessage
		err = a.with(ctx, func() (err error) {
			reply, err = a.answer(m, remote)
			return err
		})
		if err == nil {
			return reply, nil
		}
		// A fence came between: what the sender begins from now on is not meant. Or the
		// port has another address now.
		if !errors.Is(err, ErrFenced) && !errors.Is(err, ErrReaddressed) {
			break
		}
	}
	return nil, err
}

// answer connects a to what the request says. The caller has the turn.
func (a *passive) answer(m *metadata.ConnectionMessage, remote Remote) (*metadata.ConnectionMessage, error) {
	s := a.store
	if a.remote != nil && !slices.Equal(a.remote, m.QPNum) {
		return nil, errors.WithMessagef(ErrArgument, "connection %d was made with other queue pairs", a.number)
	}
	if a.remote == nil {
		err := a.make(len(m.QPNum), true)
		if err == nil {
			err = a.connect(remote)
		}
		if err != nil {
			s.mu.Lock()
			a.die(err)
			s.mu.Unlock()
			return nil, err
		}
	}
	reply := s.message(m.LocalNICPath, a.queues)
	reply.Extension = s.extension(kindConnect, a.instance, a.number)
	reply.Extension.MTU = a.queues.Address().MTU
	s.mu.Lock()
	defer s.mu.Unlock()
	// A fence from here on ends a, which the reply does not say; one before is in it.
	reply.Extension.Fenced = s.fencedAt(a.instance)
	if a.isDead() {
		return nil, a.cause
	}
	return reply, nil
}

// answerRetire destroys what was made for the connection, and sees to it that nothing
// is made any more.
func (s *Store) answerRetire(ctx context.Context, m *metadata.ConnectionMessage) (*metadata.ConnectionMessage, error) {
	s.mu.Lock()
	ending := s.peerOf(m).retire(m.Extension.Connection)
	s.mu.Unlock()
	for _, a := range ending {
		select {
		case <-a.gone:
		case <-ctx.Done():
			return nil, errors.WithMessagef(ErrPeer, "connection %d is still being closed", a.number)
		}
	}
	return s.confirmation(m), nil
}

// confirmation is the reply that says that a connection is gone.
func (s *Store) confirmation(m *metadata.ConnectionMessage) *metadata.ConnectionMessage {
	ext := m.Extension
	return &metadata.ConnectionMessage{Extension: s.extension(ext.Kind, ext.Instance, ext.Connection)}
}

// answerClosedNotice learns that the peer destroyed its side. That confirms nothing:
// by now it may have made it anew under the same number.
func (s *Store) answerClosedNotice(m *metadata.ConnectionMessage) (*metadata.ConnectionMessage, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.active[peerKey{m.LocalNICPath, m.Extension.Instance}]
	if e != nil && e.number == m.Extension.Connection && slices.Equal(e.remote, m.QPNum) {
		e.die(errors.WithMessage(ErrPeerClosed, quote(e.path)))
	}
	return s.confirmation(m), nil
}
