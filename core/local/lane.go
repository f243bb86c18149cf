package local

import (
	"sync"
	"time"

	"github.com/pkg/errors"
)

// directRanges bounds a quantum that is copied by a system call, so that the lanes share it.
const directRanges = 256

// lane moves one quantum at a time. Its turn is held by whoever uses it: its own
// goroutine, or a thread that submits.
type lane struct {
	peer  *Peer
	index int
	word  word
	pack  *packer // nil for lanes without a ring
	wake  chan struct{}

	turn   sync.Mutex // guards what follows
	most   int        // ranges in a quantum
	slices []Slice
	local  []iovec
	remote []iovec
	lists  [3][]uint64 // within one process: destinations, sources, lengths
}

func newLane(p *Peer, index, most int, w word) *lane {
	l := &lane{peer: p, index: index, word: w, wake: make(chan struct{}, 1), most: most,
		slices: make([]Slice, most), local: make([]iovec, most), remote: make([]iovec, most)}
	for i := range l.lists {
		l.lists[i] = make([]uint64, most)
	}
	return l
}

// wakeUp makes the lane's goroutine look for work.
func (l *lane) wakeUp() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

func (l *lane) run() {
	defer l.peer.wg.Done()
	defer recovered(l.peer.cfg.Log, "a local lane", l.peer.panicked)
	for !l.peer.stop.Load() {
		if !l.round() {
			<-l.wake
		}
	}
}

// round does what there is to do now, at most a quantum; false: nothing, and
// somebody will wake the lane when there is.
func (l *lane) round() bool {
	l.turn.Lock()
	defer l.turn.Unlock()
	if l.pack != nil && !l.pack.proceed() {
		return l.awaitRoom()
	}
	po := l.peer.next(l.pack != nil)
	if po == nil {
		return l.pack != nil && l.pack.arm(hot)
	}
	l.quantum(po)
	return true
}

// help is a submitting thread's share: a quantum of its own posting. turn is held.
func (l *lane) help(po *Posting) {
	if l.peer.stop.Load() {
		return // the rings may be gone
	}
	if l.pack != nil && !l.pack.proceed() {
		return // the lane's goroutine waits for room
	}
	if l.peer.claim(po) {
		l.quantum(po)
	}
	if l.pack != nil { // also without a quantum: a driver may rely on it, see attend
		l.leave()
	}
}

// driving bounds how long a thread stays with a lane: signals wait for it.
const driving = 100 * time.Millisecond

// drive is the share of a thread that will wait for po anyway: it does the work of the
// lane's goroutine, other postings' quanta included, for as long as po has slices. What
// it packed of po is left in the ring for the peer to work on while the thread comes back
// with more; see attend. turn is held.
func (l *lane) drive(po *Posting) {
	p := l.peer
	for began := time.Now(); po.src.Left() > 0 && !po.stopped.Load() && time.Since(began) < driving; {
		if p.stop.Load() {
			return // the rings may be gone
		}
		if l.pack != nil && !l.pack.proceed() {
			if !l.awaitRoom() {
				return
			}
			continue
		}
		next := p.next(l.pack != nil)
		if next == nil {
			break
		}
		l.quantum(next)
	}
	if l.pack != nil && !p.stop.Load() && (po.stopped.Load() || !l.pack.only(po)) {
		l.leave()
	}
}

// awaitRoom waits for room in the ring; false: the peer does not come to it soon, and the
// lane's goroutine will be woken when it has.
func (l *lane) awaitRoom() bool {
	if l.pack.moves() {
		return true
	}
	l.peer.stalled(l.pack.po)
	return l.pack.arm(0)
}

// leave sees to it that the lane's goroutine goes on with what is in the ring.
func (l *lane) leave() {
	if l.pack.arm(0) {
		l.wakeUp()
	}
}

// quantum takes slices of po and moves them. turn is held.
func (l *lane) quantum(po *Posting) {
	p := l.peer
	most, packs := min(l.most, directRanges), l.pack != nil && p.packing(po)
	if packs {
		most = l.most
	}
	n := po.src.Next(l.slices[:most], vectorBytes)
	if n == 0 {
		p.finished(po, 1, nil)
		return
	}
	slices := l.slices[:n]
	if p.guest != nil {
		bytes, err := p.guest.carry(l, po, slices)
		l.report(po, bytes, err)
		return
	}
	if packs {
		l.slices = l.pack.begin(po, slices)
		return
	}
	bytes, err := p.remote.copyDirect(l, po, slices)
	if errors.Is(err, errRights) {
		p.demote(err)
		err = errors.WithMessage(ErrPeer, err.Error())
	}
	l.report(po, bytes, err)
}

// report ends a quantum that was moved here.
func (l *lane) report(po *Posting, bytes uint64, err error) {
	po.done(bytes, false)
	l.peer.finished(po, 1, err)
	// A peer that closes hangs up when it is done, which is noticed elsewhere.
	if r := l.peer.remote; r != nil && (errors.Is(err, ErrPeer) || errors.Is(err, ErrProtocol)) && !errors.Is(err, errClosing) {
		l.peer.lose(err, r.gone())
	}
}

// demote leaves everything to the rings from now on.
func (p *Peer) demote(err error) {
	if p.remote.direct.Swap(false) {
		p.cfg.Log.Warn("copies by system calls are no longer allowed", "peer", p.cfg.Name, "err", err)
	}
}

// takeBack forgets messages of po; see packer.takeBack.
func (l *lane) takeBack(po *Posting, all bool) int {
	if l.pack == nil {
		return 0
	}
	return l.pack.takeBack(po, all)
}
