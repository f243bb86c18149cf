package local

import (
	"io"
	"sync"
	"sync/atomic"

	"github.com/pkg/errors"
)

// ringServer is the target's goroutine for one ring: it moves the bytes of messages
// between their slots and registered memory.
type ringServer struct {
	conn *conn
	ring ring
	bell *bell // rings when there is something to do; to strike for the initiator
	stop atomic.Bool

	// working is held while a message is being worked on: who has changed what is
	// allowed, and then had the lock, knows that the old rules are not in use.
	working sync.Mutex

	head   uint64 // messages passed
	addr   [maxRanges]uint64
	length [maxRanges]uint64
	// group collects ranges in one region, as parts of ranges.
	group struct {
		addr, length [maxRanges]uint64
		n            int
		bytes        uint64
	}
}

// run serves until halt, or until the initiator breaks the protocol.
func (r *ringServer) run() error {
	for !r.stop.Load() {
		s := r.ring.slot(r.head)
		switch s.state().Load() {
		case slotPosted:
			if !s.state().CompareAndSwap(slotPosted, slotBegun) {
				continue
			}
			if err := r.serve(s); err != nil {
				return err
			}
			s.state().Store(slotDone)
			r.pass()
		case slotBack:
			s.state().Store(slotFree)
			r.pass()
		default:
			if err := r.sleep(s); err != nil {
				return err
			}
		}
	}
	return nil
}

// pass goes on to the next message, and wakes the initiator if it wants that.
func (r *ringServer) pass() {
	r.head++
	if want := r.ring.wants().Load(); want != 0 && r.head >= want && r.ring.wants().CompareAndSwap(want, 0) {
		r.bell.strike()
	}
}

// sleep waits until there may be something in the slot.
func (r *ringServer) sleep(s slot) error {
	waiting := func() bool {
		state := s.state().Load()
		return state != slotPosted && state != slotBack && !r.stop.Load()
	}
	if spin(hot, func() bool { return !waiting() }) {
		return nil
	}
	r.ring.sleeps().Store(1)
	defer r.ring.sleeps().Store(0)
	if !waiting() {
		return nil
	}
	err := r.bell.wait()
	switch {
	case r.stop.Load():
		return nil
	case err == io.EOF: // so does the connection, if that is not closed already
		r.stop.Store(true)
		return nil
	}
	return errors.Wrap(err, "wait for messages")
}

// halt makes run return soon.
func (r *ringServer) halt() {
	r.stop.Store(true)
	r.bell.silence()
}

// serve works on one message. An error means that the peer broke the protocol.
func (r *ringServer) serve(s slot) error {
	r.working.Lock()
	defer r.working.Unlock()
	write := s.field32(slotOp).Load() == 1
	count, bytes := s.field32(slotCount).Load(), s.field64(slotBytes).Load()
	if count > maxRanges || bytes > maxPayload {
		return errors.WithMessagef(ErrProtocol, "message of %d ranges and %d bytes", count, bytes)
	}
	var sum uint64
	table := s.ranges()
	for i := range count {
		r.addr[i], r.length[i] = table[i][0], table[i][1]
		sum += r.length[i]
		if r.length[i] > maxPayload || sum > bytes {
			return errors.WithMessagef(ErrProtocol, "range %d of %d bytes in a message of %d", i, r.length[i], bytes)
		}
	}
	if sum != bytes {
		return errors.WithMessagef(ErrProtocol, "ranges of %d bytes in a message of %d", sum, bytes)
	}
	status, failed := wentFenced, 0
	if s.field64(slotFence).Load() >= r.conn.fence().Load() {
		status, failed = r.move(write, int(count), s.payload()[:bytes], s.field64(slotEpoch).Load())
	}
	counters := &r.conn.server.Counters
	if status != wentWell && r.conn.server.closing.Load() {
		status = wentNowhere
	}
	switch {
	case status != wentWell:
		counters.Rejected.Add(1)
	case write:
		counters.Written.Add(bytes)
	default:
		counters.Read.Add(bytes)
	}
	s.field32(slotStatus).Store(status)
	s.field32(slotFailed).Store(uint32(failed))
	return nil
}

// move copies between the payload and the ranges, region by region. failed is the
// range at fault.
func (r *ringServer) move(write bool, count int, p []byte, epoch uint64) (status uint32, failed int) {
	var region Region
	var start, end uint64
	g := &r.group
	g.n, g.bytes = 0, 0
	for i := range count {
		at, left := r.addr[i], r.length[i]
		for left > 0 {
			if at < start || at >= end || region == nil {
				if status, p = r.flush(region, write, p); status != wentWell {
					return status, max(i-1, 0)
				}
				if region = r.conn.server.cfg.Memory.Find(at); region == nil || (write && !region.Writable()) || region.Epoch() > epoch {
					return wentRejected, i
				}
				start, end = region.Bounds()
			}
			if g.n == maxRanges {
				if status, p = r.flush(region, write, p); status != wentWell {
					return status, i
				}
			}
			part := min(left, end-at)
			g.addr[g.n], g.length[g.n] = at, part
			g.n++
			g.bytes += part
			at, left = at+part, left-part
		}
	}
	status, _ = r.flush(region, write, p)
	return status, max(count-1, 0)
}

// flush copies the group and empties it; it returns what is left of the payload.
func (r *ringServer) flush(region Region, write bool, p []byte) (status uint32, rest []byte) {
	g := &r.group
	if g.n == 0 {
		return wentWell, p
	}
	if !region.Pin() {
		return wentRejected, p // deregistered since it was found
	}
	defer region.Unpin()
	addr, length, now := g.addr[:g.n], g.length[:g.n], p[:g.bytes]
	rest = p[g.bytes:]
	g.n, g.bytes = 0, 0
	var err error
	if write {
		err = region.Scatter(addr, length, now)
	} else {
		err = region.Gather(now, addr, length)
	}
	if err != nil {
		return wentFault, rest
	}
	return wentWell, rest
}
