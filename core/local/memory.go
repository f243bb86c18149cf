package local

// Mover moves bytes between buffers of ours and memory of one kind. Addresses are
// not Go pointers: the memory may be unmapped, or not the host's.
type Mover interface {
	// Scatter copies p to ranges, length[i] bytes to addr[i], one after the other;
	// the lengths sum to that of p. It returns an error, and does not crash, when
	// the memory is not accessible.
	Scatter(addr, length []uint64, p []byte) error
	// Gather copies ranges to p; the other direction of Scatter.
	Gather(p []byte, addr, length []uint64) error
}

// Region is registered memory as the server sees it.
type Region interface {
	Mover
	// Bounds returns the first address and the one past the last.
	Bounds() (start, end uint64)
	// Writable tells whether peers may write.
	Writable() bool
	// Epoch is the number of its registration; later ones have higher numbers.
	Epoch() uint64
	// Pin keeps the region registered until Unpin; false if it no longer is.
	Pin() bool
	// Unpin gives one Pin back.
	Unpin()
}

// Memory finds registered regions. Safe for concurrent use.
type Memory interface {
	// Find returns the region that holds addr, or nil.
	Find(addr uint64) Region
}

// Range is one registered range as peers are told of it.
type Range struct {
	Start, End uint64 // End is the address past the last
	Epoch      uint64 // as in Region
	Writable   bool
}

// Slice is one contiguous piece to move.
type Slice struct {
	Local  uint64 // address here
	Remote uint64 // address in the peer's process
	Len    uint64 // bytes, not 0
	Mover  Mover  // of the local memory, which the batch keeps registered
}
