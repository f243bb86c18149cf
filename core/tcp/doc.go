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
// sends it to peers that have not announced it in their descriptor. A denser framing
// between two of this kind has its place here: announced by a higher hello version,
// agreed on in the hello, and unknown to everybody else.
//
// # The parts
//
// Server accepts connections and serves requests against a Memory. Peer is the
// initiator's side of one remote process: it owns a few lanes (connections),
// which pull slices from the postings that are queued on the peer. A Posting is
// one batch's share; it ends exactly once, and the way it ended says what is
// known about late bytes.
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
