package tcp

import (
	"sync/atomic"
	"time"

	"github.com/pkg/errors"
)

// Slice is one contiguous piece to move: one request on the wire.
type Slice struct {
	Local  uint64 // address here
	Remote uint64 // address in the peer's process
	Len    uint64 // bytes, not 0
	Mover  Mover  // of the local memory, which the batch keeps registered
}

// Source is where a posting's slices come from. Next is called by one lane at a
// time; the methods must not block, and must not call back into this package.
type Source interface {
	// Next fills dst with slices to send now and returns how many; it stops
	// early once they exceed budget bytes. 0: none at present.
	Next(dst []Slice, budget uint64) int
	// Left estimates the bytes that Next has not given out yet.
	Left() uint64
	// Done reports confirmed slices. Several lanes may call it at once.
	Done(slices int, bytes uint64)
	// Recut gives a slice that is to be sent again in pieces, cut by what is known
	// of the peer's ranges now.
	Recut(s Slice, emit func(Slice))
	// Resent reports slices that are sent again after a broken connection.
	Resent(slices int)
	// Ended is the last call, made exactly once.
	Ended(End)
}

// End is how a posting ended.
type End struct {
	Err error // nil: every slice is confirmed
	// Quiet: the peer's end of every connection that carried slices of this
	// posting without confirming them is known to be closed, so nothing of it
	// can arrive any more. Always true without an error.
	Quiet bool
	// Unconfirmed: something was written to a version 1 peer, which cannot
	// acknowledge. The peer closed those connections in order.
	Unconfirmed bool
}

// quiesceDrain is how long slices in flight may take to complete by themselves
// when their posting has to end; after that their lanes are given up. Small
// beside the 100 ms in which a cancelled batch is to be quiet.
const quiesceDrain = 40 * time.Millisecond

// Posting is one batch's share towards one peer. Its fields are guarded by the
// peer's lock.
type Posting struct {
	peer  *Peer
	src   Source
	write bool

	sealed      bool    // the source will get no more slices
	queued      bool    // in the peer's ring
	redo        []entry // slices to send again
	redoAfter   uint64  // on a lane born when this many connections had broken
	inflight    int     // slices on lanes, not confirmed
	on          []laneShare
	fences      uint64 // the peer's fences that were known when it began
	cause       error  // why it must end; no more slices are handed out
	loud        bool   // a broken lane could not be fenced
	unconfirmed bool
	ended       bool
	over        atomic.Bool // the same, for those without the lock
	waits       atomic.Bool // the thread that kicks is going to receive
}

// laneShare is how many slices of a posting one lane carries.
type laneShare struct {
	lane  carrier
	count int
}

// entry is a slice on a lane or waiting to be sent again.
type entry struct {
	Slice
	posting *Posting
	attempt int   // 0 the first time
	row     int32 // on a lane: how many slices, this one the first, have one answer
}

// carrier is what a lane is to its peer: something that can be given up.
type carrier interface {
	// giveUp ends the lane. Does not block; peer.retired follows.
	giveUp(cause error)
}

// Kick says that the source has more slices to give. The calling goroutine
// sends what a lane will take without blocking.
func (po *Posting) Kick() { po.peer.kick(po, false) }

// Seal says that the source will get no more slices than it has. Without it a
// posting does not end well.
func (po *Posting) Seal() { po.peer.kick(po, true) }

// Stop makes the posting end with cause: nothing more is handed to lanes, what
// is in flight may drain for a moment, then its lanes are given up and fenced.
// Does not block; Source.Ended follows. A posting that ended stays as it is.
func (po *Posting) Stop(cause error) {
	po.peer.mu.Lock()
	po.fail(cause, true)
	ended := po.settle()
	po.peer.mu.Unlock()
	ended.report()
}

// fail makes the posting end with an error; the first cause stays. peer.mu is held.
func (po *Posting) fail(cause error, quiet bool) {
	if !quiet {
		po.loud = true
	}
	if po.cause != nil || po.ended {
		return
	}
	po.cause = cause
	po.redo = nil
	po.peer.dequeue(po)
	if po.inflight > 0 {
		time.AfterFunc(quiesceDrain, po.breakLanes)
	}
}

// breakLanes gives up the lanes that still carry slices of a posting that must end.
func (po *Posting) breakLanes() {
	defer recovered(po.peer.cfg.Log, "the end of a batch", nil)
	po.peer.mu.Lock()
	var lanes []carrier
	for _, s := range po.on {
		lanes = append(lanes, s.lane)
	}
	po.peer.mu.Unlock()
	for _, l := range lanes {
		l.giveUp(errQuiesced)
	}
}

// carry adds n slices to what lane carries; n may be negative. peer.mu is held.
func (po *Posting) carry(lane carrier, n int) {
	po.inflight += n
	for i := range po.on {
		if po.on[i].lane != lane {
			continue
		}
		if po.on[i].count += n; po.on[i].count == 0 {
			last := len(po.on) - 1
			po.on[i], po.on[last] = po.on[last], laneShare{}
			po.on = po.on[:last]
		}
		return
	}
	po.on = append(po.on, laneShare{lane, n})
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
	if po.cause == nil && (!po.sealed || len(po.redo) > 0 || po.src.Left() > 0) {
		return nil
	}
	po.ended = true
	po.over.Store(true)
	po.peer.dequeue(po)
	delete(po.peer.live, po)
	return &finishedPosting{po.src, End{Err: po.cause, Quiet: !po.loud, Unconfirmed: po.unconfirmed}}
}

// allowed holds the posting against the last fence that concerns this engine;
// false: the peer has fenced it off since it began. peer.mu is held.
func (po *Posting) allowed(fenced uint64) bool {
	if po.fences < fenced {
		po.fail(errors.WithMessage(ErrFenced, po.peer.cfg.Name), true)
		return false
	}
	return true
}
