package local

import (
	"sync"
	"time"

	"github.com/pkg/errors"
)

// packer is the initiator's side of one ring: it packs slices into messages, and
// for reads unpacks what comes back. The lane's turn guards it, but for the books.
type packer struct {
	lane *lane
	ring ring
	bell *bell // wakes the peer's goroutine

	posted, reaped uint64 // messages

	// What the last quantum has left that did not fit in.
	po   *Posting // nil: nothing
	rest []Slice
	off  uint64            // bytes of rest[0] that were packed
	keep []Slice           // rest is in it
	addr [maxRanges]uint64 // of a group with one mover
	lens [maxRanges]uint64

	books  sync.Mutex // guards the flight against those that take messages back
	flight [slotsPerRing]message
}

// message is one that was posted and not reaped.
type message struct {
	po      *Posting // nil: nobody waits for it any more
	reaping bool
	bytes   uint64
	first   Slice   // for the error
	parts   []Slice // of a read: where the payload goes
}

func newPacker(l *lane, r ring, bell *bell) *packer {
	return &packer{lane: l, ring: r, bell: bell, keep: make([]Slice, len(l.slices))}
}

// begin packs the slices of a quantum, as far as there is room; proceed does the rest. It
// keeps them, and gives room for others of the same capacity back.
func (k *packer) begin(po *Posting, slices []Slice) (room []Slice) {
	room, k.keep = k.keep, slices[:cap(slices)]
	k.po, k.rest, k.off = po, slices, 0
	k.proceed()
	return room
}

// proceed reaps what the peer has done and packs what waits. false: the ring is full,
// and something still waits.
func (k *packer) proceed() bool {
	k.reap()
	for k.po != nil {
		if k.po.stopped.Load() || len(k.rest) == 0 {
			po := k.po
			k.po, k.rest = nil, nil
			k.lane.peer.finished(po, 1, nil)
			break
		}
		if k.posted-k.reaped == slotsPerRing {
			if k.reap(); k.posted-k.reaped == slotsPerRing {
				return false
			}
		}
		if err := k.pack(); err != nil {
			po := k.po
			k.po, k.rest = nil, nil
			k.lane.peer.finished(po, 1, err)
		}
	}
	return true
}

// pack fills the next slot with as much as it takes, and posts it.
func (k *packer) pack() error {
	po := k.po
	s := k.ring.slot(k.posted)
	m := &k.flight[k.posted%slotsPerRing]
	m.parts = m.parts[:0]
	m.bytes, m.first = 0, k.rest[0]
	table, payload := s.ranges(), s.payload()
	count, group := 0, 0 // ranges, and those of them not gathered yet
	var mover Mover
	var gathered uint64
	gather := func() error {
		if group == 0 || !po.write {
			return nil
		}
		err := mover.Gather(payload[gathered:m.bytes], k.addr[:group], k.lens[:group])
		gathered, group = m.bytes, 0
		if err != nil {
			return errors.WithMessage(ErrMemory, err.Error())
		}
		return nil
	}
	for len(k.rest) > 0 && count < maxRanges && m.bytes < maxPayload {
		x := &k.rest[0]
		if mover != x.Mover {
			if err := gather(); err != nil {
				return err
			}
			mover = x.Mover
		}
		n := min(x.Len-k.off, maxPayload-m.bytes)
		table[count] = [2]uint64{x.Remote + k.off, n}
		if po.write {
			k.addr[group], k.lens[group] = x.Local+k.off, n
			group++
		} else {
			m.parts = append(m.parts, Slice{Local: x.Local + k.off, Len: n, Mover: mover})
		}
		count++
		m.bytes += n
		if k.off += n; k.off == x.Len {
			k.rest, k.off = k.rest[1:], 0
		}
	}
	if err := gather(); err != nil {
		return err
	}
	k.post(s, m, count)
	return nil
}

// post hands a filled slot over, unless its posting has been stopped meanwhile.
func (k *packer) post(s slot, m *message, count int) {
	po := k.po
	var op uint32
	if po.write {
		op = 1
	}
	s.field32(slotOp).Store(op)
	s.field32(slotCount).Store(uint32(count))
	s.field64(slotBytes).Store(m.bytes)
	s.field64(slotEpoch).Store(po.epoch.Load())
	s.field64(slotFence).Store(po.fence)
	k.lane.peer.more(po)
	k.books.Lock()
	if po.stopped.Load() {
		k.books.Unlock()
		k.lane.peer.finished(po, 1, nil)
		return
	}
	m.po = po
	s.state().Store(slotPosted)
	k.posted++
	k.books.Unlock()
	k.lane.peer.cfg.Messages.Add(1)
	if k.ring.sleeps().Swap(0) != 0 {
		k.bell.strike()
	}
}

