package core

import "github.com/pkg/errors"

// Errors by what a caller can do about them. Compare with errors.Is; the text
// around them names the argument, the block or the peer.
var (
	// Arguments.
	ErrInvalid     = errors.New("invalid argument")
	ErrNotFound    = errors.New("not found")
	ErrAddress     = errors.New("address range not registered")
	ErrOverlap     = errors.New("memory overlaps a registered range")
	ErrFull        = errors.New("limit reached")
	ErrUnsupported = errors.New("not supported")

	// Objects.
	ErrClosed = errors.New("closed")

	// Peers.
	ErrPeer      = errors.New("peer unreachable")
	ErrRestarted = errors.New("another process answers at the peer's address")
	ErrRejected  = errors.New("address range rejected by the peer")
	ErrFenced    = errors.New("fenced off by the peer")

	// Batches.
	ErrWaitTimeout = errors.New("wait timed out, it goes on")
	ErrDeadline    = errors.New("batch deadline exceeded")
	ErrCanceled    = errors.New("batch cancelled")

	// This host.
	ErrDevice = errors.New("device or operating system error")
)
