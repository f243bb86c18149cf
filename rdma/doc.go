// Package rdma knows the RDMA devices of this host.
//
// What sysfs says of them needs neither cgo, nor libibverbs, nor privileges, and works
// on a host without RDMA, where there are no devices: their ports and GIDs, the network
// interfaces above them, and where they sit (NUMA node, PCI path). From that Topology
// says which devices are near which memory. These functions take the root of the file
// system that has /sys; "/" is this host.
//
// The objects of verbs need cgo, and libibverbs.so.1, which is loaded when it is first
// asked for: a program that uses this package starts without it. They form a tree, and
// are closed from its leaves:
//
//	Context (an open device)
//	├── PD
//	│   ├── MR (registered memory)
//	│   └── QP ──▶ CQ
//	└── CQ
//	    └── Port (polls it, has the tickets)
//	        └── Lane (feeds QPs)
//
// Close fails with ErrInUse when something below is open, and names it; closing twice
// is safe, and so is using a closed object: that fails with ErrClosed. Nothing is
// closed by the garbage collector. OpenObjects lists what is open.
//
// A Port moves data: pieces are fed to a Lane and counted for a Ticket, in C, where they
// are posted, retired and waited for without Go. A lane is not closed with its QPs: it
// goes first, or its QPs once it is broken.
//
// Functions are safe for concurrent use and do not block on the network, but for
// Context.NextEvent, Port.Wait and Ticket.Wait.
//
// The package has never heard of a segment, a batch or a slice.
package rdma
