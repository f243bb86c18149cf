package local

import (
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
)

// PeerConfig says how to move bytes to and from one peer.
type PeerConfig struct {
	Name string // for messages
	// Lost is called, without locks held, when the connection has broken, before
	// anybody learns of it through a posting.
	Lost func()
	Log  *slog.Logger
	// Messages counts slots of shared memory filled for the peer and system calls that
	// copied. Nil: nobody does.
	Messages *atomic.Uint64
}

const (
	// spareLanes are for submitting threads while the others are busy: a small batch
	// need not wait for its turn.
	spareLanes = 2
	// spareRanges bounds what a spare lane moves, by system calls of its own.
	spareRanges = 64
)

// Peer is the initiator's side of one process: a few lanes and the postings that
// wait for them. Safe for concurrent use.
type Peer struct {
	cfg    PeerConfig
	remote *Remote // the peer's process is another one, or
	guest  *Guest  // it is this one

	lanes []*lane        // those with goroutines first, then the spare ones
	crew  int            // how many have goroutines
	wg    sync.WaitGroup // goroutines of lanes and watchers
	stop  atomic.Bool    // goroutines of lanes end
	lost  atomic.Bool

	mu      sync.Mutex // guards what follows, and fields of every Posting
	live    map[*Posting]struct{}
	ring    []*Posting // those that may have slices to give, served in turn
	turn    int
	choice  choice
	cause   error // no more postings: the peer is lost or closed
	closing bool
	left    bool          // empty is closed
	empty   chan struct{} // closed when the last posting ends of a peer that closes
}

// NewRemotePeer moves bytes over a connection, which it owns from now on.
func NewRemotePeer(cfg PeerConfig, r *Remote) *Peer {
	p := newPeer(cfg)
	p.remote = r
	lanes := r.cfg.Lanes
	if r.cfg.Mode == PackedOnly {
		lanes = 0
	}
	p.addLanes(max(lanes, r.count), func(i int) word { return wordOf(r.words, i) })
	for i := range r.count {
		p.lanes[i].pack = newPacker(p.lanes[i], r.ring(i), r.bells[i])
		p.listen(p.lanes[i], r.bells[i])
	}
	p.start()
	p.watch()
	return p
}

// start starts the lanes' goroutines; the connection is complete.
func (p *Peer) start() {
	for _, l := range p.lanes[:p.crew] {
		p.wg.Add(1)
		go l.run()
	}
}

// NewInsidePeer moves bytes within this process. lanes is how many goroutines do.
func NewInsidePeer(cfg PeerConfig, g *Guest, lanes int) *Peer {
	p := newPeer(cfg)
	p.guest = g
	p.addLanes(min(max(lanes, 1), maxLanes-spareLanes), func(i int) word { return g.words[i] })
	p.start()
	return p
}

func newPeer(cfg PeerConfig) *Peer {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Messages == nil {
		cfg.Messages = new(atomic.Uint64)
	}
	return &Peer{cfg: cfg, live: map[*Posting]struct{}{}, empty: make(chan struct{})}
}

func (p *Peer) addLanes(crew int, wordOf func(int) word) {
	p.crew = min(crew, maxLanes-spareLanes)
	for i := range p.crew + spareLanes {
		most := vectorRanges
		if i >= p.crew {
			most = spareRanges
		}
		p.lanes = append(p.lanes, newLane(p, i, most, wordOf(i)))
	}
}

// listen makes a lane go on when the peer rings its bell.
func (p *Peer) listen(l *lane, bell *bell) {
	p.wg.Add(1)
	go func() {
		defer p.wg.Done()
		defer recovered(p.cfg.Log, "a local lane's bell", p.panicked)
		for bell.wait() == nil {
			l.wakeUp()
		}
	}()
}

// watch notices that the peer closes the connection, or ends.
func (p *Peer) watch() {
	r := p.remote
	p.wg.Add(1)
	go func() {
		defer p.wg.Done()
		defer recovered(p.cfg.Log, "watching a local peer", p.panicked)
		var b [1]byte
		r.socket.Read(b[:])
		p.lose(errGoneAway(r), true)
	}()
	if r.other.file == nil {
		return
	}
	p.wg.Add(1)
	go func() {
		defer p.wg.Done()
		defer recovered(p.cfg.Log, "watching a local peer", p.panicked)
		if r.other.awaitDeath() {
			p.lose(errGoneAway(r), true)
		}
	}()
}

func (p *Peer) panicked(err error) { p.lose(err, false) }

// Lost tells whether the connection is known to have broken, or the peer to be
// closing: nothing can be posted.
func (p *Peer) Lost() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cause != nil || p.closing {
		return true
	}
	if p.remote != nil {
		return p.remote.table.closing()
	}
	return p.guest.server.closing.Load()
}

