package core

import (
	"context"
	"net/netip"

	"mooncake/core/metadata"
)

// A transport moves slices between this process and one class of peers, and
// serves peers that move bytes here.
type transport interface {
	name() string // for messages
	// describe adds to this engine's descriptor what peers must know, s being the memory
	// that it tells of.
	describe(d *metadata.Descriptor, s *memories)
	// reach prepares the initiator's side of a peer process. It may block to find out
	// whether the peer can be reached in this way; nil, without an error: it cannot.
	reach(p *process) (path, error)
	// fence makes sure that a peer's batches so far write nothing more here. met
	// tells whether the peer ever introduced itself.
	fence(ctx context.Context, who peerIdentity) (met bool, err error)
	// counters adds this transport's numbers to s.
	counters(s *Stats)
	// close stops serving and returns when nothing of this transport touches
	// registered memory any more. Paths are closed before.
	close()
}

// A memoryWatcher is a transport whose peers reach registered memory by themselves.
type memoryWatcher interface {
	// publish tells peers what is registered: all of it, in the order of the changes.
	// It must not block.
	publish(s *memories)
	// settle returns when no peer touches memory that the last publish left out.
	settle()
}

// A deviceTransport has devices that know the registered memory. It is closed before, and
// releases them after, the memory is deregistered.
type deviceTransport interface {
	release()
}

// A connectionAnswerer answers the peers' requests for RDMA connections.
type connectionAnswerer interface {
	answer(metadata.ConnectionRequest) metadata.ConnectionReply
}

// path is a transport's way to one peer process.
type path interface {
	// post queues a batch's work; its slices leave when it is pushed.
	post(op Op, w *work) posting
	// broken tells whether a connection of the path is known to have broken, by
	// which a peer also says that it has fenced this engine off.
	broken() bool
	// close ends all postings and returns when no connection is left.
	close()
}

// A mendablePath can be made usable again after it was broken.
type mendablePath interface {
	// mend does nothing for a path that is not broken. It blocks for a connection.
	mend() error
}

// A connectablePath needs a connection before bytes can move.
type connectablePath interface {
	// ready returns when there is a connection, which it makes if need be, or when ctx
	// ends; making it goes on then.
	ready(ctx context.Context) error
}

// posting is one batch's work on a path. How it went comes back to the batch:
// delivered as it proceeds, ended exactly once.
type posting interface {
	// push says that the work has more slices.
	push()
	// seal says that the work will get no more slices.
	seal()
	// quiesce makes the posting end with cause, once nothing of it can touch
	// pages here, and if possible at the peer. Does not block.
	quiesce(cause error)
}

// A renewablePosting may touch what the peer had registered when it began.
type renewablePosting interface {
	// renew lets it touch what the peer has registered since, too: blocks were added
	// that lie there.
	renew()
}

// A receivingPosting can use the thread that waits for it.
type receivingPosting interface {
	// waits says that the thread which is going to push or seal calls receive after that.
	waits()
	// receive lets the calling thread receive for a few milliseconds at most.
	receive()
}

// A promisedPosting keeps its end for the thread that is going to call receive.
type promisedPosting interface {
	// leave says that this thread does not, or not yet: others may tell the end.
	leave()
}

// A measuredPosting reports what was confirmed only at its end, and is asked until then.
type measuredPosting interface {
	measured() uint64 // bytes confirmed so far
}

// ending is how a posting ended.
type ending struct {
	err         error
	quiet       bool // also at the peer
	unconfirmed bool
}

// peerIdentity is what is known about a peer to be fenced off.
type peerIdentity struct {
	instance string   // hex, "" if unknown
	names    []string // under which it may have introduced itself
	addrs    []netip.Addr
}
