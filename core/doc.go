// Package core is the engine: it moves bytes between registered memory of this
// process and registered memory of peer processes. Pure Go, no cgo.
//
// # The model
//
// An Engine is one process's endpoint. Memory is registered with it, and is from
// then on open to its own batches and to every peer. A Segment is a peer's
// process as seen from here. Submit takes blocks (three arrays of numbers), and
// SubmitPages page groups (lists of page numbers, and the layers that they apply to);
// both check them and return a Batch that is waited for, polled or cancelled.
//
// # Three vocabularies
//
//	request  what a caller asks: Blocks, PageGroup         request.go, pages.go
//	run      the longest contiguous stretch on both sides  plan.go
//	slice    a part of a run on one lane                   slice.go
//
// Transports turn slices into what goes over the wire; they never see requests
// or runs. They pull slices from a batch's work as their lanes have room, so a
// batch costs nothing per block while it waits.
//
// # Outcomes
//
// A batch ends exactly once: done, or failed and quiet at both ends, or failed
// and quiet here only. Between Submit and that end the batch pins the local
// memory it uses, so deregistering waits for it; the server side pins memory
// around single system calls, so deregistering does not wait for a slow peer. A
// peer on this host that copies by itself is waited for, system call by system call.
//
// # Who may call what
//
// Everything exported is safe for concurrent use. Locks guard tables and are not
// held across system calls on the network; the lock order is engine, process,
// batch.
package core
