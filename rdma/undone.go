package rdma

// #include "port.h"
// #include "shim.h"
import "C"

import (
	"fmt"
	"syscall"
	"unsafe"
)

// FailureCause is what broke a lane.
type FailureCause int

const (
	FailedCompletion FailureCause = iota + 1 // a work request completed with an error
	FailedPost                               // the device refused a work request for good
	FailedByCaller                           // Break or Abandon
	FailedPiece                              // a piece was longer than LongestPiece
	FailedPoll                               // the completion queue is lost
)

// Failure is why a lane broke; the zero value: it did not.
type Failure struct {
	Cause      FailureCause
	Local      bool // no completion told it
	Status     int  // of the completion, as verbs numbers it, or an errno if Local
	StatusText string
	Vendor     uint32  // the driver's code
	QP         int     // its number, 0 if unknown
	Piece      Piece   // the first one of the work request
	Ticket     *Ticket // it belongs to, nil if to none
}

// Failure is of the first error that the lane met.
func (l *Lane) Failure() Failure {
	var c C.struct_mcp_failure
	C.mcp_lane_failure(l.ptr, &c)
	if c.by == 0 {
		return Failure{}
	}
	f := Failure{
		Cause:  FailureCause(c.by),
		Local:  c.by != C.MCP_BY_COMPLETION,
		Status: int(c.status),
		Vendor: uint32(c.vendor),
		QP:     int(c.qp),
		Piece:  pieceOf(c.piece),
	}
	if c.ticket_id != 0 {
		f.Ticket = l.port.ticket(uint32(c.ticket_id))
	}
	switch {
	case f.Cause == FailedByCaller:
		f.StatusText = "broken by its owner"
	case f.Local:
		f.StatusText = fmt.Sprintf("%v (%s)", syscall.Errno(c.status), errnoName(syscall.Errno(c.status)))
	default:
		f.StatusText = C.GoString(C.mcv_status_text(C.int(c.status)))
	}
	return f
}

// Undone is a piece of a broken lane that is not known to be delivered. Its ticket still
// counts it, until it is given up with Ticket.Drop, or queued on another lane with
// Lane.Again and delivered there.
type Undone struct {
	Piece    Piece // without Joins
	Ticket   *Ticket
	Posted   bool // the peer's memory may have been written, or local memory for a READ
	ReadBack bool // no data: the read that LaneConfig.ReadBack asks for
}

const undoneAtOnce = 64

// Undone tells what a broken lane did not deliver, after its LaneBroken and in the order
// of each queue pair: at most len(out) pieces a call, each once. 0: there are no more.
// One caller at a time.
func (l *Lane) Undone(out []Undone) int {
	var chunk [undoneAtOnce]C.struct_mcp_undone
	n := 0
	for n < len(out) {
		got := int(C.mcp_lane_undone(l.ptr, &chunk[0], C.size_t(min(len(out)-n, len(chunk)))))
		if got == 0 {
			break
		}
		for _, c := range chunk[:got] {
			out[n] = Undone{
				Piece:    pieceOf(c.piece),
				Ticket:   l.port.ticket(uint32(c.ticket_id)),
				Posted:   c.posted != 0,
				ReadBack: c.read_back != 0,
			}
			n++
		}
	}
	return n
}

// Again queues what another lane did not deliver, with the keys of this one, and without
// counting it anew. It takes from the front and otherwise is as Feed.
func (l *Lane) Again(in []Undone) (taken int) {
	var chunk [undoneAtOnce]C.struct_mcp_undone
	for taken < len(in) {
		n := min(len(in)-taken, len(chunk))
		for i, u := range in[taken : taken+n] {
			chunk[i] = C.struct_mcp_undone{piece: u.Piece.c(), ticket: u.Ticket.ptr}
			if u.ReadBack {
				chunk[i].read_back = 1
			}
		}
		got := int(C.mcp_lane_again(l.ptr, &chunk[0], C.size_t(n)))
		taken += got
		if got < n {
			break
		}
	}
	return taken
}

func pieceOf(c C.struct_mcp_piece) Piece { return *(*Piece)(unsafe.Pointer(&c)) }

func (p Piece) c() C.struct_mcp_piece { return *(*C.struct_mcp_piece)(unsafe.Pointer(&p)) }
