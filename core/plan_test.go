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

// plannerOf makes a planner over regions that are all pinned, and where its runs go.
func plannerOf(regions spans) (*planner, *work) {
	w := &work{}
	w.begin(nil, &process{}, &memories{spans: regions})
	w.fill()
	return &planner{regions: regions, pinned: allOf(regions), out: w, hint: -1}, w
}

// planAll plans blocks in windows of a size.
func planAll(blocks Blocks, regions spans, window int) []run {
	p, w := plannerOf(regions)
	for from := 0; from < len(blocks.Length); from += window {
		p.window(blocks.part(from, min(from+window, len(blocks.Length))))
	}
	p.flush()
	out := make([]run, p.n)
	for i := range out {
		out[i] = w.list[i/slabRuns][i%slabRuns]
	}
	w.filled()
	w.release()
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

// checkerOf makes a checker of blocks between two sets of ranges.
func checkerOf(local, remote spans) *checker {
	state := &memories{spans: local}
	for range local {
		state.list = append(state.list, &Memory{writable: true, drained: make(chan struct{})})
	}
	c := &checker{}
	c.begin(Write, state)
	c.learn(remote)
	return c
}

// intakePass does all that is done for blocks before a transport has them: it
// checks, plans and hands slices out.
func intakePass(blocks Blocks, regions, remote spans) func() error {
	p, w := plannerOf(regions)
	w.process.known.Store(&knowledge{spans: remote})
	dst := make([]slice, 256)
	c := checkerOf(regions, remote)
	return func() error {
		w.over = false
		w.fill()
		p.n, p.planned = 0, 0
		for from := 0; from < len(blocks.Length); from += laterWindow {
			part := blocks.part(from, min(from+laterWindow, len(blocks.Length)))
			if _, err := c.pass(part); err != nil {
				return err
			}
			p.window(part)
			w.publish(p.n, 0)
			for w.next(dst, 1<<40) > 0 {
			}
		}
		p.flush()
		w.filled()
		w.release()
		return nil
	}
}

// Nothing is allocated per block: slabs are reused.
func TestPlanningAllocatesNothingPerBlock(t *testing.T) {
	const n = 100_000
	blocks, regions := manyBlocks(n)
	pass := intakePass(blocks, regions, spans{{1 << 40, 1<<40 + 1152<<22}})
	require.NoError(t, pass()) // fills the pool
	perPass := testing.AllocsPerRun(5, func() { pass() })
	// The collector may empty the pool of slabs in between: allow for one refill
	// in a few passes, far below one allocation per block.
	assert.Less(t, perPass/n, 0.002, "allocations per block")
}

// A caller that changes its arrays during the call cannot make a batch touch
// memory that is not pinned for it.
func TestPlannerNoticesChangedBlocks(t *testing.T) {
	for _, local := range []uint64{0, 1500, 2000} {
		b := Blocks{Local: []uint64{1000, local}, Remote: []uint64{1, 500}, Length: []uint64{10, 10}}
		p, _ := plannerOf(spans{{1000, 1100}, {2000, 2500}})
		p.pinned[1] = false
		p.window(b)
		assert.True(t, p.changed, "%d", local)
	}
}

// Planning in place, while lanes take and slabs go back, gives every run once and
// leaves nothing behind when the batch ends in the middle.
func TestSlabsGoBackWhileLanesTake(t *testing.T) {
	const n = 3*slabRuns + 17
	blocks, regions := manyBlocks(n)
	p, w := plannerOf(regions)
	w.process.known.Store(&knowledge{})
	var bytes uint64
	dst := make([]slice, 100)
	for from := 0; from < n; from += 500 {
		p.window(blocks.part(from, min(from+500, n)))
		w.publish(p.n, p.planned-bytes-w.left.Load())
		for k := w.next(dst, 1<<40); k > 0; k = w.next(dst, 1<<40) {
			for _, s := range dst[:k] {
				bytes += s.length
			}
		}
	}
	for i := range w.at / slabRuns {
		assert.Nil(t, w.list[i], "slab %d", i)
	}
	assert.Equal(t, p.planned, bytes)
	w.release()
	assert.NotEmpty(t, w.list, "the planner may still write")
	assert.False(t, w.next(dst, 1<<40) > 0)
	w.filled()
	assert.Empty(t, w.list)
	assert.False(t, w.fill(), "a batch that has ended takes no more")
}
