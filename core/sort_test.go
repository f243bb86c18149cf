package core

import (
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// runsOf plans blocks as Submit does.
func runsOf(b Blocks) (runs []run, p *planner) {
	p, w := plannerOf(benchRegions)
	planWindows(p, b)
	for i := range p.n {
		runs = append(runs, w.list[i/slabRuns][i%slabRuns])
	}
	w.filled()
	w.release()
	return runs, p
}

// Lists that run backwards merge as those do that run forwards.
func TestBackwardsListsMerge(t *testing.T) {
	const n = 3 * laterWindow
	runs, _ := runsOf(reversedBlocks(n))
	require.Len(t, runs, 1)
	assert.Equal(t, run{local: benchLocal, remote: benchRemote, length: n * benchPage}, runs[0])
	// On one side only they do not.
	b := contiguousBlocks(100)
	copy(b.Remote, reversedBlocks(100).Remote)
	runs, _ = runsOf(b)
	assert.Len(t, runs, 100)
	// Back and forth, a run grows at both ends.
	b = Blocks{}
	for _, at := range []int{5, 6, 4, 7, 3, 9} {
		b.add(at, at, 1)
	}
	runs, _ = runsOf(b)
	require.Len(t, runs, 2)
	assert.EqualValues(t, 5*benchPage, runs[0].length)
}

// Windows are sorted when that merges their blocks, and left alone when it does not.
func TestWindowsAreSortedWhenItPays(t *testing.T) {
	const n = 16 * laterWindow
	offBy := func(b Blocks) Blocks { // the planner's first window is shorter than the others
		return joinBlocks(mergedBlocks(firstWindow), b)
	}
	tests := map[string]struct {
		blocks   Blocks
		from, to int // runs
	}{
		"alike in windows":    {offBy(shuffledAlike(contiguousBlocks(n), laterWindow)), firstWindow, firstWindow + 1},
		"alike in small ones": {offBy(shuffledAlike(contiguousBlocks(n), 500)), firstWindow, n / 10},
		"alike as a whole":    {shuffledAlike(contiguousBlocks(n), n), n * 9 / 10, n},
		"one call of 4096":    {shuffledAlike(contiguousBlocks(laterWindow), laterWindow), 1, 2 * firstWindow},
		"each by itself":      {fifoBlocks(n), n * 9 / 10, n},
		"every second page":   {shuffledAlike(everySecond(n), laterWindow), n, n},
		"merged":              {mergedBlocks(n), n, n},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			runs, _ := runsOf(test.blocks)
			assert.GreaterOrEqual(t, len(runs), test.from)
			assert.LessOrEqual(t, len(runs), test.to)
		})
	}
}

func joinBlocks(a, b Blocks) Blocks {
	return Blocks{append(a.Local, b.Local...), append(a.Remote, b.Remote...), append(a.Length, b.Length...)}
}

// Sorted or not, the runs mean the same bytes: blocks of several lengths, some of no
// bytes, sources that are named twice, two distances.
func TestSortedWindowsMeanTheSameBytes(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 1))
	sorted := 0
	for range 60 {
		var b Blocks
		at := 0
		for range 300 + r.IntN(3000) {
			pages := r.IntN(4)
			b.add(at, at+r.IntN(2)*r.IntN(2)*r.IntN(2)*5000, pages)
			if at += pages; r.IntN(100) == 0 {
				at += r.IntN(3) - 1
			}
		}
		b = shuffledAlike(b, 1+r.IntN(laterWindow))
		runs, p := runsOf(b)
		type page struct{ local, remote uint64 }
		want, got := map[page]bool{}, map[page]bool{}
		for i, n := range b.Length {
			for k := uint64(0); k < n; k += benchPage {
				want[page{b.Local[i] + k, b.Remote[i] + k}] = true
			}
		}
		var bytes uint64
		for _, x := range runs {
			bytes += x.length
			for k := uint64(0); k < x.length; k += benchPage {
				got[page{x.local + k, x.remote + k}] = true
			}
		}
		require.Equal(t, want, got)
		require.Equal(t, p.planned, bytes)
		if p.sorting.wait == 0 && p.sorting.calm == 0 {
			sorted++
		}
	}
	assert.Greater(t, sorted, 5, "were sorted")
}

// Blocks that lie too far apart for one key, and those that are all at one place, stay as
// they are.
func TestWhatCannotBeSorted(t *testing.T) {
	s := new(sorter)
	for _, far := range []uint64{1<<62 + 1, 0} {
		_, ok := s.sort(Blocks{Local: []uint64{3, 3 + far, 3}, Remote: make([]uint64, 3), Length: make([]uint64, 3)})
		assert.False(t, ok)
	}
	b, ok := s.sort(Blocks{Local: []uint64{1 << 50, 0, 1}, Remote: []uint64{1, 2, 3}, Length: []uint64{4, 5, 6}})
	require.True(t, ok)
	assert.Equal(t, Blocks{Local: []uint64{0, 1, 1 << 50}, Remote: []uint64{2, 3, 1}, Length: []uint64{5, 6, 4}}, b)
}

