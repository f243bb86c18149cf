package endpoint

import (
	"slices"
	"time"

	"github.com/pkg/errors"

	"mooncake/core/metadata"
)

// peer is one device of a peer of this implementation that connected to here, in one
// life of the peer. Guarded by store.mu.
type peer struct {
	key  peerKey
	name string // session, as it introduced itself
	// retired is the largest number whose connection is over: messages may come late
	// and twice, and connections up to this one are not made again.
	retired uint64
	live    *passive              // the newest connection, nil if there is none
	open    map[*passive]struct{} // all whose queue pairs are not destroyed
	touched time.Time
}

// passive is the responder's side of a connection between two of this implementation.
// Nothing is posted to its queue pairs here.
type passive struct {
	link
	peer   *peer
	number uint64
}

// rememberFor is for how long at least it is remembered which connections are over.
const rememberFor = 5 * time.Minute

// peerOf finds the record of a sender, or makes one. s.mu is held.
func (s *Store) peerOf(m *metadata.ConnectionMessage) *peer {
	key := peerKey{m.LocalNICPath, m.Extension.Instance}
	p := s.peers[key]
	if p == nil {
		if len(s.peers) >= s.cfg.MaxEndpoints+s.cfg.morePeers {
			s.forget()
		}
		p = &peer{key: key, open: map[*passive]struct{}{}}
		s.peers[key] = p
	}
	p.name, p.touched = m.Extension.Name, time.Now()
	return p
}

// forget drops records of peers without queue pairs: those that were not heard of for
// a while, or all if there are none. s.mu is held.
func (s *Store) forget() {
	before := len(s.peers)
	for _, least := range []time.Duration{rememberFor, 0} {
		for key, p := range s.peers {
			if len(p.open) == 0 && time.Since(p.touched) >= least {
				delete(s.peers, key)
				if s.current[key.path] == p {
					delete(s.current, key.path)
				}
			}
		}
		if len(s.peers) < before {
			return
		}
	}
}

// admit finds the passive side that a connect message is about, or begins a new one in
// place of the peer's last. s.mu is held.
func (s *Store) admit(m *metadata.ConnectionMessage) (*passive, error) {
	p, number := s.peerOf(m), m.Extension.Connection
	switch {
	case number <= p.retired:
		return nil, errors.WithMessagef(ErrRetired, "connection %d", number)
	case p.live != nil && p.live.number == number:
		return p.live, nil
	case p.live != nil && p.live.number > number:
		return nil, errors.WithMessagef(ErrRetired, "connection %d was made since", p.live.number)
	case p.live != nil:
		// A peer has one connection from a device to this port, so it has given
		// the last one up, and may not have got a word of that through.
		p.retired = p.live.number
		p.live.die(ErrReconnected)
	}
	if last := s.current[p.key.path]; last != nil && last != p && last.live != nil {
		s.log.Info("peer restarted", "peer", quote(p.key.path))
		last.live.die(ErrRestarted)
	}
	s.current[p.key.path] = p
	s.replaced(p.key)
	return s.newPassive(p, number)
}

// newPassive takes room for the passive side of a connection. s.mu is held.
func (s *Store) newPassive(p *peer, number uint64) (*passive, error) {
	a := &passive{peer: p, number: number}
	a.path, a.instance, a.incoming = p.key.path, p.key.instance, true
	a.onDead = func() {
		if p.live == a {
			p.live = nil
		}
	}
	a.onGone = func() { delete(p.open, a) }
	if err := s.open(&a.link); err != nil {
		return nil, err
	}
	p.live = a
	p.open[a] = struct{}{}
	return a, nil
}

// retire ends the connections of p up to the one of that number, and returns them.
// s.mu is held.
func (p *peer) retire(number uint64) []*passive {
	p.retired = max(p.retired, number)
	var out []*passive
	for a := range p.open {
		if a.number <= number {
			a.die(ErrRetired)
			out = append(out, a)
		}
	}
	return out
}

// closedLetter tells the initiator that a, which is connected, is gone. The queue pairs
// are named, because a connection may have been made again under its number. store.mu
// is held.
func (a *passive) closedLetter() letter {
	m := a.store.unpaired(kindClosed, a.path, a.instance, a.number)
	m.QPNum = slices.Clone(a.queues.Numbers())
	return letter{a.session(), m}
}

// session is where the peer can be asked. store.mu is held.
func (a *passive) session() string {
	if a.peer.name != "" {
		return a.peer.name
	}
	return serverOf(a.path)
}
