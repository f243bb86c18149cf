package core

import (
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
}

// valid checks the shape of a request.
func (b Blocks) valid(op Op) error {
	if op != Read && op != Write {
		return errors.WithMessagef(ErrInvalid, "op is %d, not MC_READ (0) or MC_WRITE (1)", op)
	}
	if len(b.Local) != len(b.Length) || len(b.Remote) != len(b.Length) {
		return errors.WithMessagef(ErrInvalid, "local, remote and length differ in their number of elements: %d, %d, %d",
			len(b.Local), len(b.Remote), len(b.Length))
	}
	return nil
}

// side says which address of a block is meant, in errors.
type side string

const (
	localSide  side = "local"
	remoteSide side = "remote"
)

// inside checks that every block of one side lies in registered memory, and
// returns the first block that does not (missing), or an error for a range that
// wraps around. Blocks of length 0 are not looked at.
func (b Blocks) inside(addrs []uint64, which side, in spans) (missing int, err error) {
	hint := -1
	length := b.Length[:len(addrs)]
	for i, a := range addrs {
		n := length[i]
		if n == 0 {
			continue
		}
		end := a + n
		if end < a {
			return i, errors.WithMessagef(ErrInvalid, "block %d: %s range %#x of %d bytes wraps around", i, which, a, n)
		}
		if hint >= 0 && a >= in[hint].start && end <= in[hint].end {
			continue
		}
		first, ok := in.covers(a, end, hint)
		if !ok {
			return i, nil
		}
		hint = first
	}
	return -1, nil
}

// outside is the error for a block that inside found missing.
func (b Blocks) outside(i int, which side, addrs []uint64) error {
	remedy := "register it first"
	if which == remoteSide {
		remedy = "the peer must register it first"
	}
	return errors.WithMessagef(ErrAddress, "block %d: %s range %#x of %d bytes (%s)", i, which, addrs[i], b.Length[i], remedy)
}

// bytes sums the lengths; saturating, since they are a caller's.
func (b Blocks) bytes() uint64 {
	var sum uint64
	for _, n := range b.Length {
		if sum+n < sum {
			return ^uint64(0)
		}
		sum += n
	}
	return sum
}
