package endpoint

import "github.com/pkg/errors"

// Why a connection could not be made, or ended. Compare with errors.Is; the text
// says more.
var (
	// ErrArgument: a value given by the caller is malformed.
	ErrArgument = errors.New("invalid argument")
	// ErrPeer: the peer could not be asked, or did not answer in time.
	ErrPeer = errors.New("peer cannot be reached")
	// ErrRejected: the peer refused, and said why.
	ErrRejected = errors.New("peer rejected the connection")
	// ErrNoRDMA: the peer answers, but makes no RDMA connections.
	ErrNoRDMA = errors.New("peer has no rdma, so this is not connected")
	// ErrProtocol: the answer does not fit the question.
	ErrProtocol = errors.New("peer broke the handshake's protocol")
	// ErrQueuePairs: the two sides want different numbers of queue pairs.
	ErrQueuePairs = errors.New("the numbers of queue pairs differ; set MC_NUM_QP_PER_EP to the same number on both sides")
	// ErrNoAck: the peer announced that it would say when it is ready, and did not.
	ErrNoAck = errors.New("peer did not finish the handshake (no ready ack)")
	// ErrRestarted: another process answers at the peer's address.
	ErrRestarted = errors.New("another process answers in the peer's place")
	// ErrFull: there are as many connections as there may be.
	ErrFull = errors.New("too many rdma connections; MC_MAX_EP_PER_CTX sets how many a device may have")
	// ErrDevice: the device refused.
	ErrDevice = errors.New("rdma device failed")
	// ErrNoRoute: the peer cannot be reached from the port's address.
	ErrNoRoute = errors.New("no route to the peer")
	// ErrReaddressed: the port has got another address, because the peer could not be
	// reached from the one before.
	ErrReaddressed = errors.New("the port's address has changed")
	// ErrReconnected: the peer made another connection in place of this one.
	ErrReconnected = errors.New("peer connected anew")
	// ErrFenced: one side fenced the other off.
	ErrFenced = errors.New("fenced off")
	// ErrPeerClosed: the peer destroyed its side.
	ErrPeerClosed = errors.New("peer closed the connection")
	// ErrRetired: Retire was called.
	ErrRetired = errors.New("connection was retired")
	// ErrClosed: the store is closed.
	ErrClosed = errors.New("rdma connections are closed")
)

// again tells whether an endpoint that ended so before it was of use is no reason
// against another try at once.
func again(err error) bool {
	for _, cause := range []error{ErrReaddressed, ErrReconnected, ErrFenced, ErrPeerClosed, ErrRetired} {
		if errors.Is(err, cause) {
			return true
		}
	}
	return false
}
