package rdma

import (
	"os"
	"sync"
	"sync/atomic"
)

// inParallel runs do for 0 to n-1 on some goroutines, and begins no more after an error.
func inParallel(n, workers int, do func(i int) error) error {
	var next atomic.Int64
	var failed atomic.Bool
	var once sync.Once
	var first error // written within once, read after all are done
	work := func() {
		for !failed.Load() {
			i := int(next.Add(1)) - 1
			if i >= n {
				return
			}
			if err := do(i); err != nil {
				once.Do(func() { first = err })
				failed.Store(true)
			}
		}
	}
	var group sync.WaitGroup
	for range workers - 1 {
		group.Go(work)
	}
	work()
	group.Wait()
	return first
}

// part is memory for one MR.
type part struct {
	AddrRange
	owner int // index of the range
}

// splitRanges cuts ranges into parts of at most most bytes (0: no limit). Parts of a
// range meet at addresses that are multiples of a large page where most allows it, so
// that no page is pinned for two MRs.
func splitRanges(ranges []AddrRange, most uint64) []part {
	align := splitAlign(most)
	parts := make([]part, 0, len(ranges))
	for owner, r := range ranges {
		for most > 0 && r.Length > most {
			end := (r.Addr + most) / align * align
			parts = append(parts, part{AddrRange{r.Addr, end - r.Addr}, owner})
			r = AddrRange{end, r.Length - (end - r.Addr)}
		}
		parts = append(parts, part{r, owner})
	}
	return parts
}

func splitAlign(most uint64) uint64 {
	const largePage = 2 << 20
	page := uint64(os.Getpagesize())
	switch {
	case most >= 2*largePage:
		return largePage
	case most >= 2*page:
		return page
	}
	return 1
}

// countParts is about how many parts splitRanges would make: before it makes them.
func countParts(ranges []AddrRange, most uint64) uint64 {
	count := uint64(len(ranges))
	for _, r := range ranges {
		if most > 0 {
			count += (r.Length - 1) / most
		}
	}
	return count
}

// registerWorkers is how many goroutines register parts. Filling 4 MiB of pages took as
// long on two processors as on one, 16 MiB two thirds of the time (1.4 ms and 0.9 ms when
// they existed, 6.9 ms and 4.5 ms when not): so a worker is worth it from 8 MiB. What a
// device does for an MR itself is taken to be as much as for 256 pages.
func registerWorkers(parts []part, wanted, processors int) int {
	const worth, each, most = 8 << 20, 1 << 20, 8
	workers := uint64(max(wanted, 0))
	if workers == 0 {
		var work uint64
		for _, p := range parts {
			work += each + min(p.Length, 1<<40) // far from an overflow
		}
		workers = min(work/worth, uint64(processors), most)
	}
	return int(max(min(workers, uint64(len(parts))), 1))
}
