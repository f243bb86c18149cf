//go:build cgo

package core

import (
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// inOrder are the numbers below n.
func inOrder(n int) []int {
	slots := make([]int, n)
	for i := range slots {
		slots[i] = i
	}
	return slots
}

// A work request names one stretch there and many here: that is how blocks are gathered
// to write and scattered to read.
func TestRDMAGathersAndScatters(t *testing.T) {
	const count, size = 1024, 512
	apart, together := evenSlots(2*count, 5), inOrder(count)
	for _, c := range []struct {
		name          string
		op            Op
		local, remote []int
		atLeast, most uint64
	}{
		{"gathered write", Write, apart, together, count / 16, count / 8},
		{"scattered read", Read, apart, together, count / 16, count / 8},
		{"write to many places", Write, together, apart, count, count + 8},
		{"read from many places", Read, together, apart, count, count + 8},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newRDMAPair(t, 2*count*size, nil)
			p.memA.fill(1)
			p.memB.fill(2)
			sent := messages(p.a, func() {
				require.NoError(t, move(t, p.seg, c.op, scatter(p.memA, p.memB, size, c.local, c.remote)))
			})
			for i := range c.local {
				here := p.memA[c.local[i]*size : (c.local[i]+1)*size]
				require.Equal(t, here, p.memB[c.remote[i]*size:(c.remote[i]+1)*size], "block %d", i)
			}
			assert.GreaterOrEqual(t, sent, c.atLeast)
			assert.LessOrEqual(t, sent, c.most)
		})
	}
}

// A long run goes in pieces: several queue pairs have work, and a cancelled batch does
// not have to wait for all of it.
func TestRDMALongRunIsCut(t *testing.T) {
	p := newRDMAPair(t, 32<<20, nil)
	p.memA.fill(1)
	for _, op := range []Op{Write, Read} {
		sent := messages(p.a, func() {
			require.NoError(t, move(t, p.seg, op, scatter(p.memA, p.memB, 32<<20, []int{0}, []int{0})))
		})
		assert.GreaterOrEqual(t, sent, uint64(32<<20/maxSlice))
		assert.Equal(t, string(p.memA), string(p.memB))
	}
}

// The first work request leaves while most blocks have not been looked at.
func TestRDMAFirstWorkRequestLeavesEarly(t *testing.T) {
	const count = 1_000_000
	p := newRDMAPair(t, 1<<20, nil)
	require.NoError(t, move(t, p.seg, Write, scatter(p.memA, p.memB, 64, []int{0}, []int{0}))) // connected
	blocks := repeated(p, count)
	var seen uint64
	began, sent := p.a.Stats(), make(chan time.Duration)
	start := time.Now()
	go func() {
		for p.a.Stats().Messages == began.Messages {
			runtime.Gosched()
		}
		seen = p.a.Stats().Blocks - began.Blocks
		sent <- time.Since(start)
	}()
	b, err := p.seg.Submit(Write, blocks, Options{})
	require.NoError(t, err)
	defer b.Close()
	took := <-sent
	t.Logf("first work request after %v and %d of %d blocks", took, seen, count)
	assert.Less(t, seen, uint64(count/4))
	b.Cancel()
	b.Wait(deadline)
}

// What a batch allocates does not depend on how many blocks it has.
func TestRDMAAllocatesNothingForABlock(t *testing.T) {
	const count = 40_000
	p := newRDMAPair(t, 1<<20, nil)
	blocks := repeated(p, count)
	require.NoError(t, move(t, p.seg, Write, blocks))
	few := testing.AllocsPerRun(3, func() { require.NoError(t, move(t, p.seg, Write, blocks.part(0, 100))) })
	many := testing.AllocsPerRun(3, func() { require.NoError(t, move(t, p.seg, Write, blocks)) })
	t.Logf("%v allocations for 100 blocks, %v for %d", few, many, count)
	assert.Less(t, many, count/100.)
}

// An engine on which nothing moves needs no processor, connected or not.
func TestRDMAIdleEngineSleeps(t *testing.T) {
	p := newRDMAPair(t, 1<<20, nil)
	require.NoError(t, move(t, p.seg, Write, repeated(p, 1000)))
	runtime.GC()
	const length = 400 * time.Millisecond
	for attempt := 0; ; attempt++ {
		before := processorTime(t)
		time.Sleep(length)
		used := processorTime(t) - before
		share := float64(used) / float64(length)
		t.Logf("%v of %v: %.2f%%", used, length, 100*share)
		if share < 0.02 || attempt == 4 { // two engines, and the runtime's own work
			assert.Less(t, share, 0.02)
			return
		}
	}
}

func processorTime(t *testing.T) time.Duration {
	var u syscall.Rusage
	require.NoError(t, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// Engines come and go, used and unused, and leave nothing behind: TestMain looks for
// verbs objects that are left at the end of all tests.
func TestRDMALeavesNothing(t *testing.T) {
	over(t, "rdma")
	before := len(rdmaObjects())
	for range 3 {
		p := newPair(t, 1<<20, nil)
		require.NoError(t, move(t, p.seg, Write, repeated(p, 10)))
		p.a.Close()
		p.b.Close()
		e := openEngine(t, "127.0.0.1", testConfig(nil))
		register(t, e, p.memA)
		e.Close()
		require.Len(t, rdmaObjects(), before)
	}
}
