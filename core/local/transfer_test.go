package local

import (
	"fmt"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// Every size, both directions, every way: the bytes arrive, and nothing else is touched.
func TestBlocksArrive(t *testing.T) {
	each(t, everyWay, func(t *testing.T, w way, write bool) {
		const room = 8 << 20
		p := newPair(t, w, room)
		for _, size := range []int{1, 5, 100, 512, 4096, 8 << 10, 70_001, 1 << 20} {
			p.near.fill(1)
			p.far.fill(2)
			slices := p.scattered(min(room/size/2, 5000), size)
			want := append([]byte(nil), p.far...)
			from, to := p.near, p.far
			if !write {
				want = append([]byte(nil), p.near...)
				from, to = to, from
			}
			for _, s := range slices {
				at, src := s.Remote-p.far.addr(), s.Local-p.near.addr()
				if !write {
					at, src = src, at
				}
				copy(want[at:at+s.Len], from[src:src+s.Len])
			}
			moved(t, p.peer, write, slices)
			require.True(t, string(want) == string(to), "blocks of %d bytes", size)
		}
		written, read := p.server.Moved()
		require.Equal(t, write, written > 0)
		require.Equal(t, !write, read > 0)
	})
}

// Small slices in numbers go through the ring, and large ones if they are much, while
// nothing else was seen to be faster.
func TestWhatIsPacked(t *testing.T) {
	p := newPair(t, remoteWay("best", Best), 8<<20)
	for _, c := range []struct {
		n, size int
		packed  bool
	}{{packedFrom - 1, 64, false}, {packedFrom, 64, true}, {1000, 512, true}, {1, packedBytes - 1, false}, {1, packedBytes, true}, {255, packedBelow, false}, {256, packedBelow, true}} {
		p.peer.mu.Lock()
		p.peer.choice = choice{}
		p.peer.mu.Unlock()
		src := moved(t, p.peer, true, p.scattered(c.n, c.size))
		bytes, packed := src.arrived()
		require.EqualValues(t, c.n*c.size, bytes)
		require.Equal(t, c.packed, packed == bytes, "%d of %d bytes", c.n, c.size)
		require.Equal(t, !c.packed, packed == 0)
	}
	mixed := append(p.scattered(1000, 512), one(p.near.addr()+4<<20, p.far.addr()+4<<20, 1<<20)...)
	p.near.fill(9)
	bytes, packed := moved(t, p.peer, true, mixed).arrived()
	require.EqualValues(t, 1000*512+1<<20, bytes)
	require.Equal(t, bytes, packed)
	same(t, mixed)
}

// Ranges that adjoin are one for a slice, on the peer's side.
func TestSlicesSpanAdjacentRegions(t *testing.T) {
	each(t, everyWay, func(t *testing.T, w way, write bool) {
		p := &pair{target: startTarget(t), near: newArena(t, 1<<20), far: newArena(t, 1<<20)}
		at := p.far.addr()
		for _, n := range []uint64{100, 300_000, 1, 600_000} {
			p.register(at, at+n, true)
			at += n
		}
		p.peer = w.open(t, p.target)
		p.near.fill(3)
		p.far.fill(4)
		slices := one(p.near.addr(), p.far.addr(), int(at-p.far.addr()))
		moved(t, p.peer, write, slices)
		same(t, slices)
		require.NotEqual(t, p.near[len(p.near)-1000:], p.far[len(p.far)-1000:])
		over, _ := post(p.peer, write, one(p.near.addr(), at-10, 11))
		require.ErrorIs(t, over.end(t).Err, ErrRejected)
	})
}

func TestManyPostingsAtOnce(t *testing.T) {
	each(t, everyWay, func(t *testing.T, w way, write bool) {
		const posters, room = 8, 1 << 20
		p := newPair(t, w, posters*room)
		p.near.fill(5)
		p.far.fill(6)
		var wg sync.WaitGroup
		for n := range posters {
			wg.Add(1)
			go func() {
				defer wg.Done()
				for round := range 20 {
					size := 64 << (round % 8)
					slices := scattered(p.near.addr()+uint64(n*room), p.far.addr()+uint64(n*room), room/size/2, size)
					src := newSource(slices)
					po := p.peer.Post(write, src)
					for len(slices) > src.shown {
						src.publish(1 + len(slices)/3)
						po.Kick()
					}
					po.Seal()
					src.well(t)
					same(t, slices)
				}
			}()
		}
		wg.Wait()
	})
}

// A small batch beside a long one does not wait for it.
func TestASmallPostingIsNotStarved(t *testing.T) {
	for _, w := range everyWay {
		t.Run(w.name, func(t *testing.T) {
			p := newPair(t, w, 256<<20)
			const n, size = 128 << 10, 1024
			long := newSource(p.scattered(n, size)).publish(-1)
			po := p.peer.Post(true, long)
			po.Kick()
			for i := range 10 {
				moved(t, p.peer, true, p.scattered(10, 512))
				if bytes, _ := long.arrived(); i == 0 {
					require.Less(t, bytes, uint64(n*size), "the long one was done first")
				}
			}
			po.Seal()
			long.well(t)
		})
	}
}

func TestNoAllocationForABlock(t *testing.T) {
	for _, w := range everyWay {
		t.Run(w.name, func(t *testing.T) {
			p := newPair(t, w, 32<<20)
			cost := func(n int) float64 {
				slices := p.scattered(n, 512)
				return testing.AllocsPerRun(20, func() {
					src, _ := post(p.peer, true, slices)
					<-src.ended
				})
			}
			cost(20_000)
			few, many := cost(100), cost(20_000)
			require.Less(t, many-few, 100.0, "%v allocations for 100 blocks, %v for 20,000", few, many)
		})
	}
}

func TestMemoryThatIsNotThere(t *testing.T) {
	each(t, everyWay, func(t *testing.T, w way, write bool) {
		p := newPair(t, w, 1<<20)
		hole := newHole(t, 1<<20)
		p.register(hole.addr(), hole.end(), true)
		good := p.scattered(50, 4096)
		for name, bad := range map[string]struct {
			slice Slice
			is    error
		}{
			"here":  {Slice{hole.addr() + 100, p.far.addr(), 50_000, host{}}, ErrMemory},
			"there": {Slice{p.near.addr(), hole.addr() + 100, 50_000, host{}}, ErrRejected},
		} {
			for _, slices := range [][]Slice{{bad.slice}, append(append([]Slice{}, good...), bad.slice), append([]Slice{bad.slice}, good...)} {
				src, _ := post(p.peer, write, slices)
				end := src.end(t)
				require.ErrorIs(t, end.Err, bad.is, name)
				require.True(t, end.Quiet)
			}
		}
		moved(t, p.peer, write, good)
	})
}

func TestReadOnlyRegions(t *testing.T) {
	for _, w := range everyWay {
		t.Run(w.name, func(t *testing.T) {
			p := newPair(t, w, 1<<20)
			fixed := newArena(t, 1<<20)
			p.register(fixed.addr(), fixed.end(), false)
			fixed.fill(8)
			want := string(fixed)
			for _, n := range []int{1, 100} {
				src, _ := post(p.peer, true, scattered(p.near.addr(), fixed.addr(), n, 4096))
				require.ErrorIs(t, src.end(t).Err, ErrRejected)
				slices := scattered(p.near.addr(), fixed.addr(), n, 4096)
				moved(t, p.peer, false, slices)
				same(t, slices)
			}
			require.Equal(t, want, string(fixed))
		})
	}
}

func BenchmarkPeer(b *testing.B) {
	for _, w := range everyWay {
		for _, size := range []int{512, 4096, 64 << 10} {
			b.Run(fmt.Sprintf("%s/%d", w.name, size), func(b *testing.B) {
				p := newPair(b, w, 128<<20)
				p.near.fill(1)
				p.far.fill(1)
				slices := p.scattered(min(4096, 64<<20/size), size)
				b.SetBytes(int64(len(slices) * size))
				for b.Loop() {
					moved(b, p.peer, true, slices)
				}
			})
		}
	}
}
