package endpoint

import (
	"context"

	"github.com/pkg/errors"

	"mooncake/core/metadata"
)

// version is of the extension in connection messages.
const version = 1

// The kinds of messages between two of this implementation.
const (
	kindConnect = "connect" // initiator to responder: make queue pairs for mine
	kindRetire  = "retire"  // initiator to responder: destroy them, and say when that is done
	kindClosed  = "closed"  // responder to initiator: they are destroyed
)

// dialOurs connects to a peer of this implementation: one question, one answer.
func (s *Store) dialOurs(ctx context.Context, e *Endpoint) error {
	err := e.with(ctx, func() error { return e.make(s.cfg.OursPairs, false) })
	if err != nil {
		return err
	}
	if err := e.asking(); err != nil {
		return err
	}
	request := s.message(e.path, e.queues)
	request.Extension = s.extension(kindConnect, e.instance, e.number)
	request.Extension.MTU = e.queues.Address().MTU
	reply, err := s.ask(ctx, e.target.Session, request)
	remote, err := s.checkOurs(e, reply, err)
	if err == nil {
		err = e.with(s.ctx, func() error { return e.connect(remote) })
	}
	if err == nil {
		s.mu.Lock()
		e.fences = reply.Extension.Fenced
		if !e.isDead() {
			s.replaced(peerKey{e.path, e.instance})
			s.targets[e.path] = e
		}
		e.setUp()
		s.mu.Unlock()
		return nil
	}
	s.disown(e, err)
	return err
}

// asking notes that the peer may learn of e from now on, unless e is dead.
func (e *Endpoint) asking() error {
	e.store.mu.Lock()
	defer e.store.mu.Unlock()
	if e.isDead() {
		return e.cause
	}
	e.asked = true
	return nil
}

// checkOurs is where the reply says that the peer is.
func (s *Store) checkOurs(e *Endpoint, reply *metadata.ConnectionMessage, err error) (Remote, error) {
	// Who answers comes first: another process has every reason to refuse.
	if reply != nil && reply.Extension != nil && reply.Extension.Instance != e.instance {
		return Remote{}, errors.WithMessagef(ErrRestarted, "%s: instance %s instead of %s", quote(e.target.Session), reply.Extension.Instance, e.instance)
	}
	if err != nil {
		return Remote{}, countMismatch(err)
	}
	ext := reply.Extension
	if ext == nil {
		return Remote{}, errors.WithMessagef(ErrRestarted, "%s answers without an instance", quote(e.target.Session))
	}
	if ext.Kind != kindConnect || ext.Connection != e.number {
		return Remote{}, errors.WithMessagef(ErrProtocol, "%s answers %s of connection %d to connect of connection %d", quote(e.target.Session), quote(ext.Kind), ext.Connection, e.number)
	}
	remote, err := s.remoteOf(s.ctx, e.target.Session, e.path, reply, len(e.queues.Numbers()))
	remote.Ours, remote.MTU = true, ext.MTU
	return remote, err
}

// disown makes the peer give back what it may have made for a connection that failed.
func (s *Store) disown(e *Endpoint, why error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || errors.Is(why, ErrRestarted) {
		return
	}
	e.die(why)
	s.background("disown", func() { e.confirm(s.ctx) })
}

func (e *Endpoint) retireMessage() *metadata.ConnectionMessage {
	return e.store.unpaired(kindRetire, e.path, e.instance, e.number)
}

// unpaired is a message that asks for no connection. It leaves the receiver's path
// out, so that upstream, if that is what answers there now, finds nothing to connect.
func (s *Store) unpaired(kind, path, instance string, number uint64) *metadata.ConnectionMessage {
	m := &metadata.ConnectionMessage{LocalNICPath: s.path, Extension: s.extension(kind, instance, number)}
	_, m.Extension.Device, _ = SplitNICPath(path)
	return m
}

func (s *Store) extension(kind, target string, number uint64) *metadata.ConnectionExtension {
	return &metadata.ConnectionExtension{
		Version: version, Kind: kind, Instance: s.cfg.Instance, Target: target, Connection: number, Name: s.cfg.Session,
	}
}
