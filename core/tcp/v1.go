package tcp

import (
	"context"
	"io"
	"sync"
	"time"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"
)

// Version 1 of the framing has no statuses, and its oldest servers take one
// request a connection: so here every slice has a connection of its own, and a
// few workers go through them.

const (
	// v1Backlog is how many waiting bytes justify one more worker.
	v1Backlog = 64 << 10
	// v1PortWait is how long to wait when this host has no port left to connect
	// from: closed connections give theirs back after a while.
	v1PortWait = 50 * time.Millisecond
)

// v1Wanted is how many workers the backlog justifies. p.mu is held.
func (p *Peer) v1Wanted() int {
	return int(min(uint64(p.cfg.Lanes), 1+p.backlog(v1Backlog*uint64(p.cfg.Lanes))/v1Backlog))
}

// v1Lane is one worker.
type v1Lane struct {
	peer    *Peer
	head    [HeaderSize]byte // part of a heap object, as its address goes to the kernel
	staging []byte

	mu     sync.Mutex
	sock   *socket            // of the slice being moved
	cancel context.CancelFunc // of the dial before that, or nil
	cause  error              // why the slice was given up
}

// giveUp interrupts the slice being moved.
func (w *v1Lane) giveUp(cause error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.sock != nil {
		w.cause = cause
		w.sock.interrupt()
	}
	if w.cancel != nil {
		w.cancel()
	}
}

// hold makes s what giveUp interrupts, nil for nothing. It returns the cause if
// the socket held so far was given up.
func (w *v1Lane) hold(s *socket) (cause error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	cause, w.cause, w.sock = w.cause, nil, s
	return cause
}

// runV1 moves slices until none are left.
func (p *Peer) runV1() {
	defer p.wg.Done()
	defer recovered(p.cfg.Log, "a version 1 worker", nil)
	w := &v1Lane{peer: p}
	var es [1]entry
	var slices [1]Slice
	for {
		p.mu.Lock()
		n, ended := p.take(taker{carrier: w, born: p.breaks, alone: true}, es[:], slices[:], 1)
		if n == 0 && ended == nil {
			p.v1--
			p.mu.Unlock()
			return
		}
		p.mu.Unlock()
		ended.report()
		if n == 1 {
			w.serve(es[0])
		}
	}
}

// serve moves one slice and reports it.
func (w *v1Lane) serve(e entry) {
	p := w.peer
	s, err := w.dial(e.posting)
	if err != nil {
		w.unsent(e, err)
		return
	}
	w.hold(s)
	// Who stopped the posting before found nothing to interrupt.
	if cause := w.stopped(e.posting); cause != nil {
		w.hold(nil)
		s.close()
		w.unsent(e, cause)
		return
	}
	err = w.move(s, e)
	cause := w.hold(nil)
	if err == nil {
		s.close()
		p.confirmed(w, e.posting, 1, e.Len)
		return
	}
	why := loss{cause: err, culprit: e.posting}
	if cause != nil {
		why.cause = cause
	}
	s.note(err)
	if why.fenced = s.fenceByClose(fenceTime); why.fenced {
		s.close()
	} else {
		s.closeAtOnce()
	}
	p.mu.Lock()
	why.after = p.count(why.cause, true)
	p.mu.Unlock()
	p.lost(why.cause)
	p.blame([]entry{e}, why)
	p.retired(w, []entry{e}, why)
}

// unsent ends the posting of a slice of which nothing was sent.
func (w *v1Lane) unsent(e entry, cause error) {
	p := w.peer
	p.mu.Lock()
	e.posting.carry(w, -1)
	e.posting.fail(cause, true)
	ended := e.posting.settle()
	p.mu.Unlock()
	ended.report()
}

// stopped returns why the posting has to end, nil if it has not.
func (w *v1Lane) stopped(po *Posting) error {
	w.peer.mu.Lock()
	defer w.peer.mu.Unlock()
	return po.cause
}

// dialing says how to interrupt the dial in progress; nil: there is none.
func (w *v1Lane) dialing(cancel context.CancelFunc) {
	w.mu.Lock()
	w.cancel = cancel
	w.mu.Unlock()
}

