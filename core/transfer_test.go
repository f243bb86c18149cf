package core

import (
	"fmt"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Every size and direction: the bytes arrive, and nothing else is touched.
func TestTransferMovesBlocksAndNothingElse(t *testing.T) {
	p := newPair(t, 8<<20, nil)
	for _, op := range []Op{Write, Read} {
		for _, size := range []int{1, 3, 64, 512, 4096, 65536, 1 << 20} {
			t.Run(fmt.Sprintf("op %d size %d", op, size), func(t *testing.T) {
				slots := min(len(p.memA)/size, 20000)
				from, to := evenSlots(slots, 0), evenSlots(slots, 7)
				p.memA.fill(uint64(size))
				p.memB.fill(uint64(size) + 100)
				src, dst := p.memA, p.memB
				if op == Read {
					src, dst = p.memB, p.memA
					from, to = to, from
				}
				want := append([]byte(nil), dst...)
				for i := range from {
					copy(want[to[i]*size:], src[from[i]*size:(from[i]+1)*size])
				}
				local, remote := from, to
				if op == Read {
					local, remote = to, from
				}
				require.NoError(t, move(t, p.seg, op, scatter(p.memA, p.memB, size, local, remote)))
				assert.Equal(t, string(want), string(dst), "destination")
			})
		}
	}
}

func TestHundredThousandBlocksInOneCall(t *testing.T) {
	p := newPair(t, 200_000*64, nil)
	p.memA.fill(1)
	from, to := evenSlots(200_000, 0), evenSlots(200_000, 3)
	require.NoError(t, move(t, p.seg, Write, scatter(p.memA, p.memB, 64, from, to)))
	for i := range from {
		require.Equal(t, p.memA[from[i]*64:(from[i]+1)*64], p.memB[to[i]*64:(to[i]+1)*64], "block %d", i)
	}
	s := p.a.Stats()
	assert.EqualValues(t, 100_000, s.Blocks)
	assert.EqualValues(t, 100_000, s.Runs)
	assert.EqualValues(t, 100_000*64, s.BytesWritten)
}

func TestNeighboursLeaveAsOneRun(t *testing.T) {
	p := newPair(t, 1<<20, nil)
	p.memA.fill(5)
	var slots []int
	for i := range 1 << 20 / 256 {
		slots = append(slots, i)
	}
	b, err := p.seg.Submit(Write, scatter(p.memA, p.memB, 256, slots, slots), Options{})
	require.NoError(t, err)
	defer b.Close()
	require.NoError(t, b.Wait(deadline))
	assert.EqualValues(t, 1, b.Status().Runs)
	assert.EqualValues(t, 4096, b.Status().Blocks)
	assert.Equal(t, string(p.memA), string(p.memB))
}

func TestEmptyAndZeroLengthBlocksAreDoneAtOnce(t *testing.T) {
	p := newPair(t, 4096, nil)
	require.NoError(t, move(t, p.seg, Write, Blocks{}))
	require.NoError(t, move(t, p.seg, Write, Blocks{Local: []uint64{1}, Remote: []uint64{2}, Length: []uint64{0}}))
	assert.EqualValues(t, 0, p.b.Stats().ServedWritten)
}

// An engine may be its own peer.
func TestLoopback(t *testing.T) {
	e := openEngine(t, "localhost", testConfig(nil))
	from, to := newArena(t, 1<<20), newArena(t, 1<<20)
	from.fill(9)
	register(t, e, from)
	register(t, e, to)
	s := openSegment(t, e, e.Name())
	require.NoError(t, move(t, s, Write, scatter(from, to, 1024, evenSlots(1024, 0), evenSlots(1024, 4))))
	require.NoError(t, move(t, s, Read, scatter(to, from, 1<<20, []int{0}, []int{0})))
	assert.Equal(t, string(from), string(to))
}

// Blocks may span registered ranges that are adjacent, on either side.
func TestBlocksSpanAdjacentRanges(t *testing.T) {
	for _, op := range []Op{Write, Read} {
		a, b := openEngine(t, "127.0.0.1", testConfig(nil)), openEngine(t, "127.0.0.1", testConfig(nil))
		memA, memB := newArena(t, 64<<10), newArena(t, 64<<10)
		for _, half := range []arena{memA[:20<<10], memA[20<<10:]} {
			register(t, a, half)
		}
		for _, part := range []arena{memB[:8<<10], memB[8<<10 : 40<<10], memB[40<<10:]} {
			register(t, b, part)
		}
		memA.fill(1)
		memB.fill(2)
		require.NoError(t, move(t, openSegment(t, a, b.Name()), op, scatter(memA, memB, 64<<10, []int{0}, []int{0})))
		assert.Equal(t, string(memA), string(memB))
	}
}

func TestManyThreadsShareOneSegment(t *testing.T) {
	const threads, each = 16, 64 << 10
	p := newPair(t, threads*each, nil)
	p.memA.fill(11)
	var wg sync.WaitGroup
	for n := range threads {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for round := range 8 {
				size := 64 << (round % 4)
				slots := evenSlots(each/size, uint64(round+1))
				for i := range slots {
					slots[i] += n * each / size
				}
				assert.NoError(t, move(t, p.seg, Write, scatter(p.memA, p.memB, size, slots, slots)))
			}
			assert.NoError(t, move(t, p.seg, Write, scatter(p.memA, p.memB, each, []int{n}, []int{n})))
		}()
	}
	wg.Wait()
	assert.Equal(t, string(p.memA), string(p.memB))
	assert.EqualValues(t, 0, p.a.Stats().BatchesOpen)
}

