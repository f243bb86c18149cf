package endpoint

import (
	"context"
	"runtime/debug"
	"time"

	"github.com/pkg/errors"
)

// link is one set of queue pairs, from when there is room for it until it is
// destroyed. It dies once: then it is of no use any more, and whoever holds the turn,
// or else a goroutine of its own, destroys the queue pairs.
type link struct {
	store    *Store
	path     string // the peer's device path
	instance string // of the peer; "" for upstream
	incoming bool   // the peer may write through it

	turn  chan struct{} // holds a token while something is done to the queue pairs
	dead  chan struct{} // closed when the link dies
	gone  chan struct{} // closed when the queue pairs are destroyed
	cause error         // why it died; written under store.mu before dead is closed

	onDead, onGone func() // called once each, with store.mu held; may be nil

	queues Queues // written once by the holder of the turn
	// remote are the queue pairs at the peer, nil before they are connected. Written by
	// the holder of the turn under store.mu.
	remote []uint32

	// Guarded by store.mu.
	seated      bool      // it counts among those that there may be
	made, heard time.Time // when it was begun, and when its peer last was known to be there
}

// open enters a link. Where there are as many as there may be it gets its place when others
// gave way, before its queue pairs are made; as many again may wait for that. s.mu is held.
func (s *Store) open(l *link) error {
	if s.closed {
		return ErrClosed
	}
	if len(s.links) >= 2*s.cfg.MaxEndpoints {
		return errors.WithMessagef(ErrFull, "%s has %d", s.path, s.cfg.MaxEndpoints)
	}
	if s.seated < s.cfg.MaxEndpoints {
		l.seated = true
		s.seated++
	}
	l.made = time.Now()
	l.store, l.heard = s, l.made
	l.turn, l.dead, l.gone = make(chan struct{}, 1), make(chan struct{}), make(chan struct{})
	s.links[l] = struct{}{}
	s.running.Add(1)
	return nil
}

// die ends the link. store.mu is held.
func (l *link) die(cause error) {
	if l.isDead() {
		return
	}
	l.cause = cause
	close(l.dead)
	if l.onDead != nil {
		l.onDead()
	}
	select {
	case l.turn <- struct{}{}:
		go l.destroy()
	default: // the holder of the turn does it
	}
}

func (l *link) isDead() bool {
	select {
	case <-l.dead:
		return true
	default:
		return false
	}
}

// with calls do with the turn. It fails with the cause if the link is dead before, or
// afterwards, and with ctx's error if the turn does not come in time.
func (l *link) with(ctx context.Context, do func() error) error {
	select {
	case l.turn <- struct{}{}:
	case <-l.dead:
		return l.cause
	case <-ctx.Done():
		return errors.WithMessagef(ErrPeer, "%s is still busy with another handshake: %v", l.path, ctx.Err())
	}
	err := l.doing(do)
	if l.isDead() {
		return l.cause
	}
	return err
}

// doing calls do unless the link is dead, and gives the turn back.
func (l *link) doing(do func() error) error {
	defer l.passOn()
	if l.isDead() {
		return l.cause
	}
	return do()
}

// passOn gives the turn back, or keeps it for the end.
func (l *link) passOn() {
	l.store.mu.Lock()
	defer l.store.mu.Unlock()
	if l.isDead() {
		go l.destroy()
		return
	}
	<-l.turn
}

// destroy runs with the turn, which is never given back.
func (l *link) destroy() {
	defer l.store.running.Done()
	if l.queues != nil {
		_ = l.store.safely("break queue pairs", func() error { l.queues.Break(); return nil })
		_ = l.store.safely("close queue pairs", func() error { l.queues.Close(); return nil })
	}
	s := l.store
	s.mu.Lock()
	delete(s.links, l)
	if l.seated {
		s.seated--
		s.left++
	}
	if l.onGone != nil {
		l.onGone()
	}
	close(l.gone)
	s.mu.Unlock()
}

// make makes the queue pairs. Where there is no room, here or on the device, it blocks
// until other connections gave way. The caller has the turn.
func (l *link) make(n int, passive bool) error {
	s := l.store
	ctx, cancel := context.WithTimeout(s.ctx, roomTime)
	defer cancel()
	if err := s.seat(ctx, l); err != nil {
		return err
	}
	return s.safely("make queue pairs", func() (err error) {
		create := s.cfg.Hardware.NewQueues
		if h, ok := s.cfg.Hardware.(PassiveHardware); ok && passive {
			create = h.NewPassiveQueues
		}
		queues, err := s.create(ctx, create, n)
		if err != nil {
			return deviceError(err, "%s: make %d queue pairs", s.cfg.NIC, n)
		}
		l.queues = queues
		if got := len(queues.Numbers()); got != n {
			return errors.WithMessagef(ErrDevice, "%s: %d queue pairs instead of %d", s.cfg.NIC, got, n)
		}
		return nil
	})
}

// connect connects the queue pairs. The caller has the turn. ErrReaddressed: others, which
// will have another address, may be.
func (l *link) connect(r Remote) error {
	s := l.store
	err := s.safely("connect queue pairs", func() error {
		err := l.queues.Connect(r)
		if h, ok := s.cfg.Hardware.(Readdresser); ok && errors.Is(err, ErrNoRoute) {
			if err = h.Readdress(l.queues, r, err); err == nil {
				err = ErrReaddressed
			}
		}
		if err != nil {
			return deviceError(err, "%s: connect to %s at %s", s.cfg.NIC, quote(l.path), r.GID)
		}
		return nil
	})
	if err != nil {
		return err
	}
	s.mu.Lock()
	l.remote = r.Numbers
	s.mu.Unlock()
	return nil
}

// failure is an error of the hardware: also ErrDevice.
type failure struct {
	kind, cause error
}

func (f *failure) Error() string   { return f.cause.Error() }
func (f *failure) Unwrap() []error { return []error{f.kind, f.cause} }

func deviceError(err error, format string, args ...any) error {
	return &failure{ErrDevice, errors.WithMessagef(err, format, args...)}
}

// safely turns a panic of the hardware's code, or of ours, into an error: it must not
// end the host process.
func (s *Store) safely(what string, do func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			s.cfg.Log.Error("bug in mooncake", "panic", p, "while", what, "stack", string(debug.Stack()))
			err = errors.WithMessagef(ErrDevice, "panic: %s: %v", what, p)
		}
	}()
	return do()
}
