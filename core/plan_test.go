package core

import (
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// allOf says that every region is pinned.
func allOf(regions spans) []bool {
	out := make([]bool, len(regions))
	for i := range out {
		out[i] = true
	}
	return out
}

// planAll plans blocks in windows of a size.
func planAll(blocks Blocks, regions spans, window int) []run {
	p := planner{blocks: blocks, regions: regions, pinned: allOf(regions), hint: -1}
	var fresh runs
	var out []run
	for more := true; more; {
		more = p.window(window, &fresh)
		for i := range fresh.n {
			out = append(out, *fresh.at(i))
		}
		fresh.n = 0
	}
	fresh.release()
	return out
}

// bytesOf expands runs or blocks to one entry a byte: the naive meaning of both.
func bytesOf(local, remote, length []uint64) map[uint64]uint64 {
	out := map[uint64]uint64{}
	for i := range length {
		for k := range length[i] {
			out[local[i]+k] = remote[i] + k
		}
	}
	return out
}

func expand(rs []run) map[uint64]uint64 {
	var l, r, n []uint64
	for _, x := range rs {
		l, r, n = append(l, x.local), append(r, x.remote), append(n, x.length)
	}
	return bytesOf(l, r, n)
}

// For random blocks the runs move exactly the same bytes, stay inside one region
// each, and no two neighbours of them could have been one.
func TestRunsMeanTheSameBytesAsTheBlocks(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	regions := spans{{1000, 1100}, {1100, 1300}, {2000, 2500}}
	for range 3000 {
		var b Blocks
		local, remote := uint64(1000), uint64(5000)
		for range r.IntN(12) {
			if r.IntN(3) == 0 {
				local = []uint64{1000, 1050, 1090, 1100, 1200, 2000, 2400}[r.IntN(7)]
			}
			if r.IntN(3) == 0 {
				remote = 5000 + uint64(r.IntN(1000))
			}
			n := uint64(r.IntN(20))
			if i, _ := regions.covers(local, local+max(n, 1), -1); i < 0 {
				local = 2000
			}
			if _, ok := regions.covers(local, local+max(n, 1), -1); !ok {
				local = 2000
			}
			b.Local, b.Remote, b.Length = append(b.Local, local), append(b.Remote, remote), append(b.Length, n)
			local, remote = local+n, remote+n
			if local >= 1300 && local < 2000 || local >= 2480 {
				local = 1000
			}
		}
		got := planAll(b, regions, 1+r.IntN(5))
		require.Equal(t, bytesOf(b.Local, b.Remote, b.Length), expand(got))
		for i, x := range got {
			require.GreaterOrEqual(t, x.local, regions[x.region].start)
			require.LessOrEqual(t, x.local+x.length, regions[x.region].end)
			if i > 0 && got[i-1].region == x.region {
				y := got[i-1]
				require.False(t, y.local+y.length == x.local && y.remote+y.length == x.remote, "two runs that are one")
			}
		}
	}
}

// Slices cover a run without gap or overlap, within the limits.
func TestSlicesCoverARun(t *testing.T) {
	remote := spans{{5000, 5000 + maxSlice/2}, {5000 + maxSlice/2, 5000 + 3*maxSlice}}
	x := run{local: 100, remote: 5000, length: 4*maxSlice + 7}
	hint := -1
	var off uint64
	for off < x.length {
		var s slice
		s, hint = x.cut(off, remote, hint)
		require.NotZero(t, s.length)
		require.LessOrEqual(t, s.length, uint64(maxSlice))
		require.Equal(t, x.local+off, s.local)
		require.Equal(t, x.remote+off, s.remote)
		if i := remote.seek(s.remote, -1); i >= 0 {
			require.LessOrEqual(t, s.remote+s.length, remote[i].end)
		}
		off += s.length
	}
	assert.Equal(t, x.length, off)
}

// manyBlocks makes n scattered blocks inside one region.
func manyBlocks(n int) (Blocks, spans) {
	var b Blocks
	r := rand.New(rand.NewPCG(3, 4))
	for range n {
		slot := uint64(r.IntN(1 << 22))
		b.Local = append(b.Local, 1<<30+slot*1152)
		b.Remote = append(b.Remote, 1<<40+uint64(r.IntN(1<<22))*1152)
		b.Length = append(b.Length, 1152)
	}
	return b, spans{{1 << 30, 1<<30 + 1152<<22}}
}

// Planning allocates nothing per block: the chunks of runs are reused.
func TestPlanningAllocatesNothingPerBlock(t *testing.T) {
	const n = 100_000
	blocks, regions := manyBlocks(n)
	remote := spans{{1 << 40, 1<<40 + 1152<<22}}
	var fresh runs
	w := &work{process: &process{}, hint: -1}
	w.process.known.Store(&knowledge{spans: remote})
	dst := make([]slice, 256)
	pass := func() {
		_, err1 := blocks.inside(blocks.Local, localSide, regions)
		_, err2 := blocks.inside(blocks.Remote, remoteSide, remote)
		if err1 != nil || err2 != nil {
			t.Fatal(err1, err2)
		}
		p := planner{blocks: blocks, regions: regions, pinned: allOf(regions), hint: -1}
		for more := true; more; {
			more = p.window(laterWindow, &fresh)
			w.publish(&fresh)
		}
		for w.next(dst, 1<<40) > 0 {
		}
		w.release()
		w.over = false
	}
	pass() // fills the pool
	perPass := testing.AllocsPerRun(5, pass)
	// The collector may empty the pool of chunks in between: allow for one refill
	// in a few passes, far below one allocation per block.
	assert.Less(t, perPass/n, 0.002, "allocations per block")
}

// A caller that changes its arrays during the call cannot make a batch touch
// memory that is not pinned for it.
func TestPlannerNoticesChangedBlocks(t *testing.T) {
	for _, local := range []uint64{0, 1500, 2000} {
		b := Blocks{Local: []uint64{1000, local}, Remote: []uint64{1, 500}, Length: []uint64{10, 10}}
		p := planner{blocks: b, regions: spans{{1000, 1100}, {2000, 2500}}, pinned: []bool{true, false}, hint: -1}
		p.window(10, &runs{})
		assert.True(t, p.changed, "%d", local)
	}
}

func TestBytesSaturate(t *testing.T) {
	assert.Equal(t, ^uint64(0), Blocks{Length: []uint64{1 << 63, 1 << 63, 5}}.bytes())
}

func BenchmarkPlan(b *testing.B) {
	for name, n := range map[string]int{"1k": 1000, "100k": 100_000, "1M": 1_000_000} {
		b.Run(name, func(b *testing.B) {
			blocks, regions := manyBlocks(n)
			var fresh runs
			b.ReportAllocs()
			for b.Loop() {
				blocks.inside(blocks.Local, localSide, regions)
				p := planner{blocks: blocks, regions: regions, pinned: allOf(regions), hint: -1}
				for more := true; more; {
					more = p.window(laterWindow, &fresh)
					fresh.n = 0
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/block")
		})
	}
}
