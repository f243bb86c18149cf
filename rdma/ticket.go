package rdma

// #include "port.h"
// #cgo noescape mcp_ticket_wait
// #cgo nocallback mcp_ticket_wait
import "C"

import (
	"sync/atomic"
	"time"
)

// Ticket is the account of one batch: it counts pieces from when they are fed until they
// are delivered or given up. It ends once, when it is sealed or stopped and nothing is
// counted any more, and that is told once: by one Wait that returns true, or by a
// TicketEnded. A ticket has pieces on one lane at a time.
//
// All methods but Free may be called at the same time, until the end was told.
type Ticket struct {
	Owner any // the caller's, until Free

	port *Port
	ptr  *C.struct_mcp_ticket
	done *uint64

	expected atomic.Bool // Expect was called, and not Wait after it
}

func newTicket(p *Port, id uint32) *Ticket {
	t := &Ticket{port: p, ptr: C.mcp_ticket_new(p.ptr, C.uint32_t(id))}
	if t.ptr == nil {
		panic("rdma: out of memory for a ticket")
	}
	t.done = (*uint64)(C.mcp_ticket_done(t.ptr))
	return t
}

// Done is how many bytes are known to be delivered.
func (t *Ticket) Done() uint64 { return atomic.LoadUint64(t.done) }

// Stop gives up what is not posted yet and seals. The ticket ends when what is posted
// came back. Feeding a stopped ticket drops the pieces.
func (t *Ticket) Stop() { C.mcp_ticket_stop(t.ptr) }

// Seal says that no more pieces come. Sealing twice is safe.
func (t *Ticket) Seal() { C.mcp_ticket_seal(t.ptr) }

// Drop gives up pieces that Lane.Undone returned.
func (t *Ticket) Drop(pieces int) { C.mcp_ticket_drop(t.ptr, C.uint64_t(pieces)) }

// Expect promises a call of Wait: until that is done the end is not told by an event,
// however early the ticket ends. Without a promise Wait may come too late.
func (t *Ticket) Expect() {
	if t.expected.CompareAndSwap(false, true) {
		C.mcp_ticket_expect(t.ptr)
	}
}

// Wait blocks until the ticket ends, at most for d; below 0: for ever. True: it ended and
// this caller is the one who is told. False: not within d, or somebody else was told.
func (t *Ticket) Wait(d time.Duration) bool {
	expected := C.int(0)
	if t.expected.CompareAndSwap(true, false) {
		expected = 1
	}
	return C.mcp_ticket_wait(t.ptr, C.int64_t(d.Nanoseconds()), expected) != 0
}

// Free gives the ticket back, by the one who was told of its end; it must not be used
// after. Nobody may be in Wait.
func (t *Ticket) Free() {
	if C.mcp_ticket_is_told(t.ptr) == 0 {
		panic("rdma: a ticket was freed before its end")
	}
	t.port.recycle(t)
}
