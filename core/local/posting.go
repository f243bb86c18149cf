package local

import (
	"sync/atomic"
	"time"

	"github.com/pkg/errors"
)

// Source is where a posting's slices come from. Several lanes may call it at once;
// the methods must not block, and must not call back into this package.
type Source interface {
	// Next fills dst with slices to move now and returns how many; it stops early
	// once they exceed budget bytes. 0: none at present.
	Next(dst []Slice, budget uint64) int
	// Left tells the bytes that Next has not given out yet.
	Left() uint64
	// Ahead estimates what Next will still give out, of Left and of what the source is
	// known to get: bytes, and how many slices they are, if those to come are like those
	// of Left.
	Ahead() (slices, bytes uint64)
	// Done reports bytes that have arrived; packed: through a ring.
	Done(bytes uint64, packed bool)
	// Ended is the last call, made exactly once.
	Ended(End)
}

// End is how a posting ended.
type End struct {
	Err error // nil: every byte has arrived
	// Quiet: nothing of the posting can touch memory any more. False only when the
	// peer's process stopped in the middle of a message. Always true without an error.
	Quiet bool
}

// quiesceDrain is how long messages that the peer has begun to work on may take
// when their posting has to end. They take some 10 us, on a host with nothing to spare
// some 10 ms; only a peer that is stopped takes longer.
const quiesceDrain = 500 * time.Millisecond

// Posting is one batch's share towards one peer.
type Posting struct {
	peer    *Peer
	src     Source
	write   bool
	epoch   atomic.Uint64 // of the peer's table when it began: later registrations are not for it
	fence   uint64        // how often the peer had fenced this engine off when it began
	stopped atomic.Bool   // cause is set: lanes look without the lock

	// Driven: who seals it will wait for its end at once, so that thread may stay and move
	// slices. Set before the first Kick.
	Driven bool

	arrived atomic.Uint64 // bytes

	// Guarded by peer.mu.
	sealed   bool // the source will get no more slices
	queued   bool // in the peer's ring
	packs    bool // it goes through rings
	timed    bool // it had the choice between rings and system calls
	rings    bool // and began with rings
	began    time.Time
	inflight int   // quanta that lanes work on, and messages in rings
	cause    error // why it must end; no more slices are handed out
	loud     bool  // the peer may still be writing
	ended    bool
}

// Kick says that the source has more slices to give. The calling goroutine moves
// a quantum of them itself if it can.
func (po *Posting) Kick() { po.peer.kick(po, false) }

// Seal says that the source will get no more slices than it has. Without it a
// posting does not end well.
func (po *Posting) Seal() { po.peer.kick(po, true) }

// Renew lets the posting touch what the peer has registered up to now.
func (po *Posting) Renew() {
	p := po.peer
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.closing { // else the table may be gone
		po.epoch.Store(p.epoch())
	}
}

// Stop makes the posting end with cause: nothing more is begun, and what the peer
// has not begun is taken back. Does not block; Source.Ended follows. A posting that
// ended stays as it is.
func (po *Posting) Stop(cause error) {
	p := po.peer
	p.mu.Lock()
	first := po.fail(cause)
	p.mu.Unlock()
	if first {
		po.withdraw()
	}
	p.finished(po, 0, nil)
}

// done reports bytes that have arrived.
func (po *Posting) done(bytes uint64, packed bool) {
	if bytes > 0 {
		po.arrived.Add(bytes)
		po.src.Done(bytes, packed)
	}
}

// withdraw takes back what it can, and sees to it that the rest ends, too.
func (po *Posting) withdraw() {
	p := po.peer
	n := 0
	for _, l := range p.lanes {
		n += l.takeBack(po, false)
	}
	p.mu.Lock()
	po.inflight -= n
	due := po.inflight > 0
	p.mu.Unlock()
	p.wakeAll() // a lane may hold slices that wait for room in its ring
	if due {
		time.AfterFunc(quiesceDrain, po.abandon)
	}
}

// abandon gives up messages that the peer does not finish.
func (po *Posting) abandon() {
	p := po.peer
	defer recovered(p.cfg.Log, "the end of a batch", nil)
	n := 0
	for _, l := range p.lanes {
		n += l.takeBack(po, true)
	}
	p.mu.Lock()
	po.inflight -= n
	po.loud = po.loud || n > 0
	p.mu.Unlock()
	p.finished(po, 0, nil)
}

// fail makes the posting end with an error; the first cause stays. peer.mu is held.
func (po *Posting) fail(cause error) (first bool) {
	if po.cause != nil || po.ended {
		return false
	}
	po.cause = cause
	po.stopped.Store(true)
	po.peer.dequeue(po)
	return true
}

// finishedPosting is a posting that has just ended, to be reported without locks.
type finishedPosting struct {
	src Source
	end End
}

func (f *finishedPosting) report() {
	if f != nil {
		f.src.Ended(f.end)
	}
}

// settle finds out whether the posting has ended now. peer.mu is held.
func (po *Posting) settle() *finishedPosting {
	if po.ended || po.inflight > 0 {
		return nil
	}
	if po.cause == nil && (!po.sealed || po.src.Left() > 0) {
		return nil
	}
	po.ended = true
	p := po.peer
	p.timing(po)
	p.dequeue(po)
	delete(p.live, po)
	p.checkEmpty()
	return &finishedPosting{po.src, End{Err: po.cause, Quiet: !po.loud}}
}

// because words an error with the peer's name.
func (po *Posting) because(err error) error { return errors.WithMessage(err, po.peer.cfg.Name) }
