package endpoint

import (
	"context"
	"slices"
	"time"

	"github.com/pkg/errors"

	"mooncake/core/metadata"
)

// answerTime bounds how long an answer waits for others that are about the same
// connection, or for the descriptor of an old peer.
const answerTime = 10 * time.Second

// answerTries is how often an answer begins anew because what it was about died.
const answerTries = 4

// Answer answers a connection message of a peer: as upstream's responder, or in the
// protocol between two of this implementation. It never fails: a reason for a rejection
// is in the reply. It blocks while queue pairs are made, connected or destroyed; call it
// from a goroutine of the message's own.
func (s *Store) Answer(m *metadata.ConnectionMessage) *metadata.ConnectionMessage {
	var reply *metadata.ConnectionMessage
	err := s.safely("answer", func() (err error) {
		reply, err = s.answer(m)
		return err
	})
	if err != nil {
		s.log.Debug("connection rejected", "peer", quote(m.LocalNICPath), "err", err)
		return s.reject(m, err)
	}
	return reply
}

// reject is the reply that carries err. It has empty paths, as an error of upstream's.
func (s *Store) reject(m *metadata.ConnectionMessage, err error) *metadata.ConnectionMessage {
	reply := &metadata.ConnectionMessage{ReplyMsg: err.Error()}
	if m.Extension != nil && s.cfg.Instance != "" {
		reply.Extension = s.extension(m.Extension.Kind, m.Extension.Instance, m.Extension.Connection)
	}
	return reply
}

func (s *Store) answer(m *metadata.ConnectionMessage) (*metadata.ConnectionMessage, error) {
	s.mu.Lock()
	if s.closed {
		defer s.mu.Unlock()
		return s.answerClosed(m)
	}
	s.running.Add(1)
	s.mu.Unlock()
	defer s.running.Done()
	ctx, cancel := context.WithTimeout(s.ctx, answerTime)
	defer cancel()

	if _, _, ok := SplitNICPath(m.LocalNICPath); !ok || m.LocalNICPath == s.path || len(m.LocalNICPath) > metadata.MaxNICPath {
		return nil, errors.WithMessagef(ErrArgument, "local_nic_path %s is no path of a peer", quote(m.LocalNICPath))
	}
	if m.Extension != nil {
		return s.answerOurs(ctx, m)
	}
	if m.PeerNICPath != s.path {
		return nil, errors.WithMessagef(ErrArgument, "peer_nic_path %s is not %s", quote(m.PeerNICPath), s.path)
	}
	if m.ReadyAck != nil && *m.ReadyAck {
		return s.acknowledge(ctx, m)
	}
	remote, err := s.where(ctx, m)
	if err != nil {
		return nil, err
	}
	return s.answerUpstream(ctx, m, remote)
}

// answerClosed answers after Close. Of queue pairs that are gone it may be said. s.mu
// is held.
func (s *Store) answerClosed(m *metadata.ConnectionMessage) (*metadata.ConnectionMessage, error) {
	ext := m.Extension
	if ext != nil && ext.Kind == kindRetire && ext.Target == s.cfg.Instance && len(s.links) == 0 {
		return s.confirmation(m), nil
	}
	return nil, ErrClosed
}

// where is the other side that a request asks to be connected to.
func (s *Store) where(ctx context.Context, m *metadata.ConnectionMessage) (Remote, error) {
	if n := len(m.QPNum); n < 1 || n > metadata.MaxQPNum {
		return Remote{}, errors.WithMessagef(ErrArgument, "qp count %d is not within 1 to %d", n, metadata.MaxQPNum)
	}
	return s.locate(ctx, serverOf(m.LocalNICPath), m)
}

// answerUpstream connects an endpoint to the sender's queue pairs, or finds that it is.
func (s *Store) answerUpstream(ctx context.Context, m *metadata.ConnectionMessage, remote Remote) (*metadata.ConnectionMessage, error) {
	var err error
	for range answerTries {
		var e *Endpoint
		if e, err = s.answering(m.LocalNICPath); err != nil {
			return nil, err
		}
		if err = e.with(ctx, func() error { return e.answer(m, remote) }); err == nil {
			reply := s.message(m.LocalNICPath, e.queues)
			if m.ReadyAck != nil {
				notYet := false
				reply.ReadyAck = &notYet
			}
			return reply, nil
		}
		if errors.Is(err, errOtherCount) && e.outlives(otherCountTime) || !errors.Is(err, errOtherCount) && !again(err) {
			break
		}
	}
	return nil, err
}

// errOtherCount: both sides ask at once, with different numbers of queue pairs.
var errOtherCount = errors.New("qp count mismatch")

// otherCountTime is how long the peer's question then waits for the end of ours: the
// peer will reject it for the same reason.
const otherCountTime = time.Second

// outlives is false if e dies within d.
func (e *Endpoint) outlives(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-e.dead:
		return false
	case <-timer.C:
		return true
	}
}

// answering is the endpoint to a peer's path, a new one if there is none.
func (s *Store) answering(path string) (*Endpoint, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hear(serverOf(path))
	if e := s.shared[path]; e != nil {
		return e, nil
	}
	return s.newEndpoint(Target{NICPath: path})
}

// answer connects e to what the peer's request says. The caller has the turn.
func (e *Endpoint) answer(m *metadata.ConnectionMessage, remote Remote) error {
	s := e.store
	if e.remote != nil {
		if slices.Equal(e.remote, m.QPNum) {
			return nil // the same request again, or an answer to ours crossed it
		}
		// The peer restarted, or gave its side up.
		return e.end(errors.WithMessage(ErrReconnected, quote(e.path)))
	}
	if e.queues == nil {
		if err := e.make(len(m.QPNum), false); err != nil {
			return e.end(err)
		}
	}
	if here := len(e.queues.Numbers()); here != len(m.QPNum) {
		return errors.WithMessagef(errOtherCount, "%d here, which asks at the same moment, and %d in the request", here, len(m.QPNum))
	}
	if err := e.connect(remote); err != nil {
		return e.end(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if m.ReadyAck != nil {
		e.awaitAck()
	} else {
		e.setUp()
	}
	return nil
}

// end is die for those who do not hold the lock; it returns the cause.
func (e *Endpoint) end(cause error) error {
	e.store.mu.Lock()
	defer e.store.mu.Unlock()
	e.die(cause)
	return e.cause
}

// acknowledge takes a ready ack: the endpoint may be posted to.
func (s *Store) acknowledge(ctx context.Context, m *metadata.ConnectionMessage) (*metadata.ConnectionMessage, error) {
	s.mu.Lock()
	e := s.shared[m.LocalNICPath]
	s.mu.Unlock()
	if e == nil {
		return nil, errors.WithMessagef(ErrArgument, "ready ack of %s, which is not connected", quote(m.LocalNICPath))
	}
	// With the turn: a request that is being answered comes first.
	err := e.with(ctx, func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		if e.remote == nil || !slices.Equal(e.remote, m.QPNum) {
			return errors.WithMessagef(ErrArgument, "ready ack of %s for other queue pairs than it is connected with", quote(m.LocalNICPath))
		}
		e.setUp()
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &metadata.ConnectionMessage{}, nil
}
