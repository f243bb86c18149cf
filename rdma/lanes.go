package rdma

// #include "port.h"
// #cgo noescape mcp_lane_feed
// #cgo nocallback mcp_lane_feed
// #cgo noescape mcp_lane_feed_runs
// #cgo nocallback mcp_lane_feed_runs
import "C"

import (
	"fmt"
	"math/bits"
	"syscall"
	"unsafe"

	"github.com/pkg/errors"
)

// Lane is one path to a peer: connected queue pairs of one port, and for each a ring of
// pieces that wait to be posted or are in flight.
//
// A lane breaks once: by Break, or by the first request that fails. Its queue pairs go to
// the error state then, what is in flight comes back as a flush, and when nothing is in
// flight any more a LaneBroken event says so. Undone has what was not delivered.
type Lane struct {
	Owner any // the caller's

	life
	port *Port
	ptr  *C.struct_mcp_lane
	id   uint32
}

// MostLaneQPs is how many queue pairs one lane takes.
const MostLaneQPs = C.MCP_MAX_QUEUES

// NewLane makes a lane of queue pairs that are ready to send and complete to the port's
// CQ. The caller keeps them, and closes them after the lane, or earlier once Break has
// returned. It fails with ErrFull when the CQ cannot hold what all lanes may have in
// flight, and with ErrClosed.
func (p *Port) NewLane(qps []*QP, cfg LaneConfig) (*Lane, error) {
	if len(qps) == 0 || len(qps) > MostLaneQPs {
		return nil, errors.Errorf("make a lane of %d QPs on %s: must be 1 to %d", len(qps), p.cq.context.name, MostLaneQPs)
	}
	p.mu.Lock()
	p.lastLane++
	l := &Lane{port: p, id: p.lastLane}
	p.mu.Unlock()
	label := fmt.Sprintf("lane of QP %d of %s", qps[0].number, p.cq.context.name)
	if err := l.begin(func() string { return label }, &p.life); err != nil {
		return nil, err
	}
	if err := l.open(qps, cfg); err != nil {
		l.end()
		return nil, err
	}
	return l, nil
}

func (l *Lane) open(qps []*QP, cfg LaneConfig) error {
	cfg = cfg.fit(qps)
	if cfg.Ring&(cfg.Ring-1) != 0 {
		return errors.Errorf("make a lane on %s: a ring of %d pieces is no power of two", l.port.cq.context.name, cfg.Ring)
	}
	queues := make([]*C.struct_ibv_qp, len(qps))
	for i, qp := range qps {
		if err := qp.use(); err != nil {
			return errors.WithMessage(err, "make a lane")
		}
		defer qp.leave()
		queues[i] = qp.ptr
	}
	config := C.struct_mcp_lane_config{
		depth:        C.uint32_t(cfg.Depth),
		gather:       C.uint32_t(cfg.Gather),
		scatter:      C.uint32_t(cfg.Scatter),
		read_depth:   C.uint32_t(cfg.ReadDepth),
		ring:         C.uint32_t(cfg.Ring),
		inline_bytes: C.uint32_t(cfg.Inline),
		gather_bytes: C.uint64_t(cfg.GatherBytes),
		back_local:   C.uint64_t(cfg.ReadBack.Local),
		back_lkey:    C.uint32_t(cfg.ReadBack.LKey),
		id:           C.uint32_t(l.id),
	}
	// Known before it exists in C: its first event may come before this returns.
	l.port.mu.Lock()
	l.port.lanes[l.id] = l
	l.port.mu.Unlock()
	errno := syscall.Errno(C.mcp_lane_open(l.port.ptr, &queues[0], C.uint32_t(len(queues)), &config, &l.ptr))
	if errno != 0 {
		l.forget()
		return l.port.laneFailed(errno, len(qps), cfg.Depth)
	}
	return nil
}

func (l *Lane) forget() {
	l.port.mu.Lock()
	defer l.port.mu.Unlock()
	delete(l.port.lanes, l.id)
}

// fit sets what is 0 and keeps within what the queue pairs can do.
func (cfg LaneConfig) fit(qps []*QP) LaneConfig {
	depth, sges, inline := qps[0].SendDepth(), qps[0].MaxSGE(), qps[0].MaxInline()
	for _, qp := range qps[1:] {
		depth, sges, inline = min(depth, qp.SendDepth()), min(sges, qp.MaxSGE()), min(inline, qp.MaxInline())
	}
	limit := func(value, most int) int {
		if value <= 0 || value > most {
			return most
		}
		return value
	}
	cfg.Depth = limit(cfg.Depth, depth)
	cfg.Gather = limit(cfg.Gather, sges)
	cfg.Scatter = limit(cfg.Scatter, sges)
	cfg.ReadDepth = limit(cfg.ReadDepth, cfg.Depth)
	cfg.Inline = max(min(cfg.Inline, inline), 0)
	if cfg.Ring <= 0 {
		cfg.Ring = 1 << bits.Len(uint(4*cfg.Depth-1))
	}
	return cfg
}

