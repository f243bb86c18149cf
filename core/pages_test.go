package core

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// blockList is the block list that groups mean.
func blockList(groups []PageGroup) (b Blocks) {
	for _, g := range groups {
		for _, l := range g.Layers {
			for i := range g.Local.Len() {
				b.Local = append(b.Local, l.LocalBase+uint64(g.Local.At(i))*l.LocalStride)
				b.Remote = append(b.Remote, l.RemoteBase+uint64(g.Remote.At(i))*l.RemoteStride)
				b.Length = append(b.Length, l.Length)
			}
		}
	}
	return b
}

// movePages submits groups and waits.
func movePages(t testing.TB, s *Segment, op Op, groups ...PageGroup) (Status, error) {
	b, err := s.SubmitPages(op, groups, Options{})
	if err != nil {
		return Status{}, err
	}
	defer b.Close()
	err = b.Wait(deadline)
	return b.Status(), err
}

// listOf makes a page list of 32 or of 64 bits.
func listOf(r *rand.Rand, pages []int) PageList {
	narrow, wide := make([]int32, len(pages)), make([]int64, len(pages))
	for i, p := range pages {
		narrow[i], wide[i] = int32(p), int64(p)
	}
	if r.IntN(2) == 0 {
		return Pages32(narrow)
	}
	return Pages64(wide)
}

// runsOfPages are n different pages below limit, in runs of about length, some of them
// downwards.
func runsOfPages(r *rand.Rand, n, limit, length int) []int {
	used := make([]bool, limit)
	var out []int
	for tries := 0; len(out) < n && tries < 20*n; tries++ {
		step := 1 - 2*r.IntN(2)
		for p, k := r.IntN(limit), 1+r.IntN(length); k > 0 && p >= 0 && p < limit && !used[p] && len(out) < n; p, k = p+step, k-1 {
			used[p] = true
			out = append(out, p)
		}
	}
	return out
}

// board is two engines whose memory is registered in parts, of which some adjoin and
// some do not.
type board struct {
	seg        *Segment
	memA, memB arena
	a, b       spans // registered offsets
}

const boardSize = 96 << 10

func newBoard(t *testing.T) *board {
	p := &board{memA: newArena(t, boardSize), memB: newArena(t, boardSize),
		a: spans{{0, 30_000}, {30_000, 50_001}, {55_000, boardSize}}, b: spans{{0, 45_678}, {45_678, 80_000}, {81_000, boardSize}}}
	a, b := openEngine(t, "127.0.0.1", testConfig(nil)), openEngine(t, "127.0.0.1", testConfig(nil))
	for _, s := range p.a {
		register(t, a, p.memA[s.start:s.end])
	}
	for _, s := range p.b {
		register(t, b, p.memB[s.start:s.end])
	}
	p.seg = openSegment(t, a, b.Name())
	return p
}

// group makes a random group whose destination lies in [from, to): layers side by side or
// page by page, dense or with gaps; the source anywhere, also overlapping.
func (p *board) group(r *rand.Rand, op Op, from, to int) PageGroup {
	layers, length := 1+r.IntN(4), 1+r.IntN(300)
	size := length + r.IntN(2)*r.IntN(200) // of a page in a layer, with its gap
	limit := (to - from) / layers / size
	sourceStride := size
	if r.IntN(3) == 0 {
		sourceStride = r.IntN(size + 1)
	}
	var g PageGroup
	pagewise := r.IntN(2) == 0
	for k := range layers {
		base, stride := from+k*limit*size, size
		if pagewise {
			base, stride = from+k*size, layers*size
		}
		source := r.IntN(boardSize / 2)
		if r.IntN(2) == 0 { // as at the destination
			source, sourceStride = base-from, stride
		}
		l := Layer{LocalBase: p.memA.addr() + uint64(source), LocalStride: uint64(sourceStride),
			RemoteBase: p.memB.addr() + uint64(base), RemoteStride: uint64(stride), Length: uint64(length)}
		if op == Read {
			l.LocalBase, l.RemoteBase = p.memA.addr()+uint64(base), p.memB.addr()+uint64(source)
			l.LocalStride, l.RemoteStride = l.RemoteStride, l.LocalStride
		}
		g.Layers = append(g.Layers, l)
	}
	if r.IntN(10) == 0 {
		g.Layers = append(g.Layers, Layer{LocalBase: 1, Length: 0})
	}
	p.pages(r, op, &g, limit)
	return g
}

