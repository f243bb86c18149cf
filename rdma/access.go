package rdma

import (
	"fmt"
	"strings"
)

// Access says what may be done with registered memory, or through a queue pair.
// Reading one's own memory is always allowed.
type Access uint32

const (
	AccessLocalWrite   Access = 1 << 0
	AccessRemoteWrite  Access = 1 << 1 // needs AccessLocalWrite
	AccessRemoteRead   Access = 1 << 2
	AccessRemoteAtomic Access = 1 << 3 // needs AccessLocalWrite
	// AccessRelaxedOrdering lets the device write in any order within the memory. Where
	// libibverbs does not know it, it has no effect.
	AccessRelaxedOrdering Access = 1 << 20
)

// writes tells whether the device writes to the memory.
func (a Access) writes() bool {
	return a&(AccessLocalWrite|AccessRemoteWrite|AccessRemoteAtomic) != 0
}

func (a Access) String() string {
	var words []string
	for _, bit := range []struct {
		access Access
		word   string
	}{
		{AccessLocalWrite, "local write"},
		{AccessRemoteWrite, "remote write"},
		{AccessRemoteRead, "remote read"},
		{AccessRemoteAtomic, "remote atomic"},
		{AccessRelaxedOrdering, "relaxed ordering"},
	} {
		if a&bit.access != 0 {
			words = append(words, bit.word)
		}
	}
	if len(words) == 0 {
		return "local read"
	}
	return strings.Join(words, ", ")
}

// AddrRange is memory of this process: Length bytes from address Addr.
type AddrRange struct {
	Addr, Length uint64
}

// RegisterLimit bounds RegisterAll. Zero values leave it to the device and the machine.
type RegisterLimit struct {
	MaxSize uint64 // bytes of one MR
	Workers int    // registrations at the same time; 1: one after the other
}

func (r AddrRange) String() string { return fmt.Sprintf("[%#x, +%d)", r.Addr, r.Length) }
