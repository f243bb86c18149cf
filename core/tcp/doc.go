// Package tcp moves bytes between the memory of two processes over sockets,
// one-sidedly: the initiator names addresses on both sides, and the peer's
// server reads or writes its own memory for it.
//
// # The wire
//
// A request is a 24-byte header (size, address, opcode), for a write followed by
// the payload. In framing version 2, bit 7 of the opcode is set and the server
// answers every request with an 8-byte status: for a write after the last byte
// is in destination memory, for a read before the payload. Requests may be
// pipelined; they are served in order. In version 1 a write has no answer at
// all, and old servers close the connection after one request.
//
// Between two engines of this kind a connection begins with a hello: the
// initiator says which process it wants and who it is, the server answers with
// its own identity and how often it has fenced this initiator. Neither side
// sends it to peers that have not announced it in their descriptor.
//
// # Messages
//
// With hello version 2, of which the descriptor tells, one message carries many
// ranges. All numbers are little endian and unsigned:
//
//	 0  8  bytes of payload: the sum of all lengths
//	 8  8  n, the number of ranges: 1 to 1024
//	16  1  opcode: 0xfc read, 0xfd write
//	17  7  padding, sent as zero and ignored
//	24     n times: address (8), length (8), not 0
//
// A write's payload follows, the ranges' bytes one after the other. There is one
// answer: the status, and to a read the same payload. Ranges may overlap, and are
// filled in order; one may span regions that touch. They are all looked at before
// the first byte moves: a message is refused as a whole, with status 1 and, behind it
// in 8 bytes, the index of the range that was the reason (0 where the header was).
// If memory is deregistered while a write's payload comes, the same refusal names the
// first such range; what had come by then has been written. The answer to a read ends
// in the middle in that case, with the connection. So does a message that meets memory
// that is registered but not there. Ranges over more than 16,384 regions in all are
// refused.
//
// Messages, single requests and their answers go in one order. A hello decides for
// its connection: without one, or with version 1, the opcodes are unknown. A later
// version includes them. The initiator fills messages with the slices of one posting,
// up to 512 slices and about 1 MiB, so short slices share one system call at both
// ends, and long ones are sent from, and received to, where they lie.
//
// # The parts
//
// Server accepts connections and serves requests against a Memory. Peer is the
// initiator's side of one remote process: it owns a few lanes (connections),
// which pull slices from the postings that are queued on the peer. A Posting is
// one batch's share; it ends exactly once, and the way it ended says what is
// known about late bytes. A thread that waits for a small one can receive the answer
// itself, see Posting.Receive.
//
// # Quiet
//
// A connection can deliver nothing more once the peer's end of it is known to be
// closed: the peer's kernel sends FIN or RST only then. So a lane that must be
// given up is first half-closed; the server finishes what it has, sees the end
// of the stream, and closes. Seeing that close is the fence: only then may the
// slices that were in flight be sent again elsewhere, or be called quiet. For that
// to hold, a server closes a connection only when the goroutine that serves it no
// longer touches memory: whoever wants it to end interrupts it. And an initiator
// distrusts a close that its own kernel made up when it lost patience.
//
// A posting that has to end waits for the fence for a short time only, then it is
// locally quiet. What other postings had on the same lane goes on waiting, and is
// sent again once the fence has come.
package tcp
