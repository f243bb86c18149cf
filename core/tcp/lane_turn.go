package tcp

import (
	"io"
	"time"

	"github.com/pkg/errors"
)

// Receiving is done by whoever has the reader lock: the lane's own goroutine, or a
// thread that waits for its few slices and would otherwise have to be woken by that. The
// goroutine keeps the lock while it waits, so when such a thread found it taken, it
// leaves as soon as nothing is on the lane, and comes back when it is called, or when
// no thread has received for a while: somebody has to see that the peer hangs up.

// awayTime is how long the goroutine stays away from a lane on which threads receive.
const awayTime = 50 * time.Millisecond

// read is the lane's reader goroutine.
func (l *lane) read() {
	defer l.workers.Done()
	defer recovered(l.peer.cfg.Log, "a lane's reader", l.bug)
	for {
		last, ok := l.receive()
		if !ok {
			return
		}
		last.tell(l) // not before: whom this wakes may send the next slice, and wants to receive
		l.stayAway()
		l.away.Store(false)
	}
}

// receive does the goroutine's part of receiving, until it leaves the lane; last is
// what is to be reported. Not ok: the lane has ended.
func (l *lane) receive() (last report, ok bool) {
	l.reading.Lock()
	defer l.reading.Unlock()
	for {
		if err := l.reader.run(); err != errEnough {
			l.lost(err)
			return last, false
		}
		l.away.Store(true)
		if l.ring.peek(0) == nil {
			return l.reader.unreported(), true
		}
		l.away.Store(false) // that was sent before the sender could see that nobody receives
	}
}

// mayLeave tells whether the goroutine should leave the lane to threads that wait. The
// reader lock is held.
func (l *lane) mayLeave() bool { return l.ring.peek(0) == nil && l.shared.Swap(false) }

// stayAway returns when the goroutine is to receive again.
func (l *lane) stayAway() {
	timer := time.NewTimer(awayTime)
	defer timer.Stop()
	for {
		select {
		case <-l.call:
			return
		case <-l.stop:
			return
		case <-timer.C:
		}
		if l.ring.peek(0) != nil || !l.shared.Swap(false) {
			return
		}
		timer.Reset(awayTime)
	}
}

// fetch has the goroutine receive, if it is away.
func (l *lane) fetch() {
	if !l.away.Load() {
		return
	}
	select {
	case l.call <- struct{}{}:
	default:
	}
}

// receiveFor receives until po has ended, for keenTime at most, unless somebody else
// does so. The goroutine takes over what is left.
func (l *lane) receiveFor(po *Posting) {
	if l.reading.TryLock() {
		l.receiveOn(po)
	}
	if l.ring.peek(0) != nil {
		l.fetch()
	}
}

// receiveOn is entered with the reader lock, and gives it back.
func (l *lane) receiveOn(po *Posting) {
	defer l.reading.Unlock()
	defer recovered(l.peer.cfg.Log, "a thread that receives", l.bug)
	rd := &l.reader
	in := &l.sock.in
	rd.on, in.keen, in.brief = po, true, true
	err := rd.run()
	rd.on, in.keen, in.brief = nil, false, false
	if err != errEnough {
		l.lost(err)
	}
}

// lost ends the lane for the reason that there is nothing more to receive. The reader
// lock is held.
func (l *lane) lost(err error) {
	l.reader.report()
	why := loss{cause: err, fenced: hangup(err), slice: l.reader.culprit}
	if errors.Is(err, io.EOF) {
		why = loss{cause: errors.New("the peer closed the connection"), fenced: true}
	}
	l.end(why)
}

// Receive lets the calling thread receive what is on its way for the posting, which
// Waits announced, for keenTime at most: a small one has mostly ended by then.
func (po *Posting) Receive() {
	p := po.peer
	p.mu.Lock()
	po.waits.Store(false)
	var only *lane
	for _, s := range po.on {
		l, ok := s.lane.(*lane)
		if !ok {
			continue
		}
		if len(po.on) == 1 && po.sealed && po.src.Left() == 0 {
			only = l
		} else {
			l.fetch()
		}
	}
	p.mu.Unlock()
	if only != nil {
		only.receiveFor(po)
	}
}

// Waits says that the thread which is about to Kick or Seal calls Receive right after
// that: nobody else needs to be called to do so.
func (po *Posting) Waits() { po.waits.Store(true) }
