package core

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// Scattered writes to another process of this host, in every way, beside the bare
// system call by one and by two threads, and memcpy within the process, over the same
// ranges: medians, and the 10th percentile of the time, of interleaved rounds, in GB/s.
func BenchmarkAgainstTheLimits(b *testing.B) {
	const memory, most = 128 << 20, 1024
	name, addr, pid := startOther(b, memory)
	here := newArena(b, memory)
	here.poison(2)
	segments := map[string]*Segment{}
	for _, way := range hostWays[1:] {
		over(b, way)
		e := openEngine(b, "127.0.0.1", testConfig(nil))
		register(b, e, here)
		segments[way] = openSegment(b, e, name)
	}
	for _, size := range []int{64, 512, 1024, 2048, 4096, 8192, 16 << 10, 64 << 10, 256 << 10, 1 << 20} {
		n := min(memory/size/2, most)
		blocks := apart(here, addr, size, n)
		contenders := []contender{
			{"local", func() error { return move(b, segments["local"], Write, blocks) }},
			{"packed", func() error { return move(b, segments["packed"], Write, blocks) }},
			{"cma", func() error { return move(b, segments["cma"], Write, blocks) }},
			{"raw1", func() error { return rawWrite(pid, blocks, 1) }},
			{"raw2", func() error { return rawWrite(pid, blocks, 2) }},
			{"memcpy", func() error { copyBlocks(blocks); return nil }},
		}
		b.Run(fmt.Sprint(size), func(b *testing.B) { race(b, contenders, uint64(size*n)) })
	}
}

// apart are n blocks in every second slot, in random order, and in another one there.
func apart(here arena, there uint64, size, n int) Blocks {
	slots := evenSlots(len(here)/size, 1)[:n]
	blocks := scatter(here, here, size, slots, slots)
	for i := range blocks.Remote {
		blocks.Remote[i] = there + uint64(slots[n-1-i]*size)
	}
	return blocks
}

type contender struct {
	name string
	move func() error
}

// race measures contenders in turn, in an order that turns.
func race(b *testing.B, contenders []contender, bytes uint64) {
	times := make([][]float64, len(contenders))
	for round := 0; b.Loop(); round++ {
		for i := range contenders {
			i = (i + round) % len(contenders)
			began := time.Now()
			require.NoError(b, contenders[i].move())
			times[i] = append(times[i], float64(time.Since(began).Nanoseconds()))
		}
	}
	for i, c := range contenders {
		slices.Sort(times[i])
		b.ReportMetric(float64(bytes)/times[i][len(times[i])/2], c.name+"-GB/s")
		b.ReportMetric(float64(bytes)/times[i][len(times[i])/10], c.name+"-p10")
	}
	b.ReportMetric(0, "ns/op")
}

// rawWrite makes the bare system calls, by several threads.
func rawWrite(pid int, blocks Blocks, threads int) error {
	var wg sync.WaitGroup
	failed := make([]error, threads)
	size := int(blocks.Length[0])
	step := min(1024, max(1, (256<<10)/size))
	for t := range threads {
		wg.Add(1)
		go func() {
			defer wg.Done()
			var local, remote [1024][2]uint64
			for at := t * step; at < len(blocks.Length); at += threads * step {
				n := min(step, len(blocks.Length)-at)
				for i := range n {
					local[i] = [2]uint64{blocks.Local[at+i], blocks.Length[at+i]}
					remote[i] = [2]uint64{blocks.Remote[at+i], blocks.Length[at+i]}
				}
				moved, _, e := unix.Syscall6(unix.SYS_PROCESS_VM_WRITEV, uintptr(pid), uintptr(unsafe.Pointer(&local)),
					uintptr(n), uintptr(unsafe.Pointer(&remote)), uintptr(n), 0)
				if e != 0 || int(moved) != n*size {
					failed[t] = fmt.Errorf("moved %d of %d bytes: %w", moved, n*size, e)
				}
			}
		}()
	}
	wg.Wait()
	for _, err := range failed {
		if err != nil {
			return err
		}
	}
	return nil
}

// copyBlocks copies from the blocks' slots to those beside them.
func copyBlocks(blocks Blocks) {
	for i, from := range blocks.Local {
		n := blocks.Length[i]
		copy(hostBytes(from+n, int(n)), hostBytes(blocks.Local[len(blocks.Local)-1-i], int(n)))
	}
}
