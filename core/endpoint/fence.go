package endpoint

import (
	"context"
	"slices"

	"github.com/pkg/errors"
)

// Fences returns how many fences were made so far, by all stores that share the count:
// peers are told, and what they begin is held against it.
func (s *Store) Fences() uint64 { return s.cfg.Fences.Load() }

// Fence destroys every queue pair that the peer can write through, those included that
// are being connected, and returns when that is done, or when ctx ends; by then it has
// begun. met tells whether who is a peer that ever connected to here.
//
// A peer of this implementation is told, if it answers within half a second, and learns when it connects again at which
// count it was fenced off, so that it does not go on with what it began before. A peer
// of another implementation is not told; it connects again when it finds that its
// requests fail, and may then repeat what it began before.
func (s *Store) Fence(ctx context.Context, who Identity) (met bool, err error) {
	s.mu.Lock()
	instances, met := s.instancesOf(who)
	s.fence(instances)
	var ending []*link
	var letters []letter
	for l := range s.links {
		if l.incoming && (instances[l.instance] || l.instance == "" && slices.Contains(who.Names, serverOf(l.path))) {
			if a := s.passiveOf(l); a != nil && !l.isDead() && l.remote != nil {
				letters = append(letters, a.closedLetter())
			}
			l.die(ErrFenced)
			ending = append(ending, l)
		}
	}
	s.mu.Unlock()
	for _, l := range ending {
		select {
		case <-l.gone:
		case <-ctx.Done():
			return true, errors.Wrapf(ctx.Err(), "fence: %d connections broken, still waiting for them", len(ending))
		}
	}
	// Told before this returns: what a peer begins after the fence is not to be taken for
	// what it had begun before, which it would be if its connection broke only then.
	ctx, cancel := context.WithTimeout(ctx, farewell)
	defer cancel()
	s.sendAll(ctx, letters)
	return met || len(ending) > 0, nil
}

// instancesOf returns the processes that who stands for, and whether one of them is
// known here. s.mu is held.
func (s *Store) instancesOf(who Identity) (out map[string]bool, met bool) {
	out = map[string]bool{}
	for key, p := range s.peers {
		if key.instance == who.Instance || slices.Contains(who.Names, p.name) || slices.Contains(who.Names, serverOf(key.path)) {
			out[key.instance] = true
		}
	}
	met = len(out) > 0
	for _, name := range who.Names {
		_, heard := s.heard[name]
		met = met || heard
	}
	if who.Instance != "" {
		out[who.Instance] = true
	}
	return out, met
}

// fence counts a fence of these instances. When there are too many to remember, it is
// taken to concern all of them: they may begin again what they had begun. s.mu is held.
func (s *Store) fence(instances map[string]bool) {
	count := s.cfg.Fences.Add(1)
	for instance := range instances {
		if len(s.fenced) >= s.cfg.MaxEndpoints+s.cfg.morePeers {
			clear(s.fenced)
			s.floor = count
		}
		s.fenced[instance] = count
	}
	if s.cfg.Fenced != nil {
		s.cfg.Fenced()
	}
}

// fencedAt is the count when the instance was last fenced off, 0 if never. s.mu is held.
func (s *Store) fencedAt(instance string) uint64 { return max(s.floor, s.fenced[instance]) }

// passiveOf is the passive side that l belongs to, nil if it is another kind of link.
// s.mu is held.
func (s *Store) passiveOf(l *link) *passive {
	p := s.peers[peerKey{l.path, l.instance}]
	if p != nil && p.live != nil && &p.live.link == l {
		return p.live
	}
	return nil
}

// hear remembers the server of a peer of another implementation. s.mu is held.
func (s *Store) hear(server string) {
	if len(s.heard) >= s.cfg.MaxEndpoints+s.cfg.morePeers {
		clear(s.heard)
	}
	s.heard[server] = struct{}{}
}