// pages picks pages for a group that lie in registered memory in all of its layers.
func (p *board) pages(r *rand.Rand, op Op, g *PageGroup, limit int) {
	source := &g.Local
	if op == Read {
		source = &g.Remote
	}
	var from, to []int
	at := 0
	for _, page := range runsOfPages(r, r.IntN(limit+1), limit, 1+r.IntN(40)) {
		if r.IntN(8) == 0 {
			at = r.IntN(limit)
		}
		at = max(0, min(at+1-r.IntN(3)*r.IntN(2), limit-1)) // mostly the next one
		local, remote := at, page
		if op == Read {
			local, remote = page, at
		}
		if p.holds(g, local, remote) {
			from, to = append(from, at), append(to, page)
		}
	}
	g.Local, g.Remote = listOf(r, to), listOf(r, to)
	*source = listOf(r, from)
}

func (p *board) holds(g *PageGroup, local, remote int) bool {
	for _, l := range g.Layers {
		if l.Length == 0 {
			continue
		}
		from := l.LocalBase - p.memA.addr() + uint64(local)*l.LocalStride
		to := l.RemoteBase - p.memB.addr() + uint64(remote)*l.RemoteStride
		if _, ok := p.a.covers(from, from+l.Length, -1); !ok {
			return false
		}
		if _, ok := p.b.covers(to, to+l.Length, -1); !ok {
			return false
		}
	}
	return true
}

// Random groups move the same bytes as the block list that they mean, and nothing else.
func TestPageGroupsMeanTheirBlockList(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	p := newBoard(t)
	moved := 0
	for round := range 400 {
		op := Op(round % 2)
		src, dst := p.memA, p.memB
		if op == Read {
			src, dst = p.memB, p.memA
		}
		src.fill(uint64(round))
		var groups []PageGroup
		for n, i := r.IntN(4), 0; i < n; i++ {
			groups = append(groups, p.group(r, op, i*boardSize/n, (i+1)*boardSize/n))
		}
		list := blockList(groups)
		want := make(arena, boardSize)
		want.poison(0xA5)
		var bytes uint64
		for i, n := range list.Length {
			from, to := list.Local[i]-src.addr(), list.Remote[i]-dst.addr()
			if op == Read {
				from, to = list.Remote[i]-src.addr(), list.Local[i]-dst.addr()
			}
			if n > 0 {
				copy(want[to:to+n], src[from:from+n])
			}
			bytes += n
		}
		dst.poison(0xA5)
		s, err := movePages(t, p.seg, op, groups...)
		require.NoError(t, err, "round %d", round)
		require.Equal(t, string(want), string(dst), "round %d: %+v", round, groups)
		require.EqualValues(t, len(list.Length), s.Blocks)
		require.Equal(t, bytes, s.Bytes)
		require.LessOrEqual(t, s.Runs, 2*s.Blocks, "a block may be cut where two memories border")
		dst.poison(0xA5)
		require.NoError(t, move(t, p.seg, op, list))
		require.Equal(t, string(want), string(dst), "round %d: the block list", round)
		moved += len(list.Length)
	}
	t.Logf("%d blocks", moved)
	assert.Greater(t, moved, 10_000)
}

// ladder is a group of n pages that are the same on both sides, and layers of dense
// pages one after the other.
func ladder(p *pair, n, layers, size int) PageGroup {
	pages := make([]int32, n)
	var g PageGroup
	for i := range pages {
		pages[i] = int32(i)
	}
	for k := range layers {
		at := uint64(k * n * size)
		g.Layers = append(g.Layers, Layer{p.memA.addr() + at, p.memB.addr() + at, uint64(size), uint64(size), uint64(size)})
	}
	g.Local, g.Remote = Pages32(pages), Pages32(pages)
	return g
}

