package endpoint

import (
	"context"
	"sync"
	"time"
)

const (
	askAgain    = time.Second // for so long it holds that a peer was there
	answerLimit = time.Second // for a peer to show that it is
	mostAsked   = 128         // peers, those that were silent longest
	askedAtOnce = 64          // of them
)

// probe is the number of no connection: numbers begin with the clock.
const probe = 1

// askAround ends the connections whose queue pairs are in error or whose peers do not
// answer. Calls at the same time wait for the one that asks.
func (s *Store) askAround(ctx context.Context) {
	s.mu.Lock()
	done := s.asking
	if done == nil && !s.closed {
		done = make(chan struct{})
		s.asking = done
		s.background("ask peers", func() {
			defer func() {
				s.mu.Lock()
				s.asking = nil
				s.mu.Unlock()
				close(done)
			}()
			s.askAll(s.guests())
		})
	}
	s.mu.Unlock()
	if done == nil {
		return
	}
	select {
	case <-done:
	case <-ctx.Done():
	}
}

// askAll ends those of the guests that are of no use any more.
func (s *Store) askAll(guests []guest) {
	var asking sync.WaitGroup
	slots := make(chan struct{}, askedAtOnce)
	asked := 0
	for _, g := range guests {
		use, broken := inspect(g.queues)
		switch {
		case use == Busy: // if its peer is gone, what is in flight will fail
		case broken:
			s.giveWay(g.link, "its queue pairs are in error", true)
		case asked < mostAsked && time.Since(g.heard) >= askAgain:
			asked++
			slots <- struct{}{}
			asking.Add(1)
			go func() {
				defer asking.Done()
				_ = s.safely("ask a peer", func() error { s.askOne(g); return nil })
				<-slots
			}()
		}
	}
	asking.Wait()
}

// askOne ends the connection of a peer that does not answer.
func (s *Store) askOne(g guest) {
	ctx, cancel := context.WithTimeout(s.ctx, answerLimit)
	defer cancel()
	there := s.there(ctx, g)
	if !there && s.ctx.Err() == nil {
		s.giveWay(g.link, "its peer does not answer", false)
		return
	}
	s.mu.Lock()
	g.link.heard = time.Now()
	s.mu.Unlock()
}

// there tells whether the process that a connection is of still answers. A peer of this
// implementation is told that a connection is closed which it never had; of another one
// the descriptor is fetched, because its handshake has no harmless question.
func (s *Store) there(ctx context.Context, g guest) bool {
	if g.instance == "" {
		if s.cfg.Describe == nil {
			return true
		}
		_, nic, _ := SplitNICPath(g.path)
		_, err := s.cfg.Describe(ctx, g.session, nic)
		return err == nil
	}
	reply, _ := s.cfg.Ask(ctx, g.session, s.unpaired(kindClosed, g.path, g.instance, probe))
	return reply != nil && reply.Extension != nil && reply.Extension.Instance == g.instance
}