// Post begins a posting of what src has, and will have until Seal. Nothing is moved
// before Kick or Seal; on a lost or closed peer these end it with an error.
func (p *Peer) Post(write bool, src Source) *Posting {
	po := &Posting{peer: p, src: src, write: write}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closing {
		return po // and the connection may be gone
	}
	if po.fence = p.guest.fenced(); p.remote != nil {
		po.fence = p.remote.table.fences(p.remote.place)
	}
	po.epoch.Store(p.epoch())
	p.live[po] = struct{}{}
	return po
}

// epoch is the number of the peer's last registration. p.mu is held, and the peer is
// not closing.
func (p *Peer) epoch() uint64 {
	if p.remote != nil {
		return p.remote.table.epoch()
	}
	return p.guest.server.epoch.Load()
}

// kick queues po, moves some of it, and gets lanes to work on the rest.
func (p *Peer) kick(po *Posting, seal bool) {
	p.mu.Lock()
	po.sealed = po.sealed || seal
	if p.cause != nil {
		po.fail(p.cause)
	}
	if po.cause == nil && !po.ended && po.src.Left() > 0 {
		p.enqueue(po)
		p.choose(po)
	}
	queued := po.queued
	ended := po.settle()
	p.mu.Unlock()
	ended.report()
	if queued {
		p.share(po)
	}
	if seal && po.Driven {
		p.attend()
	}
}

// share lets the calling thread move a quantum of po, on a lane that nobody uses, and
// wakes others for the rest. A thread that will wait for po moves as much of it as it can.
func (p *Peer) share(po *Posting) {
	mine := p.freeLane()
	if po.src.Left() > vectorBytes {
		p.wake(po, mine) // now, for they take a moment
	}
	if mine != nil {
		if po.Driven {
			mine.drive(po)
		} else {
			mine.help(po)
		}
		mine.turn.Unlock()
	}
	if po.src.Left() > 0 {
		p.wake(po, nil)
	}
}

// attend waits a while for the messages that a driving thread left in rings, and leaves
// what is not done by then to the lanes' goroutines.
func (p *Peer) attend() {
	for _, l := range p.lanes[:p.crew] {
		if l.pack != nil && l.turn.TryLock() { // else who has it leaves them to the goroutine
			if !p.stop.Load() {
				l.pack.linger()
				l.leave()
			}
			l.turn.Unlock()
		}
	}
}

// freeLane returns a lane that nobody uses, with its turn held; nil if there is none.
func (p *Peer) freeLane() *lane {
	for _, l := range p.lanes {
		if l.pack == nil && p.remote != nil && !p.remote.direct.Load() {
			return nil
		}
		if l.turn.TryLock() {
			return l
		}
	}
	return nil
}

// wake gets the lanes that can move po to look for work, but for one.
func (p *Peer) wake(po *Posting, but *lane) {
	packing := p.packing(po)
	for _, l := range p.lanes[:p.crew] {
		if l != but && (l.pack != nil || !packing) {
			l.wakeUp()
		}
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
	if i := slices.Index(p.ring, po); i >= 0 {
		p.ring = slices.Delete(p.ring, i, i+1)
	}
}

// next chooses the posting whose turn it is, and counts a quantum of it as in
// flight; nil if none has anything for a lane with a ring, or without.
func (p *Peer) next(rings bool) *Posting {
	p.mu.Lock()
	defer p.mu.Unlock()
	direct := p.guest != nil || p.remote.direct.Load()
	for range p.ring {
		p.turn %= len(p.ring)
		po := p.ring[p.turn]
		p.turn++
		if !rings && (!direct || po.packs) {
			continue
		}
		po.inflight++
		return po
	}
	return nil
}

// claim counts a quantum of po as in flight, if it may have one.
func (p *Peer) claim(po *Posting) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !po.queued {
		return false
	}
	po.inflight++
	return true
}

// more counts a message of po as in flight.
func (p *Peer) more(po *Posting) {
	p.mu.Lock()
	po.inflight++
	p.mu.Unlock()
}

// finished takes n quanta or messages of po off the books, which ended with err.
func (p *Peer) finished(po *Posting, n int, err error) {
	p.mu.Lock()
	po.inflight -= n
	first := err != nil && po.fail(po.because(err))
	if po.queued && po.src.Left() == 0 {
		p.dequeue(po) // a kick brings it back
	}
	ended := po.settle()
	p.mu.Unlock()
	ended.report()
	if first && ended == nil {
		po.withdraw()
		p.finished(po, 0, nil)
	}
}

// wakeAll gets the lanes to look for work.
func (p *Peer) wakeAll() {
	for _, l := range p.lanes[:p.crew] {
		l.wakeUp()
	}
}