// dial connects, waiting while this host is out of ports.
func (w *v1Lane) dial(po *Posting) (*socket, error) {
	p := w.peer
	ctx, cancel := context.WithCancel(p.ctx)
	defer cancel()
	w.dialing(cancel)
	defer w.dialing(nil)
	for {
		link, err := p.cfg.Dial(ctx)
		if err == nil {
			s, err := newSocket(link.Conn, p.cfg.StallTimeout, p.cfg.SocketBuffer)
			if err != nil {
				link.Conn.Close()
			}
			return s, err
		}
		if cause := w.stopped(po); cause != nil {
			return nil, cause
		}
		if !errors.Is(err, unix.EADDRNOTAVAIL) {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, ErrClosed
		case <-time.After(v1PortWait):
		}
	}
}

// unserved says what version 1 cannot: why the peer closed the connection.
func unserved(err error) error {
	if hangup(err) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.WithMessage(err, "version 1 request not served (no reason given; often the address is not registered)")
	}
	return err
}

// move does one request. A write is over when the peer, told that nothing more
// comes, has closed in order: it had read everything by then. That is a good
// sign, not a confirmation, and reported so.
func (w *v1Lane) move(s *socket, e entry) error {
	b := w.head[:]
	w.peer.cfg.Messages.Add(1)
	if !e.posting.write {
		header{e.Len, e.Remote, opRead}.put(b)
		if err := w.send(s, []iovec{bytesVec(b)}); err != nil {
			return err
		}
		return unserved(w.receive(s, e))
	}
	w.peer.mu.Lock()
	e.posting.unconfirmed = true
	w.peer.mu.Unlock()
	header{e.Len, e.Remote, opWrite}.put(b)
	if err := w.sendWrite(s, b, e); err != nil {
		return unserved(err)
	}
	return unserved(w.awaitClose(s))
}

// awaitClose half-closes and waits for the peer's close.
func (w *v1Lane) awaitClose(s *socket) error {
	s.limit(w.peer.cfg.StallTimeout)
	s.closeWrite() // fails if the peer reset the connection; see below
	n, err := s.discard(noLimit)
	switch {
	case err != nil:
		return errors.Wrap(err, "await close")
	case n > 0:
		return errors.WithMessage(ErrProtocol, "answer to a version 1 write")
	}
	// A close that was followed by a reset had not read everything.
	return s.failure()
}

// sendWrite sends a write's header and payload.
func (w *v1Lane) sendWrite(s *socket, head []byte, e entry) error {
	if e.Mover.Direct() {
		return w.send(s, []iovec{bytesVec(head), {e.Local, e.Len}})
	}
	if err := w.send(s, []iovec{bytesVec(head)}); err != nil {
		return err
	}
	return w.eachPiece(e.Len, func(at uint64, p []byte) error {
		if err := load(e.Mover, p, e.Local+at); err != nil {
			return err
		}
		return w.send(s, []iovec{bytesVec(p)})
	})
}

// send sends all of iov, as long as the peer goes on taking it. It changes iov.
func (w *v1Lane) send(s *socket, iov []iovec) error {
	for len(iov) > 0 {
		s.limit(w.peer.cfg.StallTimeout)
		n, err := s.writev(iov, nil, true)
		if err != nil {
			return err
		}
		iov = advance(iov, uint64(n))
	}
	return nil
}

// receive takes a read's payload.
func (w *v1Lane) receive(s *socket, e entry) error {
	if e.Mover.Direct() {
		return w.fill(s, e.Local, e.Len)
	}
	return w.eachPiece(e.Len, func(at uint64, p []byte) error {
		v := bytesVec(p)
		if err := w.fill(s, v.base, v.len); err != nil {
			return err
		}
		return store(e.Mover, e.Local+at, p)
	})
}

// fill receives n bytes to addr, as long as they go on coming.
func (w *v1Lane) fill(s *socket, addr, n uint64) error {
	for n > 0 {
		s.limit(w.peer.cfg.StallTimeout)
		got, err := s.readv([]iovec{{addr, min(n, maxDirect)}}, nil, nil)
		if err != nil {
			return err
		}
		if got == 0 {
			return io.ErrUnexpectedEOF
		}
		addr += uint64(got)
		n -= uint64(got)
	}
	return nil
}

// eachPiece calls fn for consecutive pieces of n bytes, with a buffer of that size.
func (w *v1Lane) eachPiece(n uint64, fn func(at uint64, p []byte) error) error {
	if w.staging == nil {
		w.staging = make([]byte, stagingSize)
	}
	for at := uint64(0); at < n; at += stagingSize {
		if err := fn(at, w.staging[:min(n-at, stagingSize)]); err != nil {
			return err
		}
	}
	return nil
}
