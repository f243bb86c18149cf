package tcp

import "github.com/pkg/errors"

// Mover moves bytes between our own buffers and memory of one kind. Everything
// in this package that touches a caller's memory goes through one, or, where
// Direct says so, through a system call that names the address. Addresses are
// not Go pointers: the memory may be unmapped, or not the host's.
type Mover interface {
	// Direct tells whether system calls may be given addresses of this memory:
	// they answer EFAULT where it is not accessible.
	Direct() bool
	// Store copies p to addr. It returns an error, and does not crash, when the
	// memory is not accessible.
	Store(addr uint64, p []byte) error
	// Load copies from addr to p, under the same conditions.
	Load(p []byte, addr uint64) error
	// Scatter copies p to ranges, length[i] bytes to addr[i], one after the other;
	// the lengths sum to that of p.
	Scatter(addr, length []uint64, p []byte) error
	// Gather copies ranges to p; the other direction of Scatter.
	Gather(p []byte, addr, length []uint64) error
}

// store and load mark a mover's error as one of memory.
func store(m Mover, addr uint64, p []byte) error {
	if err := m.Store(addr, p); err != nil {
		return errors.WithMessage(ErrMemory, err.Error())
	}
	return nil
}

func load(m Mover, p []byte, addr uint64) error {
	if err := m.Load(p, addr); err != nil {
		return errors.WithMessage(ErrMemory, err.Error())
	}
	return nil
}

func storeMany(m Mover, addr, length []uint64, p []byte) error {
	if err := m.Scatter(addr, length, p); err != nil {
		return errors.WithMessage(ErrMemory, err.Error())
	}
	return nil
}

func loadMany(m Mover, p []byte, addr, length []uint64) error {
	if err := m.Gather(p, addr, length); err != nil {
		return errors.WithMessage(ErrMemory, err.Error())
	}
	return nil
}

// Region is registered memory as the server sees it.
type Region interface {
	Mover
	// Bounds returns the first address and the one past the last.
	Bounds() (start, end uint64)
	// Writable tells whether peers may write.
	Writable() bool
	// Pin keeps the region registered until Unpin; false if it no longer is.
	// Deregistering waits for pins, so they are held around single non-blocking
	// calls only, never while waiting for a peer.
	Pin() bool
	// Unpin gives one Pin back.
	Unpin()
}

// Memory finds registered regions. Safe for concurrent use.
type Memory interface {
	// Find returns the region that holds addr, or nil.
	Find(addr uint64) Region
}

// guard is what must be pinned around a system call that names memory. The nil
// guard pins nothing: the caller holds a pin of its own.
type guard []Region

// pin pins all regions of the guard, or none.
func (g guard) pin() bool {
	for i, r := range g {
		if !r.Pin() {
			g[:i].unpin()
			return false
		}
	}
	return true
}

func (g guard) unpin() {
	for _, r := range g {
		r.Unpin()
	}
}
