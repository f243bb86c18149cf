package tcp

import (
	"context"
	"log/slog"
	"maps"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Link is a connection to the peer process that was meant, ready for requests.
type Link struct {
	Conn    *net.TCPConn
	Version int    // of the framing: 1 or 2
	Many    bool   // messages of many ranges were agreed on in the hello
	Fenced  uint64 // as in Greeting; 0 from peers that do not greet
}

// PeerConfig says how to reach one peer process. Zero numbers take the default.
type PeerConfig struct {
	Name string // for messages
	// Dial connects, and verifies that the intended process answers. It must
	// bound itself in time.
	Dial func(ctx context.Context) (Link, error)
	// Lost is called, without locks held, when a connection has broken, before
	// anybody learns of it through a posting.
	Lost func()
	// Covered asks the peer for its ranges anew, and tells whether it has every
	// byte of a slice that it rejected registered: then its ranges were cut in
	// another way meanwhile, and the slice is sent once more, cut by what is known
	// now. It may block, within bounds. Nil: never.
	Covered func(Slice) bool
	// Fences tells how many fences the peer is known to have made: a posting that
	// knew of fewer than the last one that concerns this engine is refused.
	// Nil for peers that make none.
	Fences func() uint64
	// Version of the framing that Dial's links will have.
	Version int
	Log     *slog.Logger
	// Lanes is the most connections to keep to this peer. Default 4.
	Lanes int
	// StallTimeout ends a lane whose data the peer's host does not take.
	// Default 30 s.
	StallTimeout time.Duration
	// SocketBuffer as in ServerConfig.
	SocketBuffer int
	// Messages counts the requests sent. Nil: nobody does.
	Messages *atomic.Uint64
}

const (
	defaultLanes = 4
	// retryQuantum and retryBytes bound how many slices of a broken connection are
	// sent again before their answers are awaited: few enough that an answer to one
	// of them has left before a reset can catch it.
	retryQuantum = 8
	retryBytes   = 32 << 10
	// laneBacklog is how many waiting bytes justify opening one more lane.
	laneBacklog = 1 << 20
)

// Peer is the initiator's side of one remote process: a few lanes and the
// postings that wait for them. Safe for concurrent use.
type Peer struct {
	cfg    PeerConfig
	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup // lanes and dials

	mu      sync.Mutex            // guards what follows, and the fields of every Posting
	live    map[*Posting]struct{} // those that have not ended
	ring    []*Posting            // of them, those that may have slices to give, served in turn
	turn    int
	lanes   []*lane
	v1      int // version 1 workers running
	dialing int
	breaks  uint64 // connections that broke so far
	barren  int    // how many of the last lanes broke before they carried anything
	closed  bool
	hups    []unix.PollFd // scratch of HungUp
}

// NewPeer makes the initiator's side; it connects when there is something to send.
func NewPeer(cfg PeerConfig) *Peer {
	if cfg.Lanes == 0 {
		cfg.Lanes = defaultLanes
	}
	if cfg.StallTimeout == 0 {
		cfg.StallTimeout = 30 * time.Second
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Messages == nil {
		cfg.Messages = new(atomic.Uint64)
	}
	p := &Peer{cfg: cfg, live: map[*Posting]struct{}{}}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	return p
}

// Post begins a posting of what src has, and will have until Seal. Nothing is
// sent before Kick or Seal; on a closed peer these end it with ErrClosed.
func (p *Peer) Post(write bool, src Source) *Posting {
	po := &Posting{peer: p, src: src, write: write}
	if p.cfg.Fences != nil {
		po.fences = p.cfg.Fences()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.closed {
		p.live[po] = struct{}{}
	}
	return po
}

// Close ends all postings with ErrClosed and returns when no lane is left. It
// must not be called from a Source.
func (p *Peer) Close() {
	p.mu.Lock()
	p.closed = true
	lanes := slices.Clone(p.lanes)
	live := slices.Collect(maps.Keys(p.live))
	p.mu.Unlock()
	for _, po := range live {
		po.Stop(ErrClosed)
	}
	p.cancel()
	for _, l := range lanes {
		l.giveUp(ErrClosed)
	}
	p.wg.Wait()
}

// kick queues po and gets lanes to work on it.
func (p *Peer) kick(po *Posting, seal bool) {
	p.mu.Lock()
	po.sealed = po.sealed || seal
	if p.closed {
		po.fail(ErrClosed, true)
	}
	if po.cause == nil && !po.ended && po.src.Left() > 0 {
		p.enqueue(po)
	}
	ended := po.settle()
	first := p.pickLane()
	if first != nil && po.waits.Load() && po.src.Left() < laneBacklog {
		first.shared.Store(true) // not later: the answer may be here before the call of Receive
	}
	p.openLanes()
	others := p.idleLanes(first)
	p.mu.Unlock()
	ended.report()
	for _, l := range others {
		l.wakeUp()
	}
	if first != nil {
		first.kick(kickRounds)
	}
}

// enqueue puts po in line. p.mu is held.
func (p *Peer) enqueue(po *Posting) {
	if !po.queued {
		po.queued = true
		p.ring = append(p.ring, po)
	}
}

// dequeue takes po out of line. p.mu is held.
func (p *Peer) dequeue(po *Posting) {
	if !po.queued {
		return
	}
	po.queued = false
	for i, q := range p.ring {
		if q == po {
			p.ring = append(p.ring[:i], p.ring[i+1:]...)
			return
		}
	}
}

// taker is a lane that asks for slices, with what decides which it gets.
type taker struct {
	carrier
	fenced, born uint64 // as in lane
	alone        bool   // nothing else is on the lane
	many         bool   // one answer for all that it takes
}

// take hands the next slices to a lane: up to len(dst), and not much over budget
// bytes. They are counted as in flight. Fenced postings end here; the caller reports
// them without locks. p.mu is held.
func (p *Peer) take(lane taker, dst []entry, slices []Slice, budget uint64) (n int, ended *finishedPosting) {
	for tries := len(p.ring); tries > 0 && len(p.ring) > 0; tries-- {
		p.turn %= len(p.ring)
		po := p.ring[p.turn]
		if !po.allowed(lane.fenced) {
			if ended = po.settle(); ended != nil {
				return 0, ended
			}
			continue
		}
		if !lane.alone && po.suspect(lane.born) {
			return 0, nil // what is on the lane comes first
		}
		n = po.next(lane, dst, slices, budget)
		if n == 0 && len(po.redo) == 0 {
			p.dequeue(po) // a kick will bring it back
			continue
		}
		if len(po.redo) == 0 && po.src.Left() == 0 {
			p.dequeue(po) // at once: what waits in line justifies connections
		} else {
			p.turn++
		}
		if n == 0 {
			continue
		}
		po.carry(lane.carrier, n)
		return n, nil
	}
	return 0, nil
}

// suspect tells whether the next slices for a lane were on one that broke. One of
// them may have been the reason: a server that refuses a request may close the
// connection in a way that destroys its answer. So they go alone, and few at a time
// unless they have one answer; if they break this connection, too, the others do not
// pay for it. peer.mu is held.
func (po *Posting) suspect(born uint64) bool {
	return len(po.redo) > 0 && born >= po.redoAfter && po.redo[0].attempt > 0
}

// next takes slices to be sent again first, for a lane that is young enough, then
// new ones. peer.mu is held.
func (po *Posting) next(lane taker, dst []entry, slices []Slice, budget uint64) int {
	if len(po.redo) > 0 && lane.born >= po.redoAfter {
		if po.suspect(lane.born) && !lane.many {
			dst, budget = dst[:min(len(dst), retryQuantum)], min(budget, retryBytes)
		}
		var n int
		for bytes := uint64(0); n < len(po.redo) && n < len(dst) && bytes < budget; n++ {
			if po.redo[n].attempt != po.redo[0].attempt {
				break
			}
			dst[n] = po.redo[n]
			bytes += dst[n].Len
		}
		po.redo = po.redo[n:]
		return n
	}
	n := po.src.Next(slices[:min(len(slices), len(dst))], budget)
	for i := range n {
		dst[i] = entry{Slice: slices[i], posting: po}
	}
	return n
}

// confirmed takes n slices of po, carried by lane, off the books. more: postings
// wait for a lane.
func (p *Peer) confirmed(lane carrier, po *Posting, n int, bytes uint64) (more bool) {
	po.src.Done(n, bytes)
	p.mu.Lock()
	po.carry(lane, -n)
	ended := po.settle()
	more = len(p.ring) > 0
	p.mu.Unlock()
	ended.report()
	return more
}