// Runs of pages are runs of bytes where pages lie side by side, in both directions; and
// neighbouring layers that share pages are one.
func TestRunsOfPageGroups(t *testing.T) {
	p := newPair(t, 1<<20, nil)
	up := ladder(p, 64, 4, 1024)
	down := up
	down.Local, down.Remote = Pages64([]int64{9, 8, 7, 3, 4, 4, 4}), Pages32([]int32{5, 4, 3, 20, 21, 22, 22})
	slices := ladder(p, 64, 4, 1024)
	pagewise := ladder(p, 64, 4, 1024)
	for k := range 4 {
		slices.Layers[k].RemoteStride, slices.Layers[k].Length = 2048, 512
		l := &pagewise.Layers[k]
		l.LocalBase, l.RemoteBase = p.memA.addr()+uint64(k)*1024, p.memB.addr()+uint64(k)*1024
		l.LocalStride, l.RemoteStride = 4096, 4096
	}
	tests := map[string]struct {
		group        PageGroup
		runs, blocks uint64
	}{
		"upwards":      {up, 4, 256},
		"downwards":    {down, 4 * 4, 28}, // 9-7, 3-4, 4, 4
		"head slices":  {slices, 256, 256},
		"page by page": {pagewise, 1, 256},
		"no layers":    {PageGroup{Local: up.Local, Remote: up.Remote}, 0, 0},
		"no pages":     {PageGroup{Layers: up.Layers}, 0, 0},
		"length 0":     {PageGroup{Local: up.Local, Remote: up.Remote, Layers: []Layer{{LocalStride: 1}}}, 0, 64},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			s, err := movePages(t, p.seg, Write, test.group)
			require.NoError(t, err)
			assert.Equal(t, []uint64{test.runs, test.blocks}, []uint64{s.Runs, s.Blocks})
			assert.Equal(t, s.Bytes, s.BytesDone)
		})
	}
	s, err := movePages(t, p.seg, Read)
	require.NoError(t, err, "no groups")
	assert.Equal(t, Done, s.State)
	assert.EqualValues(t, 0, p.a.Stats().BatchesOpen)
}

