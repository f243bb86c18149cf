package local

import "github.com/pkg/errors"

// Why a posting ended, other than well, or why there is no way to a peer. Compare
// with errors.Is.
var (
	// ErrPeer: the peer's process is gone, or its connection broke.
	ErrPeer = errors.New("peer unreachable")
	// ErrProtocol: the peer said something that is not the protocol.
	ErrProtocol = errors.New("peer broke the protocol")
	// ErrRejected: the peer does not have the address range registered for this
	// batch, or cannot access it.
	ErrRejected = errors.New("address range rejected by the peer")
	// ErrRestarted: another process answers for the peer.
	ErrRestarted = errors.New("another process answers at the peer's address")
	// ErrFenced: the peer fenced this engine off after the posting had begun.
	ErrFenced = errors.New("fenced off by the peer")
	// ErrMemory: local memory could not be read or written.
	ErrMemory = errors.New("local memory not accessible")
	// ErrDevice: the operating system refused what it should not.
	ErrDevice = errors.New("operating system error")
	// ErrClosed: the server or the peer object was closed.
	ErrClosed = errors.New("closed")

	// errClosing: the peer's engine is being closed.
	errClosing = errors.WithMessage(ErrPeer, "the peer closes")
	// errRights: this process may not access the memory of the other.
	errRights = errors.New("no right to access the peer's memory")
)
