// Package rdma knows the RDMA devices of this host.
//
// It reads sysfs: devices, their ports and GIDs, the network interfaces above them,
// and where they sit (NUMA node, PCI path). From that Topology says which devices
// are near which memory. Reading sysfs needs neither cgo, nor libibverbs, nor
// privileges, and works on a host without RDMA: there are no devices then.
//
// The functions take the root of the file system that has /sys; "/" is this host.
// They do not block on the network, and are safe for concurrent use.
//
// The package has never heard of a segment, a batch or a slice.
package rdma
