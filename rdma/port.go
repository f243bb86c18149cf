package rdma

// #include "port.h"
// #cgo noescape mcp_port_wait
// #cgo nocallback mcp_port_wait
import "C"

import (
	"fmt"
	"sync"
	"syscall"

	"github.com/pkg/errors"
)

// Port moves data: it polls one CQ, and has the lanes whose queue pairs complete there
// and the tickets that their work is counted for. A thread of its own, in C, takes
// completions, fills the send queues from the lanes' rings and wakes those who wait.
type Port struct {
	life
	cq  *CQ
	ptr *C.struct_mcp_port

	waiting sync.Mutex // held by Wait; guards events
	events  []C.struct_mcp_event

	mu       sync.Mutex // guards the rest
	lanes    map[uint32]*Lane
	lastLane uint32
	tickets  []*Ticket // by id, the first is nil
	free     []*Ticket
}

// PortEvent is about a lane or a ticket; the other is nil.
type PortEvent struct {
	Kind   PortEventKind
	Lane   *Lane
	Ticket *Ticket
}

// NewPort starts polling cq, which nobody else may poll. The port is to be closed before
// the CQ. It fails with ErrDevice or ErrClosed.
func NewPort(cq *CQ, cfg PortConfig) (*Port, error) {
	p := &Port{
		cq:      cq,
		lanes:   map[uint32]*Lane{},
		tickets: make([]*Ticket, 1),
		events:  make([]C.struct_mcp_event, 64),
	}
	if err := p.begin(func() string { return "poller of the CQ of " + cq.context.name }, &cq.life); err != nil {
		return nil, err
	}
	spin := C.uint64_t(max(cfg.Spin, 0).Nanoseconds())
	if errno := syscall.Errno(C.mcp_port_open(cq.ptr, cq.channel, spin, &p.ptr)); errno != 0 {
		p.end()
		return nil, fail("start polling the CQ of "+cq.context.name, ErrDevice, errno,
			"look at the limits of threads and of open files (ulimit -u, -n)")
	}
	return p, nil
}

// Close ends the polling thread, and Wait. It fails with ErrInUse while lanes are open.
// Tickets are gone with it. Closing twice is safe.
func (p *Port) Close() error {
	return p.close(func() { C.mcp_port_shut(p.ptr) }, func() error {
		C.mcp_port_close(p.ptr)
		p.ptr = nil
		return nil
	})
}

// Wait blocks until something happened and puts it into out; one caller at a time. It
// returns how many events there are: 0 after Close, and once after Interrupt.
func (p *Port) Wait(out []PortEvent) int {
	if len(out) == 0 || p.use() != nil {
		return 0
	}
	defer p.leave()
	p.waiting.Lock()
	defer p.waiting.Unlock()
	for {
		most := min(len(out), len(p.events))
		n := int(C.mcp_port_wait(p.ptr, &p.events[0], C.int(most)))
		if n == 0 {
			return 0
		}
		if n = p.resolve(p.events[:n], out); n > 0 {
			return n
		}
	}
}

// resolve leaves out what was closed since.
func (p *Port) resolve(events []C.struct_mcp_event, out []PortEvent) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for _, e := range events {
		event := PortEvent{Kind: PortEventKind(e.kind)}
		if event.Kind == TicketEnded {
			event.Ticket = p.tickets[e.id]
		} else if event.Lane = p.lanes[uint32(e.id)]; event.Lane == nil {
			continue
		}
		out[n] = event
		n++
	}
	return n
}

// Interrupt makes Wait return 0, now or when it is next called.
func (p *Port) Interrupt() {
	if p.use() == nil {
		C.mcp_port_interrupt(p.ptr)
		p.leave()
	}
}

// Counters are 0 once the port is closed.
func (p *Port) Counters() PortCounters {
	var c C.struct_mcp_counters
	if p.use() == nil {
		C.mcp_port_counters(p.ptr, &c)
		p.leave()
	}
	return PortCounters{
		WorkRequests:     uint64(c.work_requests),
		Doorbells:        uint64(c.doorbells),
		Completions:      uint64(c.completions),
		Bytes:            uint64(c.bytes),
		Pieces:           uint64(c.pieces),
		Wakeups:          uint64(c.wakeups),
		PartialPosts:     uint64(c.partial_posts),
		RefusedPosts:     uint64(c.refused_posts),
		StrayCompletions: uint64(c.stray_completions),
		Errors:           uint64(c.errors),
	}
}

// NewTicket makes the account of one batch: pieces of one direction. It must be freed
// after its end, and allocates only until there are enough of them. The port is open.
func (p *Port) NewTicket(op Op) *Ticket {
	p.mu.Lock()
	defer p.mu.Unlock()
	var t *Ticket
	if n := len(p.free); n > 0 {
		t = p.free[n-1]
		p.free = p.free[:n-1]
	} else {
		t = newTicket(p, uint32(len(p.tickets)))
		p.tickets = append(p.tickets, t)
	}
	C.mcp_ticket_start(t.ptr, C.int(op))
	return t
}

func (p *Port) recycle(t *Ticket) {
	p.mu.Lock()
	defer p.mu.Unlock()
	t.Owner = nil
	p.free = append(p.free, t)
}

func (p *Port) ticket(id uint32) *Ticket {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.tickets[id]
}

// laneFailed is the error of opening a lane.
func (p *Port) laneFailed(errno syscall.Errno, qps, depth int) error {
	what := fmt.Sprintf("make a lane of %d QPs on %s", qps, p.cq.context.name)
	switch errno {
	case syscall.ENOSPC:
		return fail(what, ErrFull, errno, fmt.Sprintf(
			"%d work requests in flight do not fit any more into the CQ of %d entries", qps*depth, p.cq.depth))
	case syscall.ENOMEM:
		return fail(what, ErrFull, errno, "there is no memory for its rings")
	}
	return errors.WithMessage(errno, what)
}
