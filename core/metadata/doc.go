// Package metadata is the control plane of an engine: how engines find each
// other's memory before any data moves.
//
// # Descriptors
//
// A Descriptor is the published form of a segment: the engine's name, the
// transports it offers with what is needed to use them (the TCP data port, the
// RDMA devices and keys), and the address ranges it has registered. Every
// engine publishes its own and nobody else's. Nothing is pushed: a peer asks
// for it, at the host and port that name the engine, and gets the descriptor
// of that moment. A copy is therefore out of date as soon as its publisher
// registers or deregisters memory, and has to be fetched again.
//
// # The wire
//
// A peer opens a TCP connection to the engine's handshake port, sends one
// request, reads one reply and closes. Both are frames: a 64-bit little-endian
// count of the bytes that follow, one byte that tells the type, and a JSON
// text. The reply repeats the type of its request. There are four types:
//
//	0  connection  both sides' queue pairs, to connect them over RDMA
//	1  metadata    asks for the descriptor; null while there is none
//	2  notify      leaves two strings with the peer
//	3  probe       asks whether anybody is there
//
// Old peers send a connection request without the type byte, and get a reply
// without it. The count is at most MC_HANDSHAKE_MAX_LENGTH on either side.
// Whatever is malformed is answered by closing the connection.
//
// There is no authentication: who reaches the port can read the descriptor.
//
// # What this package does not know
//
// It does not interpret memory, look ranges up, choose transports or read the
// environment; it imports no other package of the module and needs no cgo.
package metadata