func TestSubmitPagesRefusesBadGroups(t *testing.T) {
	p := newPair(t, 64<<10, nil)
	good := ladder(p, 16, 3, 1024)
	layer := func(i int, change func(*Layer)) PageGroup {
		g := ladder(p, 16, 3, 1024)
		change(&g.Layers[i])
		return g
	}
	pages := func(local, remote []int64) PageGroup {
		return PageGroup{Local: Pages64(local), Remote: Pages64(remote), Layers: good.Layers}
	}
	ro := newArena(t, 4096)
	tests := map[string]struct {
		op    Op
		group PageGroup
		want  error
		text  string
	}{
		"op":                 {9, good, ErrInvalid, "op is 9"},
		"lists":              {Write, pages([]int64{1, 2}, []int64{1}), ErrInvalid, "group 1: the page lists differ in their number of elements: 2 local, 1 remote"},
		"local negative":     {Write, pages([]int64{1, 2, -3}, []int64{1, 2, 3}), ErrInvalid, "group 1: local page 2 of the list is -3"},
		"remote negative":    {Write, pages([]int64{1, 2, 3}, []int64{1, -2, 3}), ErrInvalid, "group 1: remote page 1 of the list is -2"},
		"from -1 upwards":    {Write, pages([]int64{-1, 0, 1, 9}, []int64{4, 5, 6, 7}), ErrInvalid, "local page 0 of the list is -1"},
		"down to -1":         {Write, pages([]int64{8, 1, 2, 3}, []int64{9, 1, 0, -1}), ErrInvalid, "remote page 3 of the list is -1"},
		"lowest":             {Write, pages([]int64{-1 << 63}, []int64{0}), ErrInvalid, "is -9223372036854775808"},
		"past the end":       {Write, pages([]int64{0, 1, 46, 47, 48}, []int64{0, 1, 2, 3, 4}), ErrAddress, "group 1, layer 1, page 4: local"},
		"past, downwards":    {Write, pages([]int64{1, 40, 39, 38, 37}, []int64{7, 65, 64, 63, 62}), ErrAddress, "group 1, layer 0, page 1: remote"},
		"highest":            {Write, pages([]int64{0}, []int64{1<<63 - 1}), ErrInvalid, "group 1, layer 0, page 0: remote range"},
		"wraps in a run":     {Write, layer(2, func(l *Layer) { l.LocalBase = 1<<64 - 4000 }), ErrAddress, "group 1, layer 2, page 0: local"},
		"base 0":             {Read, layer(1, func(l *Layer) { l.RemoteBase = 0 }), ErrAddress, "group 1, layer 1, page 0: remote"},
		"stride":             {Write, layer(1, func(l *Layer) { l.LocalStride = 1 << 60 }), ErrAddress, "group 1, layer 1, page 1: local"},
		"huge stride":        {Write, layer(1, func(l *Layer) { l.RemoteStride = 1<<64 - 1 }), ErrInvalid, "group 1, layer 1, page 1: remote"},
		"length":             {Write, layer(0, func(l *Layer) { l.Length, l.RemoteStride = 1<<61, 1<<62 }), ErrInvalid, "length: the blocks have more than"},
		"overlaps, write":    {Write, layer(2, func(l *Layer) { l.RemoteStride = 1023 }), ErrInvalid, "group 1, layer 2: length 1024 is more than the remote stride 1023"},
		"overlaps, read":     {Read, layer(2, func(l *Layer) { l.LocalStride = 0 }), ErrInvalid, "group 1, layer 2: length 1024 is more than the local stride 0"},
		"read-only memory":   {Read, PageGroup{Pages64([]int64{0, 1}), Pages64([]int64{0, 1}), []Layer{{ro.addr(), p.memB.addr(), 64, 64, 64}}}, ErrInvalid, "group 1, layer 0, page 0: local memory"},
		"one page of length": {Write, PageGroup{Pages64([]int64{1}), Pages64([]int64{1}), []Layer{{p.memA.addr(), p.memB.addr(), 0, 64 << 10, 1}}}, ErrAddress, "group 1, layer 0, page 0: remote"},
	}
	require.NoError(t, unix.Mprotect(ro, unix.PROT_READ))
	register(t, p.a, ro)
	p.memA.fill(3)
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			p.memB.poison(9)
			_, err := p.seg.SubmitPages(test.op, []PageGroup{good, test.group}, Options{})
			require.ErrorIs(t, err, test.want)
			assert.Contains(t, err.Error(), test.text)
			assert.True(t, p.memB.all(9), "nothing moved")
		})
	}
	assert.EqualValues(t, 0, p.a.Stats().BatchesOpen)
	require.NoError(t, p.regA.Deregister(), "nothing is pinned")
}

// Overlaps that are allowed: of source pages, and of one page with what would be the next.
func TestPagesMayOverlapAtTheSource(t *testing.T) {
	p := newPair(t, 8192, nil)
	p.memA.fill(4)
	l := Layer{p.memA.addr(), p.memB.addr(), 10, 100, 100}
	_, err := movePages(t, p.seg, Write, PageGroup{Pages32([]int32{3, 3, 4}), Pages32([]int32{0, 7, 2}), []Layer{l}})
	require.NoError(t, err)
	for from, to := range map[int][]int{30: {0, 700}, 40: {200}} {
		for _, at := range to {
			assert.Equal(t, p.memA[from:from+100], p.memB[at:at+100])
		}
	}
	l.RemoteStride = 7
	_, err = movePages(t, p.seg, Write, PageGroup{Pages32([]int32{0}), Pages32([]int32{3}), []Layer{l}})
	require.NoError(t, err)
	assert.Equal(t, p.memA[:100], p.memB[21:121])
}

