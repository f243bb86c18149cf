package core

import (
	"fmt"
	"time"

	"github.com/pkg/errors"
)

// Op is the direction of a batch, seen from this process.
type Op uint32

const (
	Read  Op = 0 // from the segment into local memory
	Write Op = 1 // from local memory into the segment
)

// Blocks are a request as a caller makes it: block i is Length[i] bytes between
// Local[i] and Remote[i], absolute addresses. The slices have equal lengths and
// are read during the call only.
type Blocks struct {
	Local, Remote, Length []uint64
}

// Options of a batch.
type Options struct {
	// Deadline ends the batch when it is not done by then: > 0 from now, 0 the
	// engine's default, < 0 none.
	Deadline time.Duration
	// Waits: the thread that submits waits for the end right after, in Receive or Wait; before
	// that the batch may not end. So Submit may move the blocks on it, for up to about 100 ms,
	// instead of waking others for that.
	Waits bool
}

// valid checks the shape of a request.
func (b Blocks) valid() error {
	if len(b.Local) != len(b.Length) || len(b.Remote) != len(b.Length) {
		return errors.WithMessagef(ErrInvalid, "local, remote and length differ in their number of elements: %d, %d, %d",
			len(b.Local), len(b.Remote), len(b.Length))
	}
	return nil
}

// part is blocks from to below to.
func (b Blocks) part(from, to int) Blocks {
	return Blocks{Local: b.Local[from:to], Remote: b.Remote[from:to], Length: b.Length[from:to]}
}

// side says which address of a block is meant, in errors.
type side string

const (
	localSide  side = "local"
	remoteSide side = "remote"
)

// place says which block is meant, in errors.
type place struct {
	group, layer int    // of page groups; group < 0: of a block list
	index        uint64 // of the block, or of the page in its group's lists
}

// blockAt is block i of a list.
func blockAt(i uint64) place { return place{group: -1, index: i} }

func (p place) String() string {
	if p.group < 0 {
		return fmt.Sprintf("block %d", p.index)
	}
	return fmt.Sprintf("group %d, layer %d, page %d", p.group, p.layer, p.index)
}

// wraps is the error for a range that wraps around.
func wraps(at place, which side, addr, n uint64) error {
	return errors.WithMessagef(ErrInvalid, "%v: %s range %#x of %d bytes wraps around", at, which, addr, n)
}

// outside is the error for a range that is not registered.
func outside(at place, which side, addr, n uint64) error {
	remedy := "register it first"
	if which == remoteSide {
		remedy = "the peer must register it first"
	}
	return errors.WithMessagef(ErrAddress, "%v: %s range %#x of %d bytes (%s)", at, which, addr, n, remedy)
}