// Where destinations overlap each byte is that of one of the blocks, sorted or not.
func TestOverlappingDestinations(t *testing.T) {
	const n, size = 2000, 64
	p := newPair(t, n*size, nil)
	for i := range p.memA {
		p.memA[i] = byte(i / size % 250)
	}
	order := shuffledAlike(contiguousBlocks(n), n)
	var b Blocks
	for i := range n {
		at := (order.Local[i] - benchLocal) / benchPage
		b.Local, b.Length = append(b.Local, p.memA.addr()+at*size), append(b.Length, size)
		b.Remote = append(b.Remote, p.memB.addr()+at*size)
	}
	for i := 0; i < n; i += 10 { // every tenth block goes half into its neighbour's place
		b.Remote[i] = min(b.Remote[i]+size/2, p.memB.addr()+(n-1)*size)
	}
	p.memB.poison(255)
	require.NoError(t, move(t, p.seg, Write, b))
	writers := make([][]byte, len(p.memB))
	for i, to := range b.Remote {
		for k := range uint64(size) {
			at := to - p.memB.addr() + k
			writers[at] = append(writers[at], p.memA[b.Local[i]-p.memA.addr()+k])
		}
	}
	for at, some := range writers {
		if len(some) == 0 {
			some = []byte{255}
		}
		require.Contains(t, some, p.memB[at], "byte %d", at)
	}
}

// How runs join is what their addresses say, in block lists and in page groups.
func TestRunsTellHowTheyJoin(t *testing.T) {
	check := func(runs []run, counted *joined) {
		var want joined
		for i := 1; i < len(runs); i++ {
			x, y := runs[i-1], runs[i]
			how := joining(y.local-x.local-x.length, y.remote-x.remote-x.length)
			require.Equal(t, how, y.joins, "run %d", i)
			if how != 0 {
				want[how]++
			}
		}
		assert.Equal(t, want, *counted)
	}
	for _, in := range planInputs {
		runs, p := runsOf(in.make(10_000))
		check(runs, &p.joined)
	}
	var b Blocks // a run that joins, until it grows at its begin
	b.add(0, 0, 1)
	b.add(1, 10, 1)
	b.add(0, 9, 1)
	b.add(2, 20, 1)
	runs, p := runsOf(b)
	check(runs, &p.joined)
	require.Len(t, runs, 3)
	regions := spans{{benchLocal, benchLocal + 5*benchPage + 7}, {benchLocal + 5*benchPage + 7, benchLocal + 1<<30}}
	for _, strides := range [][2]uint64{{benchPage, benchPage}, {benchPage, 2 * benchPage}, {2 * benchPage, benchPage}} {
		g := PageGroup{Local: Pages32([]int32{9, 8, 1, 2, 3, 4, 5}), Remote: Pages32([]int32{4, 5, 7, 8, 1, 2, 3}),
			Layers: []Layer{{benchLocal, benchRemote, 100, 100, 90}, {benchLocal, benchRemote, strides[0], strides[1], benchPage}}}
		var whole []run
		for _, window := range []int{100, 1, 2, 3} { // which fill may stop at any run
			piece, err := newPiece(&g, 0, 0, g.Local.Len())
			require.NoError(t, err)
			s := pageSupply{regions: regions, pieces: []pagePiece{piece}}
			var all []run
			for dst := make([]run, window); len(s.pieces) > 0; {
				all = append(all, dst[:s.fill(dst)]...)
			}
			check(all, &s.joined)
			if whole == nil {
				whole = all
			}
			require.Equal(t, whole, all)
		}
	}
}

// A slice of a run that is not the first continues it on both sides.
func TestSlicesTellHowTheyJoin(t *testing.T) {
	x := run{local: 100, remote: 5000, length: 2 * maxSlice, joins: joinsRemote}
	first, _ := x.cut(0, nil, -1)
	second, _ := x.cut(first.length, nil, -1)
	assert.Equal(t, []joins{joinsRemote, joinsBoth}, []joins{first.joins, second.joins})
}

// A batch tells how many runs join on one side only.
func TestStatusTellsHowRunsJoin(t *testing.T) {
	p := newPair(t, 1<<20, nil)
	pages := []int{1, 2, 3, 4, 9, 10}
	spread := []int{20, 22, 24, 26, 29, 30}
	for _, test := range []struct {
		from, to      []int
		local, remote uint64
	}{{pages, spread, 3, 0}, {spread, pages, 0, 3}, {pages, pages, 0, 0}} {
		b, err := p.seg.Submit(Write, scatter(p.memA, p.memB, 512, test.from, test.to), Options{})
		require.NoError(t, err)
		require.NoError(t, b.Wait(deadline))
		assert.Equal(t, []uint64{test.local, test.remote}, []uint64{b.Status().JoinedLocal, b.Status().JoinedRemote})
		b.Close()
	}
	g := ladder(p, 10, 2, 512)
	for i := range g.Layers { // head slices at the peer
		g.Layers[i].RemoteStride, g.Layers[i].RemoteBase = 1024, p.memB.addr()+uint64(i)*512
	}
	s, err := movePages(t, p.seg, Write, g)
	require.NoError(t, err)
	assert.EqualValues(t, []uint64{20, 19, 0}, []uint64{s.Runs, s.JoinedLocal, s.JoinedRemote})
}