func TestNamesOfEveryForm(t *testing.T) {
	for _, name := range []string{"127.0.0.1", "127.0.0.1:1", "localhost", "localhost:99", "::1", "[::1]", "[::1]:5"} {
		t.Run(name, func(t *testing.T) {
			a, b := openEngine(t, name, testConfig(nil)), openEngine(t, name, testConfig(nil))
			memA, memB := newArena(t, 4096), newArena(t, 4096)
			memA.fill(3)
			register(t, a, memA)
			register(t, b, memB)
			require.NoError(t, move(t, openSegment(t, a, b.Name()), Write, scatter(memA, memB, 4096, []int{0}, []int{0})))
			assert.Equal(t, string(memA), string(memB))
		})
	}
}

// Memory registered after the segment was opened is visible at once, and what was
// deregistered is refused at once.
func TestLateRegistrationIsVisible(t *testing.T) {
	p := newPair(t, 4096, nil)
	late := newArena(t, 8192)
	blocks := scatter(p.memA, late, 4096, []int{0}, []int{1})
	require.ErrorIs(t, move(t, p.seg, Write, blocks), ErrAddress)
	m := register(t, p.b, late)
	p.memA.fill(4)
	require.NoError(t, move(t, p.seg, Write, blocks))
	assert.Equal(t, string(p.memA), string(late[4096:]))
	require.NoError(t, m.Deregister())
	err := move(t, p.seg, Write, blocks)
	require.ErrorIs(t, err, ErrRejected, "the peer decides, though this side still thinks it is registered")
	require.NoError(t, move(t, p.seg, Write, scatter(p.memA, p.memB, 4096, []int{0}, []int{0})), "the segment stays usable")
	register(t, p.b, late)
	require.NoError(t, move(t, p.seg, Write, blocks), "registered again at the same address")
}

// Memory is visible to a peer's next batch however many of its threads ask at once:
// an answer that was on its way before the registration does not count.
func TestLateRegistrationIsVisibleToManyThreads(t *testing.T) {
	p := newPair(t, 16*4096, nil)
	late := newArena(t, 200*4096)
	var wg sync.WaitGroup
	for n := range 8 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for i := range 25 {
				at := (n*25 + i) * 4096
				register(t, p.b, late[at:at+4096])
				blocks := Blocks{Local: []uint64{p.memA.addr()}, Remote: []uint64{late.addr() + uint64(at)}, Length: []uint64{4096}}
				if !assert.NoError(t, move(t, p.seg, Write, blocks)) {
					return
				}
			}
		}()
	}
	wg.Wait()
}