// Where the same page is written twice, the result is one of the two, byte by byte.
func TestAPageWrittenTwice(t *testing.T) {
	p := newPair(t, 8192, nil)
	p.memA.fill(4)
	l := Layer{p.memA.addr(), p.memB.addr(), 64, 64, 64}
	_, err := movePages(t, p.seg, Write, PageGroup{Pages32([]int32{1, 2, 3}), Pages32([]int32{5, 6, 5}), []Layer{l}})
	require.NoError(t, err)
	for i := range 64 {
		assert.Contains(t, []byte{p.memA[64+i], p.memA[192+i]}, p.memB[5*64+i])
	}
	assert.Equal(t, p.memA[128:192], p.memB[6*64:7*64])
	// Up and down again is no run.
	p.memB.poison(9)
	_, err = movePages(t, p.seg, Write, PageGroup{Pages32([]int32{5, 6, 5, 4, 5}), Pages64([]int64{5, 6, 5, 4, 5}), []Layer{l}})
	require.NoError(t, err)
	assert.Equal(t, p.memA[4*64:7*64], p.memB[4*64:7*64])
	assert.True(t, p.memB[:4*64].all(9) && p.memB[7*64:].all(9), "the pages around them")
}

// A list of more pages than are checked together is one batch, and every page of it
// arrives; a bad one at its end stops the rest.
func TestLongPageLists(t *testing.T) {
	const n = 2*checkedTogether + 100
	p := newPair(t, 3*n*32, nil)
	p.memA.fill(8)
	r := rand.New(rand.NewPCG(1, 9))
	local, remote := make([]int32, n), make([]int64, n)
	for i, j := range r.Perm(n) {
		local[i], remote[i] = int32(j), int64(n-1-i)
	}
	g := ladder(p, n, 3, 32)
	g.Local, g.Remote = Pages32(local), Pages64(remote)
	s, err := movePages(t, p.seg, Write, ladder(p, 1, 1, 32), g)
	require.NoError(t, err)
	assert.EqualValues(t, 3*n+1, s.Blocks)
	for k := range 3 {
		for i := range n {
			from, to := (k*n+int(local[i]))*32, (k*n+int(remote[i]))*32
			require.Equal(t, p.memA[from:from+32], p.memB[to:to+32], "layer %d page %d", k, i)
		}
	}
	local[n-1] = 3 * n
	_, err = p.seg.SubmitPages(Write, []PageGroup{g}, Options{})
	require.ErrorIs(t, err, ErrAddress)
	assert.Contains(t, err.Error(), fmt.Sprintf("group 0, layer 0, page %d: local", n-1))
	remote[n-1] = -7
	_, err = p.seg.SubmitPages(Write, []PageGroup{g}, Options{})
	require.ErrorIs(t, err, ErrInvalid)
	assert.Contains(t, err.Error(), fmt.Sprintf("remote page %d of the list is -7", n-1))
	assert.EqualValues(t, 0, p.a.Stats().BatchesOpen)
	require.NoError(t, p.regA.Deregister(), "nothing is pinned")
}

// Pages that the peer registers after the segment was opened are found by asking it.
func TestPagesOfLateRegistration(t *testing.T) {
	p := newPair(t, 8192, nil)
	late := newArena(t, 8192)
	p.memA.fill(2)
	g := ladder(p, 8, 1, 1024)
	g.Layers[0].RemoteBase = late.addr()
	_, err := movePages(t, p.seg, Write, g)
	require.ErrorIs(t, err, ErrAddress)
	assert.Contains(t, err.Error(), "the peer must register it first")
	register(t, p.b, late)
	_, err = movePages(t, p.seg, Write, g)
	require.NoError(t, err)
	assert.Equal(t, string(p.memA), string(late))
}
