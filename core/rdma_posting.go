//go:build cgo

package core

import (
	"time"

	"github.com/pkg/errors"

	"mooncake/rdma"
)

// rdmaPosting is one batch's work on a path. Its fields are guarded by the path's lock.
type rdmaPosting struct {
	path   *rdmaPath
	work   *work
	op     Op
	fences uint64       // the peer's that were known when it began
	ticket *rdma.Ticket // nil before the first piece, and after the end

	sealed  bool          // the work gets no more slices
	awaited bool          // a thread is going to call receive
	line    *line         // of the path that it stands in; nil: in none
	kept    []rdma.Piece  // cut, and not taken by a lane yet
	store   []rdma.Piece  // where kept lies
	back    []slice       // the same, to be cut again
	redo    []rdma.Undone // of a lane that broke, to be posted again; the ticket counts them
	on      *rdmaLane     // that carries its pieces
	shut    bool          // the ticket knows that it is sealed

	cause   error // why it must end; no more pieces are posted
	loud    bool  // a lane that carried its pieces could not be fenced
	breaks  int   // connections that broke under it
	renewed int   // how often a piece is posted again with another key
	users   int   // threads that wait in the ticket
	over    bool
	freed   bool
	moved   uint64 // bytes, when it is over
}

// most of a feeding: pieces, and bytes.
const (
	feedPieces = 256
	feedBytes  = 4 << 20
)

// push says that the work has more slices.
func (po *rdmaPosting) push() { po.path.kick(po, false) }

// seal says that the work will get no more slices.
func (po *rdmaPosting) seal() { po.path.kick(po, true) }

// quiesce makes the posting end with cause.
func (po *rdmaPosting) quiesce(cause error) {
	p := po.path
	p.mu.Lock()
	po.fail(cause, true)
	done := p.settle()
	p.mu.Unlock()
	report(done)
	po.leave() // who was to call receive may not, if it is for this that the posting ends
}

// measured tells the bytes confirmed so far.
func (po *rdmaPosting) measured() uint64 {
	po.path.mu.Lock()
	defer po.path.mu.Unlock()
	if po.ticket != nil {
		return po.ticket.Done()
	}
	return po.moved
}

// receiveLimit is how long a thread that waits stays in C, at most: longer than most small
// batches take, and shorter than anybody minds.
const receiveLimit = 100 * time.Millisecond

// waits makes the thread that is going to receive the first to know the end: no event is
// made of it.
func (po *rdmaPosting) waits() {
	po.path.mu.Lock()
	defer po.path.mu.Unlock()
	po.awaited = true
}

// receive lets the thread wait for the end of the ticket. It is the first to know then.
func (po *rdmaPosting) receive() { po.await(receiveLimit) }

// leave gives the promise back.
func (po *rdmaPosting) leave() {
	po.path.mu.Lock()
	promised := po.awaited
	po.path.mu.Unlock()
	if promised {
		po.await(0)
	}
}

// leaveIfFailed makes an end known at once that would else be kept until all blocks of a long
// call are planned.
func (po *rdmaPosting) leaveIfFailed() {
	po.path.mu.Lock()
	failed := po.cause != nil
	po.path.mu.Unlock()
	if failed {
		po.leave()
	}
}

// await waits for the end, and keeps the promise that a ticket has of it.
func (po *rdmaPosting) await(limit time.Duration) {
	p := po.path
	p.mu.Lock()
	po.awaited = false
	ticket := po.ticket
	if ticket == nil { // no connection yet, or it is over
		p.mu.Unlock()
		return
	}
	po.users++
	p.mu.Unlock()
	if ticket.Wait(limit) {
		p.transport.ticketEnded(ticket)
	}
	p.mu.Lock()
	po.users--
	po.free(ticket)
	p.mu.Unlock()
}

// free gives the ticket's memory back once the posting is over and no thread waits in it.
// path.mu is held.
func (po *rdmaPosting) free(ticket *rdma.Ticket) {
	if po.over && po.users == 0 && !po.freed {
		po.freed = true
		ticket.Free()
	}
}

// fail makes the posting end with an error; the first cause stays. path.mu is held.
func (po *rdmaPosting) fail(cause error, quiet bool) {
	if !quiet {
		po.loud = true
	}
	if po.cause != nil || po.over {
		return
	}
	po.cause = cause
	po.path.dequeue(po)
	if po.ticket == nil {
		po.path.failed = append(po.path.failed, po)
		return
	}
	po.ticket.Stop()
	po.ticket.Drop(len(po.redo))
	po.kept, po.back, po.redo = nil, nil, nil
	po.overdue()
	drain := rdmaDrain
	if po.on != nil && !po.on.ours {
		drain = rdmaSharedDrain
	}
	time.AfterFunc(drain, func() {
		po.leave() // it may be over, and only not told
		po.breakLane()
	})
}

