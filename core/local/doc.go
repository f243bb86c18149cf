// Package local moves bytes between the memory of processes on one host, and within
// one process, one-sidedly: the initiator names addresses on both sides.
//
// # Two ways
//
// Much, and many small ranges, are packed into messages in shared memory (packer.go,
// ring.go), which a goroutine of the target unpacks (serve.go). Little is copied once,
// by the initiator, with process_vm_readv and process_vm_writev (cma.go), and so are
// long ranges while that is faster (choice.go). Where the initiator may not access the
// target's memory, everything is packed, which needs no rights. Within one process a
// range is simply copied (inside.go).
//
// # The connection
//
// The target listens on an abstract unix socket that is named by its instance: who
// can connect is in the same network namespace, and talks to that very process. They
// exchange shared memory, sealed so that nobody can make an access to it fault:
// the target's table of registered ranges (table.go), the initiator's words
// (words.go), and rings. The initiator proves its rights by reading a secret from
// the target's memory. Each knows the other by pidfd, not by a number that is given
// to another process one day.
//
// # Registered, and when
//
// A system call knows nothing of registrations. So the initiator copies only inside
// its word, having seen there that the table is the one in which it looked the
// ranges up; and the target, having changed the table, waits for the words. When
// Settle returns, nobody touches what the last Publish left out. A posting may
// touch ranges that were registered before it began: an address that is registered
// anew meanwhile is other memory, and is refused. Fence works alike, with a counter
// for each connection in place of the table.
//
// # Quiet
//
// The initiator's copies are its own, so a posting that has ended is quiet at both
// ends. A message that the target has not begun to work on is taken back; one that
// it has begun is waited for. Only a target that stops in the middle of one, for
// longer than a moment, leaves a posting quiet here only.
//
// # The parts
//
// Server is the target's side: table, connections, rings. Remote is a connection, and
// Guest the way to a server in the same process; over either of them a Peer moves
// the slices of Postings, on a few lanes. A thread that submits moves a quantum
// itself, so that a small batch is done when its submission returns; one that will wait
// for the end anyway goes on to it.
package local
