// Package endpoint is the handshake of RDMA: who is connected to whom, with which queue
// pairs, and when that is over. It moves no data. The hardware and the messages are
// given to it (Config), so it needs no cgo; messages are those of core/metadata.
//
// A Store stands for one device port of this engine. Ports are named by device paths,
// "<server>@<device>", which are compared byte for byte.
//
// # With upstream
//
// Between two device paths there is one endpoint, and both sides post to it. The
// initiator sends its queue pairs' numbers and its GID; the responder makes as many,
// connects them, and replies with its own; the initiator connects its own and says so in
// a second message, the ready ack, before which the responder does not post. A side
// that knows no ready ack leaves the member out, and then there is none. The same
// request again is answered in the same way. A request with other numbers means that the peer has
// restarted, or given its side up: the endpoint is retired and another one made.
// When both ask at once, each answers with the queue pairs that it asked with, so both
// handshakes describe one connection. A port that connects to itself connects each queue
// pair to itself, without any message.
//
// The messages do not say which path MTU a side uses: that of its own port, but no more
// than it is told to (MC_MTU). Where the two differ, requests longer than the smaller one
// fail.
//
// Nobody is told when an endpoint ends. The peer finds out because its requests fail.
//
// # Between two of this implementation
//
// An endpoint has one direction: the initiator posts, the responder's queue pairs only
// take what comes. Peers that write to each other have two. Messages have a member
// mooncake_go, which upstream ignores:
//
//	version     1
//	kind        "connect", "retire" or "closed"; others are rejected
//	instance    the sender, 32 hex digits, random for each start, as in its descriptor
//	target      the instance that the message is for; another one rejects it
//	connection  number of the connection; the initiator gives each one a larger number than
//	            all before
//	name        the sender's session, where it can be asked and by which it can be fenced
//	device      the receiver's device, where the message has no peer_nic_path
//	mtu         in connect and its reply: the most bytes of a packet that the sender's port
//	            takes. Both ends use the smaller of the two; without the member, their own
//	fenced      in the reply to connect: how many fences the responder had made when it
//	            last fenced the initiator off, 0 if never
//
// connect has both paths, numbers of queue pairs and the GID, as upstream's request has, but no
// ready_ack; so does the reply. That is all: one round trip. The connection number takes
// the place of comparing queue pairs: the same number again gets the same reply, a
// larger one from the same device replaces the connection before, and a smaller one
// came late and is rejected. When another instance connects from the same device path, the
// connection of the one before is closed: so there is never more than one for each pair
// of devices and direction.
//
// retire says that the initiator has given up the connection and all with smaller
// numbers. The responder destroys its queue pairs, and only then replies, without
// reply_msg: from there on nothing that was ever posted can land. It also replies so if it
// never knew the connection, and rejects a connect of that number that comes late; it
// remembers that for five minutes at least. A reply, or rejection, of another instance
// confirms as well: the process is gone, and its queue pairs with it. retire has no
// peer_nic_path, so that an upstream that answers there by now finds nothing to do.
//
// closed goes the other way, after a fence or when the responder closes: its queue pairs
// for the connection, listed in qp_num, are destroyed. It only saves the initiator from
// waiting for time-outs, and confirms nothing.
//
// # Fences
//
// Fence destroys all queue pairs through which a peer can write here, those that are
// being made included, and counts. An initiator compares the count in the reply to its next
// connect (Endpoint.Fenced) with the one that it knew when it began a batch, and fails
// batches that knew less. A fence that meets a connect half way makes the responder
// begin it anew, with the new count in the reply.
//
// # Addresses
//
// A port may have several addresses, and not all of them reach every peer. A side finds
// that out when it connects its queue pairs. If the port has an address that does
// (Readdresser) the endpoint is given up for it: an initiator does the whole handshake again
// with other queue pairs, since the peer's are connected to the address before; a responder
// has not told its address yet, and makes others at once.
//
// # What can be lost
//
// Every message may be lost, come late or come twice. Initiators repeat what got no
// answer, with the same numbers. A handshake that fails or takes too long gives its
// queue pairs back, and between two of this implementation the peer is told to, too. An answer
// that comes after that is not believed.
package endpoint
