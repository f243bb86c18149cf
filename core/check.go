package core

import (
	"sync"

	"github.com/pkg/errors"
)

// checker sees to it that every block of a batch lies in registered memory on
// both sides, and keeps the local memory registered until the batch has ended.
// It looks at each block once.
type checker struct {
	op    Op
	state *memories // the local memory when the batch began
	there spans     // the peer's memory
	done  uint64    // blocks of the batch checked before; errors count from it

	// The ranges that the last block lay in: most lie in the same as the one before.
	local, remote         span
	localHint, remoteHint int

	pinned []bool // by index into state.list

	mu    sync.Mutex // guards what follows, against the end of the batch
	ended bool       // nothing may be pinned any more
	pins  []*Memory  // to be unpinned then

	// For batches that use little memory, which then need no allocation.
	pinnedRoom [64]bool
	pinsRoom   [4]*Memory
}

// errEnded: the batch ended while its blocks were being checked.
var errEnded = errors.New("the batch has ended")

// begin makes the checker ready for a batch.
func (c *checker) begin(op Op, state *memories) {
	c.op, c.state, c.localHint, c.remoteHint = op, state, -1, -1
	c.pins = c.pinsRoom[:0]
	if n := len(state.list); n <= len(c.pinnedRoom) {
		c.pinned = c.pinnedRoom[:n]
	} else {
		c.pinned = make([]bool, n)
	}
}

// unpin lets the local memory go, and has nothing pinned after it.
func (c *checker) unpin() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = true
	for i, m := range c.pins {
		m.Unpin()
		c.pins[i] = nil
	}
	c.pins = c.pins[:0]
}

// unknownRemote is the error for a block that the peer is not known to have
// registered.
type unknownRemote struct {
	at      place
	addr, n uint64
}

func (unknownRemote) Error() string { return "the remote range is not known" }

// pass checks blocks and sums their bytes up, which cannot overflow: a length that
// passes is at most that of a local memory, and a pass has at most checkedTogether
// blocks.
func (c *checker) pass(b Blocks) (bytes uint64, err error) {
	local, remote := b.Local[:len(b.Length)], b.Remote[:len(b.Length)]
	here, there := c.local, c.remote
	for i, n := range b.Length {
		if here.holds(local[i], n) && there.holds(remote[i], n) {
			bytes += n
			continue
		}
		if n == 0 {
			continue // nothing of it is looked at
		}
		if err := c.find(blockAt(c.done+uint64(i)), local[i], remote[i], n); err != nil {
			return 0, err
		}
		here, there = c.local, c.remote
		bytes += n
	}
	return bytes, nil
}

// find looks up a block that lies elsewhere than the one before.
func (c *checker) find(at place, local, remote, n uint64) error {
	if !c.local.holds(local, n) {
		if local+n < local {
			return wraps(at, localSide, local, n)
		}
		first, ok := c.state.spans.covers(local, local+n, c.localHint)
		if !ok {
			return outside(at, localSide, local, n)
		}
		for i := first; i < len(c.pinned) && c.state.spans[i].start < local+n; i++ {
			if err := c.pin(i, at, local, n); err != nil {
				return err
			}
		}
		c.local, c.localHint = c.state.spans[first], first
	}
	if !c.remote.holds(remote, n) {
		if remote+n < remote {
			return wraps(at, remoteSide, remote, n)
		}
		first, ok := c.there.covers(remote, remote+n, c.remoteHint)
		if !ok {
			return unknownRemote{at, remote, n}
		}
		c.remote, c.remoteHint = c.there[first], first
	}
	return nil
}

// pin keeps local memory registered.
func (c *checker) pin(i int, at place, local, n uint64) error {
	if c.pinned[i] {
		return nil
	}
	m := c.state.list[i]
	if c.op == Read && !m.writable {
		return errors.WithMessagef(ErrInvalid, "%v: local memory at %#x is read-only", at, local)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return errEnded
	}
	if !m.Pin() { // deregistered since the batch began
		return outside(at, localSide, local, n)
	}
	c.pinned[i] = true
	c.pins = append(c.pins, m)
	return nil
}

// learn looks at another state of the peer's memory from now on.
func (c *checker) learn(there spans) {
	c.there, c.remote, c.remoteHint = there, span{}, -1
}
