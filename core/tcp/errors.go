package tcp

import "github.com/pkg/errors"

// Why a posting ended, other than well. Compare with errors.Is.
var (
	// ErrPeer: the peer cannot be reached, or its connection broke.
	ErrPeer = errors.New("peer unreachable")
	// ErrProtocol: the peer answered something that is not the protocol.
	ErrProtocol = errors.New("peer broke the protocol")
	// ErrRejected: the peer refused the address range of a request.
	ErrRejected = errors.New("address range rejected by the peer")
	// ErrRestarted: another process answers at the peer's address.
	ErrRestarted = errors.New("another process answers at the peer's address")
	// ErrFenced: the peer fenced this engine off after the posting had begun.
	ErrFenced = errors.New("fenced off by the peer")
	// ErrMemory: local memory could not be read or written.
	ErrMemory = errors.New("local memory not accessible")
	// ErrClosed: the server or the peer object was closed.
	ErrClosed = errors.New("closed")

	// errAgain: a socket call would have blocked.
	errAgain = errors.New("would block")
	// errEnough: there is no reason to wait for more.
	errEnough = errors.New("enough received")
	// errMore: there may be more to send.
	errMore = errors.New("more to send")
	// errGone: the region was deregistered while a request used it.
	errGone = errors.New("memory was deregistered")
	// errQuiesced: this side gave the lane up for a batch that had to end.
	errQuiesced = errors.New("lane given up to end a batch")
)