// rdmaDrain is how long requests in flight may take to complete by themselves when their
// posting has to end; after that their connection is given up. Small beside the 100 ms in
// which a cancelled batch is to be quiet. A connection with upstream carries the peer's
// requests as well, which break with it, and nobody would confirm that they are quiet.
const (
	rdmaDrain       = 30 * time.Millisecond
	rdmaSharedDrain = time.Second
)

// breakLane gives the lane up that still carries pieces of a posting that must end.
func (po *rdmaPosting) breakLane() {
	p := po.path
	p.mu.Lock()
	defer p.mu.Unlock()
	if !po.over && p.lane != nil && p.lane == po.on {
		p.lane.queues.Break()
	}
}

// feed gives pieces to a lane: at most one feeding of them. more: the posting has more to
// give; room: the lane took all that it was given. path.mu is held.
func (po *rdmaPosting) feed(l *rdmaLane) (more, room bool) {
	po.on = l
	if len(po.redo) > 0 {
		return po.again(l)
	}
	if po.ticket == nil {
		po.ticket = po.path.transport.newTicket(po)
		if po.awaited {
			po.ticket.Expect()
		}
	}
	if len(po.kept) == 0 && len(po.back) == 0 {
		if more, room, some := po.feedRuns(l); some {
			return more, room
		}
	}
	pieces := po.pieces(l)
	if po.cause != nil {
		return false, true
	}
	last := po.sealed && !po.shut && len(po.back) == 0 && po.work.left.Load() == 0
	if len(pieces) > 0 {
		if taken := l.Feed(po.ticket, po.class(), pieces, last); taken < len(pieces) {
			po.keep(pieces[taken:])
			return true, false
		}
	} else if last {
		po.ticket.Seal()
	}
	po.shut, po.kept = po.shut || last, nil
	return po.waiting(), true
}

// keep remembers pieces that the lane did not take. They may lie in the path's scratch.
// path.mu is held.
func (po *rdmaPosting) keep(pieces []rdma.Piece) {
	if len(po.kept) > 0 {
		po.kept = pieces // the end of what was kept before
		return
	}
	po.store = append(po.store[:0], pieces...)
	po.kept = po.store
}

// waiting tells whether there is more to post. path.mu is held.
func (po *rdmaPosting) waiting() bool {
	return len(po.redo) > 0 || len(po.back) > 0 || len(po.kept) > 0 || po.work.left.Load() > 0
}

// again posts pieces of a lane that broke, with the keys of now. path.mu is held.
func (po *rdmaPosting) again(l *rdmaLane) (more, room bool) {
	some := po.redo[:min(len(po.redo), feedPieces)]
	keys := po.path.remoteKeys(l.device)
	for i := range some {
		piece := &some[i].Piece
		at := keys.spans.seek(piece.Remote, -1)
		if at < 0 || !keys.spans[at].holds(piece.Remote, uint64(piece.Length)) {
			po.gone(piece.Remote, uint64(piece.Length))
			return false, true
		}
		piece.RKey = keys.rkeys[at]
	}
	taken := l.Again(some)
	if po.redo = po.redo[taken:]; taken < len(some) {
		return true, false
	}
	return po.waiting() || po.sealed && !po.shut, true
}

// gone fails a posting whose peer has taken memory back. path.mu is held.
func (po *rdmaPosting) gone(remote, length uint64) {
	po.fail(errors.WithMessagef(ErrRejected, "%s: %d bytes at %#x are registered no more, or not for RDMA",
		po.path.process.name, length, remote), true)
}

// class tells bulk from calls that are small enough to have a queue pair of their own.
func (po *rdmaPosting) class() rdma.Class {
	const smallBlocks, smallBytes = 64, 256 << 10
	b := po.work.batch
	if b.blocks.Load() <= smallBlocks && b.bytes.Load() <= smallBytes {
		return rdma.Small
	}
	return rdma.Bulk
}

// pieces are the next ones to post: those kept, those of a broken lane, new ones. A piece
// that the peer no longer has registered fails the posting. path.mu is held.
func (po *rdmaPosting) pieces(l *rdmaLane) []rdma.Piece {
	p := po.path
	if len(po.kept) > 0 {
		return po.kept
	}
	keys := p.remoteKeys(l.device)
	p.pieces = p.pieces[:0]
	if n := min(len(po.back), feedPieces); n > 0 {
		some := po.back[:n]
		po.back = po.back[n:]
		return po.cut(some, keys)
	}
	return po.cut(p.slices[:po.work.next(p.slices[:], feedBytes)], keys)
}

// rdmaEnd is a posting that has just ended, to be reported without locks.
type rdmaEnd struct {
	posting *rdmaPosting
	end     ending
	moved   uint64
}

func (e *rdmaEnd) report() {
	b := e.posting.work.batch
	if e.moved > 0 {
		b.progressed(e.moved)
		b.engine.counts.bytesRDMA.Add(e.moved)
	}
	if errors.Is(e.end.err, ErrFenced) {
		e.posting.work.process.suspect.Store(true) // what is known of the peer's fences is old
	}
	b.finish(e.end)
}