// reap takes what the peer has done off the ring, oldest first.
func (k *packer) reap() {
	var sum tally
	defer k.count(&sum)
	for k.reaped < k.posted {
		s, m := k.ring.slot(k.reaped), &k.flight[k.reaped%slotsPerRing]
		k.books.Lock()
		state, po := s.state().Load(), m.po
		m.reaping = state == slotDone && po != nil
		k.books.Unlock()
		switch {
		case state == slotDone:
		case state == slotFree && po == nil: // taken back
		case state > slotBack, state == slotFree:
			k.lane.peer.lose(errors.WithMessagef(ErrProtocol, "%s: state %d of a slot", k.lane.peer.cfg.Name, state), false)
			return
		default:
			return
		}
		var err error
		if po != nil {
			err = k.outcome(s, m)
		}
		bytes := m.bytes
		k.books.Lock()
		m.po, m.reaping = nil, false
		s.state().Store(slotFree)
		k.reaped++
		k.books.Unlock()
		if po == nil {
			continue
		}
		if po != sum.po || err != nil {
			k.count(&sum)
			sum.po = po
		}
		if sum.messages++; err == nil {
			sum.bytes += bytes
		} else {
			sum.err = err
			k.count(&sum)
		}
	}
}

// tally is what was reaped of one posting, and not reported yet.
type tally struct {
	po       *Posting
	messages int
	bytes    uint64
	err      error
}

// count reports a tally and empties it.
func (k *packer) count(t *tally) {
	if t.messages == 0 {
		return
	}
	t.po.done(t.bytes, true)
	k.lane.peer.finished(t.po, t.messages, t.err)
	*t = tally{}
}

// outcome reads how a message went, and unpacks the payload of a read.
func (k *packer) outcome(s slot, m *message) error {
	status, failed := s.field32(slotStatus).Load(), s.field32(slotFailed).Load()
	switch status {
	case wentWell:
	case wentFenced:
		return ErrFenced
	case wentNowhere:
		return errClosing
	case wentRejected, wentFault:
		x := m.first
		if failed < maxRanges {
			entry := s.ranges()[failed]
			x.Remote, x.Len = entry[0], entry[1]
		}
		if status == wentFault {
			return rejected(&x, "the peer cannot access it")
		}
		return rejected(&x, "not registered since before the batch")
	default:
		return errors.WithMessagef(ErrProtocol, "status %d", status)
	}
	p := s.payload()
	for i := 0; i < len(m.parts); {
		mover, n, bytes := m.parts[i].Mover, 0, uint64(0)
		for ; i < len(m.parts) && m.parts[i].Mover == mover; i++ {
			k.addr[n], k.lens[n] = m.parts[i].Local, m.parts[i].Len
			bytes += m.parts[i].Len
			n++
		}
		if err := mover.Scatter(k.addr[:n], k.lens[:n], p[:bytes]); err != nil {
			return errors.WithMessage(ErrMemory, err.Error())
		}
		p = p[bytes:]
	}
	return nil
}

// takeBack forgets messages of po that the peer has not begun, and reads that it has:
// what comes back is ignored. all: also writes that it has begun. It returns how many.
func (k *packer) takeBack(po *Posting, all bool) (n int) {
	k.books.Lock()
	defer k.books.Unlock()
	for i := k.reaped; i < k.posted; i++ {
		m := &k.flight[i%slotsPerRing]
		if m.po != po || m.reaping {
			continue
		}
		if k.ring.slot(i).state().CompareAndSwap(slotPosted, slotBack) || !po.write || all {
			m.po = nil
			n++
		}
	}
	return n
}

// only tells whether nothing but messages of po is in the ring, and nothing waits for it.
func (k *packer) only(po *Posting) bool {
	if k.po != nil {
		return false
	}
	k.books.Lock()
	defer k.books.Unlock()
	for i := k.reaped; i < k.posted; i++ {
		if k.flight[i%slotsPerRing].po != po {
			return false
		}
	}
	return true
}

// linger reaps for as long as the peer goes on with messages: waking up others, and
// then the thread that waits for the last one, takes longer.
func (k *packer) linger() {
	for k.po == nil && k.reaped < k.posted && k.moves() {
	}
}

// moves waits until the peer is done with a message more; false: it did not come to it
// soon.
func (k *packer) moves() bool {
	before := k.reaped
	return spin(lingering, func() bool { return !k.look() || k.reaped > before }) && !k.lane.peer.lost.Load()
}

// lingering is how long a thread waits for the peer's next step.
const lingering = 50 * time.Microsecond

// look reaps what there is; false once the peer is lost.
func (k *packer) look() bool {
	k.reap()
	return !k.lane.peer.lost.Load()
}

// arm sees to it that the lane is woken when the peer has done enough; true: it has
// already, or has after looking for it for a while.
func (k *packer) arm(look time.Duration) bool {
	flying := k.posted - k.reaped
	switch {
	case k.lane.peer.lost.Load():
		return false
	case k.po != nil && flying < slotsPerRing:
		return true // there is room already, and the peer may have nothing left to do
	case flying == 0:
		return false
	}
	// With more to pack it is worth waiting for room for several messages.
	want := k.posted
	if k.po != nil {
		want = k.reaped + (flying+1)/2
	}
	passed := func() bool {
		state := k.ring.slot(want - 1).state().Load()
		return state == slotDone || state == slotFree
	}
	if look > 0 && spin(look, passed) {
		return true
	}
	k.ring.wants().Store(want)
	return passed()
}
