//go:build cgo

package core

import (
	"sync/atomic"
	"unsafe"
)

// stormHosts is how many engines a storm has. The first two are of the test's process, the
// others have a process each; the last has a device of its own.
const (
	stormHosts  = 4
	stormInside = 2
)

var stormDevices = [2]string{softDevice, "mlx5_1"}

func stormDevice(host int) string {
	if host == stormHosts-1 {
		return stormDevices[1]
	}
	return stormDevices[0]
}

// stormRoutes are the workers: each moves blocks between its own host and another one. Some
// share their path.
var stormRoutes = [...]struct{ from, to int }{
	{0, 2}, {0, 2}, {0, 3}, {0, 1}, {1, 2}, {1, 3}, {1, 3}, {2, 3}, {3, 2}, {2, 0}, {3, 1},
}

// stormSlots are the sizes of the pages that one batch of a worker uses at a time, on
// either side.
var stormSlots = [...]int{1 << 20, 256 << 10, 96 << 10, 64 << 10, 64 << 10, 48 << 10, 20 << 10}

// stormArea is the memory of a worker on one side: its slots, one after the other.
var stormArea = func() (size int) {
	for _, n := range stormSlots {
		size += n
	}
	return size
}()

// What happens to a host.
const (
	stormMemory = iota // ranges of its memory came or went
	stormFence         // it fenced others off
	stormStop          // it stood still
	stormReset         // its engine was closed and opened again, or its process killed and started
	stormKinds
)

// How batches end, by stormOutcome.
const stormOutcomes = 16

// stormShared is what the processes of a storm tell each other: the first page of the
// file that holds all of their memory.
type stormShared struct {
	stop   atomic.Int64 // workers are to end
	failed atomic.Int64 // somebody has found something wrong, and said what on stderr
	calm   atomic.Int64 // odd: nothing is wrong with anything
	ended  atomic.Int64 // batches, for whoever waits for some more

	hosts [stormHosts]struct {
		events [stormKinds]atomic.Int64 // odd: is happening
		base   atomic.Uint64            // where its process has the file
		port   atomic.Uint64            // of its name
		// Sweeps fence off everybody: what began before the first of them that comes later
		// writes nothing more here once it is done.
		sweepsBegun, sweepsDone atomic.Int64
	}
	workers [len(stormRoutes)]struct {
		filling atomic.Int64 // odd: it writes to its pages at the target by itself
		moved   atomic.Int64 // batches that were done
	}
	outcomes [stormOutcomes]atomic.Int64
	calmly   atomic.Int64 // batches from begin to end in a calm
	loud     atomic.Int64 // that ended quiet here only
	refused  atomic.Int64 // that never began
	watched  atomic.Int64 // slots that were found as they had been left
}

const stormHeader = 1 << 16

func stormFile() int { return stormHeader + 2*len(stormRoutes)*stormArea }

func stormSharedIn(file arena) *stormShared {
	return (*stormShared)(unsafe.Pointer(unsafe.SliceData(file)))
}

// stormHere and stormThere are where a worker's memory lies in the file.
func stormHere(worker int) int  { return stormHeader + 2*worker*stormArea }
func stormThere(worker int) int { return stormHere(worker) + stormArea }

// during says that something happens to a host.
func (s *stormShared) during(host, kind int, do func()) {
	s.hosts[host].events[kind].Add(1)
	defer s.hosts[host].events[kind].Add(1)
	do()
}
