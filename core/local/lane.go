package local

import (
	"sync"

	"github.com/pkg/errors"
)

// When slices are packed: figures of docs/decisions.md.
const (
	// packedBelow is the length from which a range is cheaper to copy by a system
	// call than to pack here and unpack there.
	packedBelow = 4 << 10
	// packedFrom is how many such ranges justify waking the peer up, and packedMore
	// how many justify going on with a peer that is awake.
	packedFrom = 384
	packedMore = 16
	// directRanges bounds a quantum that is likely to be copied by a system call, so
	// that the lanes share it.
	directRanges = 256
)

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
	large  []Slice
	local  []iovec
	remote []iovec
	lists  [3][]uint64 // within one process: destinations, sources, lengths
}

func newLane(p *Peer, index, most int, w word) *lane {
	l := &lane{peer: p, index: index, word: w, wake: make(chan struct{}, 1), most: most,
		slices: make([]Slice, most), large: make([]Slice, most), local: make([]iovec, most), remote: make([]iovec, most)}
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
		return l.pack.arm(hot)
	}
	po := l.peer.next(l.pack != nil)
	if po == nil {
		return l.pack != nil && l.pack.arm(hot)
	}
	l.quantum(po)
	return true
}

// help is a submitting thread's share: a quantum of its own posting, the last one if
// last. turn is held.
func (l *lane) help(po *Posting, last bool) {
	if l.peer.stop.Load() {
		return // the rings may be gone
	}
	if l.pack != nil && !l.pack.proceed() {
		return // the lane's goroutine waits for room
	}
	if !l.peer.claim(po) {
		return
	}
	l.quantum(po)
	if l.pack == nil {
		return
	}
	if last && po.src.Left() == 0 {
		l.pack.linger()
	}
	if l.pack.arm(0) {
		l.wakeUp()
	}
}

// quantum takes slices of po and moves them. turn is held.
func (l *lane) quantum(po *Posting) {
	p := l.peer
	most := min(l.most, directRanges)
	if p.packing(po) {
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
	small, large := l.divide(po, slices)
	if len(small) > 0 {
		if len(large) > 0 {
			p.more(po) // the packer takes over what the quantum counts for
		}
		l.pack.begin(po, small)
		if len(large) == 0 {
			return
		}
	}
	bytes, err := p.remote.copyDirect(l, po, large)
	if errors.Is(err, errRights) {
		p.demote(err)
		err = errors.WithMessage(ErrPeer, err.Error())
	}
	l.report(po, bytes, err)
}

// report ends a quantum that was moved here.
func (l *lane) report(po *Posting, bytes uint64, err error) {
	if bytes > 0 {
		po.src.Done(bytes, false)
	}
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

// divide tells the slices that go through the ring from those that are copied by a
// system call. The slices stay in order among themselves.
func (l *lane) divide(po *Posting, slices []Slice) (small, large []Slice) {
	r := l.peer.remote
	if !r.direct.Load() && l.pack != nil {
		return slices, nil
	}
	if r.cfg.Mode == DirectOnly {
		return nil, slices
	}
	count, bytes := 0, uint64(0)
	for i := range slices {
		if slices[i].packed() {
			count++
			bytes += slices[i].Len
		}
	}
	if count < packedMore || !l.peer.packs(po, count, bytes, 2*count > len(slices)) || l.pack == nil {
		return nil, slices
	}
	if count == len(slices) {
		return slices, nil
	}
	small, large = slices[:0], l.large[:0]
	for i := range slices {
		if slices[i].packed() {
			small = append(small, slices[i])
		} else {
			large = append(large, slices[i])
		}
	}
	return small, large
}

// packed tells whether a slice belongs in a ring.
func (s *Slice) packed() bool { return s.Len < packedBelow }

// takeBack forgets messages of po; see packer.takeBack.
func (l *lane) takeBack(po *Posting, all bool) int {
	if l.pack == nil {
		return 0
	}
	return l.pack.takeBack(po, all)
}