// Feed takes pieces from the front, as many as there is room for, counts them for t and
// posts what can be posted now; the rest follows without another call. It does not block
// and does not keep the slice. When fewer are taken a LaneRoom event comes once half of
// the room is free; nothing is taken once the lane is broken. last seals t if all were
// taken. Pieces of a stopped ticket are all taken and dropped.
func (l *Lane) Feed(t *Ticket, class Class, pieces []Piece, last bool) (taken int) {
	first := (*C.struct_mcp_piece)(unsafe.Pointer(unsafe.SliceData(pieces)))
	seal := C.int(0)
	if last {
		seal = 1
	}
	fed := C.mcp_lane_feed(l.ptr, t.ptr, C.int(class), first, C.size_t(len(pieces)), seal)
	return took(fed, len(pieces))
}

// RunLimits bound a feeding of runs. Seal is as last of Feed.
type RunLimits struct {
	Longest uint64 // of a run, in bytes; at most LongestPiece
	Bytes   uint64 // no more runs are taken once they have so many
	Seal    bool
}

// FeedRuns is Feed for runs, which get the keys of their areas. It stops, too, before a run
// that exceeds the limits or does not lie in its area. full: it stopped for want of room,
// of which a LaneRoom event tells, or because the lane is broken.
func (l *Lane) FeedRuns(t *Ticket, class Class, runs []Run, areas []Area, limits RunLimits) (taken int, bytes uint64, full bool) {
	first := (*C.struct_mcp_run)(unsafe.Pointer(unsafe.SliceData(runs)))
	area := (*C.struct_mcp_area)(unsafe.Pointer(unsafe.SliceData(areas)))
	seal := C.int(0)
	if limits.Seal {
		seal = 1
	}
	fed := C.mcp_lane_feed_runs(l.ptr, t.ptr, C.int(class), first, C.size_t(len(runs)), area, C.size_t(len(areas)),
		C.uint64_t(limits.Longest), C.uint64_t(limits.Bytes), seal)
	return took(fed, len(runs)), uint64(fed.bytes), fed.full != 0
}

// took says how many of the pieces are off the caller's hands.
func took(fed C.struct_mcp_fed, count int) int {
	if fed.sealed != 0 {
		panic("rdma: a sealed ticket was fed")
	}
	if fed.dropped != 0 {
		return count
	}
	return int(fed.taken)
}

// Break stops the lane and brings its queue pairs to the error state, which it waits for.
// LaneBroken follows, once.
func (l *Lane) Break() { C.mcp_lane_break(l.ptr) }

// Abandon is for a broken lane whose flushes do not come: the caller has closed the queue
// pairs, and all that was in flight is undone. LaneBroken follows if it has not come.
func (l *Lane) Abandon() { C.mcp_lane_abandon(l.ptr) }

// Progress tells a watchdog how many work requests came back since the lane was opened,
// modulo 2^32 for each queue pair, and how many are in flight.
func (l *Lane) Progress() (retired uint64, inFlight int) {
	var back, out C.uint64_t
	C.mcp_lane_progress(l.ptr, &back, &out)
	return uint64(back), int(out)
}

// Close frees the lane, which nobody may use any more, and leaves the queue pairs as they
// are. It fails with ErrInUse while pieces wait or are in flight. After that whatever
// still completes for it is ignored. Closing twice is safe.
func (l *Lane) Close() error {
	return l.close(nil, func() error {
		if errno := syscall.Errno(C.mcp_lane_close(l.ptr)); errno != 0 {
			_, inFlight := l.Progress()
			return errors.WithMessagef(ErrInUse, "close a lane of %s: pieces wait, or are among %d work requests in flight; break it first",
				l.port.cq.context.name, inFlight)
		}
		l.forget()
		return nil
	})
}

var (
	_ [unsafe.Sizeof(Piece{})]byte = [C.sizeof_struct_mcp_piece]byte{}
	_ [unsafe.Sizeof(Run{})]byte   = [C.sizeof_struct_mcp_run]byte{}
	_ [unsafe.Sizeof(Area{})]byte  = [C.sizeof_struct_mcp_area]byte{}
)
