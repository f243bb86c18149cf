package pagealloc

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"
)

// other is the request that holds what the tests do not talk about.
const other = 999

// holes makes a pool of the pages 0 to 99 in which only free is free.
func holes(t *testing.T, free ...Run) *Pool {
	t.Helper()
	p, err := New(0, 100)
	require.NoError(t, err)
	_, err = p.Alloc(other, 100, 0)
	require.NoError(t, err)
	require.NoError(t, p.Free(other, free))
	return p
}

func alloc(t testing.TB, p Allocator, request, count, room uint64) []Run {
	t.Helper()
	runs, err := p.Alloc(request, count, room)
	require.NoError(t, err)
	return runs
}

func grow(t testing.TB, p Allocator, request, count uint64) []Run {
	t.Helper()
	runs, err := p.Grow(request, count)
	require.NoError(t, err)
	return runs
}

func TestAllocChoosesTheBestFit(t *testing.T) {
	free := []Run{{0, 20}, {30, 5}, {40, 8}, {60, 5}, {70, 30}}
	tests := map[string]struct {
		count, room uint64
		want        []Run
	}{
		"exact, lowest of equals":          {5, 0, []Run{{30, 5}}},
		"shortest that holds it":           {6, 0, []Run{{40, 6}}},
		"small goes to a short run":        {1, 0, []Run{{30, 1}}},
		"exact in the longest":             {30, 0, []Run{{70, 30}}},
		"with its room":                    {5, 4, []Run{{0, 5}}},
		"with its room, exact":             {1, 7, []Run{{40, 1}}},
		"as much room as there is":         {8, 50, []Run{{70, 8}}},
		"no room is better than two runs":  {30, 1, []Run{{70, 30}}},
		"room too large for numbers":       {5, math.MaxUint64, []Run{{70, 5}}},
		"two runs, the longest first":      {31, 0, []Run{{70, 30}, {30, 1}}},
		"remainder is a best fit too":      {37, 0, []Run{{70, 30}, {40, 7}}},
		"room goes with the remainder":     {37, 3, []Run{{70, 30}, {0, 7}}},
		"three runs":                       {57, 0, []Run{{70, 30}, {0, 20}, {40, 7}}},
		"all, lowest first on the tie":     {68, 0, []Run{{70, 30}, {0, 20}, {40, 8}, {30, 5}, {60, 5}}},
		"all, and room that cannot be had": {68, 9, []Run{{70, 30}, {0, 20}, {40, 8}, {30, 5}, {60, 5}}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			p := holes(t, free...)
			require.Equal(t, test.want, alloc(t, p, 1, test.count, test.room))
			require.Equal(t, 68-test.count, p.Stats().FreePages)
			runs, err := p.Runs([]Run{{7, 7}}, 1)
			require.NoError(t, err)
			require.Equal(t, append([]Run{{7, 7}}, test.want...), runs)

			pages := make([]uint64, test.count)
			require.NoError(t, holes(t, free...).AllocPages(1, test.room, pages))
			require.Equal(t, Pages(test.want), pages)
		})
	}
}

func TestGrowthStaysInPlace(t *testing.T) {
	p, err := New(0, 1000)
	require.NoError(t, err)
	require.Equal(t, []Run{{0, 100}}, alloc(t, p, 1, 100, 10))
	// Behind the room of 1, so that both can grow.
	require.Equal(t, []Run{{110, 100}}, alloc(t, p, 2, 100, 50))
	require.Equal(t, uint64(60), p.Stats().ReservedPages)
	require.Equal(t, uint64(800), p.Stats().FreePages)

	for page := uint64(100); page < 110; page++ {
		require.Equal(t, []Run{{page, 1}}, grow(t, p, 1, 1))
	}
	require.Equal(t, uint64(50), p.Stats().ReservedPages)
	// Its room is used up: the next page has room again, half of what it has grown by.
	require.Equal(t, []Run{{260, 1}}, grow(t, p, 1, 1))
	require.Equal(t, uint64(55), p.Stats().ReservedPages)
	require.Equal(t, []Run{{261, 4}}, grow(t, p, 1, 4))
	runs, err := p.Runs(nil, 1)
	require.NoError(t, err)
	require.Equal(t, []Run{{0, 110}, {260, 5}}, runs)

	// Free pages behind a request are as good as room.
	require.Equal(t, []Run{{210, 50}}, grow(t, p, 2, 50))
	require.Equal(t, []Run{{265, 700}}, grow(t, p, 1, 700))
	require.Equal(t, []Run{{965, 35}}, grow(t, p, 2, 35))
	_, err = p.Grow(1, 1)
	require.ErrorIs(t, err, ErrExhausted)
	require.ErrorContains(t, err, "growth by 1 pages of request 1: 0 are free")
}

func TestRoomIsGivenBackBeforeARunIsSplit(t *testing.T) {
	p, err := New(0, 100)
	require.NoError(t, err)
	alloc(t, p, 1, 10, 30) // 0..9, room 10..39
	alloc(t, p, 2, 10, 40) // 40..49, room 50..89
	require.Equal(t, Stats{
		Pages: 100, FreePages: 80, ReservedPages: 70, FreeRuns: 2, LongestRun: 50, Requests: 2,
		AllocatedRuns: 2, Histogram: [64]uint64{4: 1, 5: 1},
	}, p.Stats())
	// Nobody has asked for the last ten.
	require.Equal(t, []Run{{90, 4}}, alloc(t, p, 3, 4, 0))
	// The shorter of the two gaps with 12 pages and 8 of room, in which 1 keeps as much.
	require.Equal(t, []Run{{20, 12}}, alloc(t, p, 4, 12, 8))
	require.Equal(t, uint64(10+8+40), p.Stats().ReservedPages)
	// Only 2 has 35 left; it keeps what is in front of them.
	require.Equal(t, []Run{{55, 35}}, alloc(t, p, 5, 35, 0))
	require.Equal(t, uint64(10+8+5), p.Stats().ReservedPages)
	// Nobody has 17: all that 1 has, and then the shortest with seven.
	require.Equal(t, []Run{{10, 10}, {33, 7}}, alloc(t, p, 6, 17, 0))
	require.Equal(t, []Run{{50, 3}}, grow(t, p, 2, 3))
	require.Equal(t, []Run{{94, 6}}, alloc(t, p, 7, 6, 0))
	require.Equal(t, uint64(3), p.Stats().FreePages)
	alloc(t, p, 8, 3, 0)
	require.Zero(t, p.Stats().ReservedPages)
}

func TestReserve(t *testing.T) {
	p, err := New(0, 100)
	require.NoError(t, err)
	alloc(t, p, 1, 10, 0)
	set := func(request, room, want uint64) {
		t.Helper()
		got, err := p.Reserve(request, room)
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	set(1, 20, 20)
	require.Equal(t, []Run{{30, 10}}, alloc(t, p, 2, 10, 0))
	set(1, 30, 20) // no more is free there
	set(1, 5, 5)
	require.Equal(t, []Run{{15, 15}}, alloc(t, p, 3, 15, 0))
	set(1, 0, 0)
	set(3, 10, 0)
	require.Equal(t, []Run{{10, 5}}, alloc(t, p, 4, 5, 0))
	set(2, math.MaxUint64, 60)
	_, err = p.Reserve(77, 1)
	require.ErrorIs(t, err, ErrUnknown)
	require.ErrorContains(t, err, "room of request 77")
}

func TestFreedPagesAtTheEndBecomeRoom(t *testing.T) {
	p, err := New(0, 100)
	require.NoError(t, err)
	alloc(t, p, 1, 10, 10)
	require.Equal(t, []Run{{10, 5}}, grow(t, p, 1, 5))
	require.NoError(t, p.FreePages(1, []uint64{14, 12, 13})) // three tokens were guessed wrong
	require.Equal(t, uint64(8), p.Stats().ReservedPages)
	require.Equal(t, []Run{{20, 5}}, alloc(t, p, 2, 5, 0))
	require.Equal(t, []Run{{12, 2}}, grow(t, p, 1, 2))

	// Without room they are anybody's.
	require.NoError(t, p.Free(2, []Run{{24, 1}}))
	require.Equal(t, uint64(6), p.Stats().ReservedPages)
	require.Equal(t, []Run{{24, 76}}, alloc(t, p, 3, 76, 0))
}

func TestFreeOfPart(t *testing.T) {
	p := holes(t, Run{10, 40})
	require.Equal(t, []Run{{10, 30}}, alloc(t, p, 1, 30, 10))
	require.NoError(t, p.Free(1, []Run{{20, 10}}))
	require.NoError(t, p.Free(1, []Run{{11, 1}, {10, 1}}))
	runs, err := p.Runs(nil, 1)
	require.NoError(t, err)
	require.Equal(t, []Run{{12, 8}, {30, 10}}, runs)
	require.Equal(t, []Run{{40, 1}}, grow(t, p, 1, 1), "the room behind the last page is kept")
	require.Equal(t, []Run{{20, 10}}, alloc(t, p, 2, 10, 0))

	// Several requests at once, the last pages of both.
	require.NoError(t, p.Free(Anyone, []Run{{12, 29}}))
	require.Equal(t, Stats{Pages: 100, FreePages: 40, FreeRuns: 1, LongestRun: 40, Requests: 1, AllocatedRuns: 2,
		Histogram: [64]uint64{5: 1}}, p.Stats())
	for _, gone := range []uint64{1, 2} {
		_, err = p.Runs(nil, gone)
		require.ErrorIs(t, err, ErrUnknown)
		_, err = p.Release(gone)
		require.ErrorIs(t, err, ErrUnknown)
	}
	alloc(t, p, 1, 40, 0)
}

func TestGrowBatch(t *testing.T) {
	for name, p := range kinds(t, 50, 100) {
		t.Run(name, func(t *testing.T) {
			for request := uint64(1); request <= 3; request++ {
				alloc(t, p, request, 10, 10)
			}
			pages := make([]uint64, 9)
			require.NoError(t, p.GrowBatch([]uint64{3, 1, 2}, nil, pages[:3]))
			require.NoError(t, p.GrowBatch([]uint64{1, 2, 3, 1}, []uint64{2, 0, 3, 1}, pages[3:]))
			require.NoError(t, p.GrowBatch(nil, nil, nil))
			got := map[uint64][]uint64{3: {pages[0]}, 1: {pages[1]}, 2: {pages[2]}}
			got[1] = append(got[1], pages[3], pages[4], pages[8])
			got[3] = append(got[3], pages[5:8]...)
			for request, want := range got {
				runs, err := p.Runs(nil, request)
				require.NoError(t, err)
				require.Equal(t, want, Pages(runs)[10:])
			}
			if name == "runs" {
				require.Equal(t, []uint64{100, 60, 80, 61, 62, 101, 102, 103, 63}, pages)
			}

			before := p.Stats()
			refused := map[string]struct {
				requests, counts, pages []uint64
				is                      error
				text                    string
			}{
				"unknown":         {[]uint64{1, 77}, nil, pages, ErrUnknown, "growth by 1 pages of request 77"},
				"more than free":  {[]uint64{1, 2}, []uint64{50, 12}, make([]uint64, 62), ErrExhausted, "growth by 12 pages of request 2: 11 are free"},
				"sum too large":   {[]uint64{1, 2}, []uint64{61, math.MaxUint64}, pages, ErrExhausted, "request 2: 0 are free"},
				"too few numbers": {[]uint64{1, 2}, nil, pages[:1], ErrArgument, "growth by 2 pages: there is room for 1"},
				"counts differ":   {[]uint64{1, 2}, []uint64{1}, pages, ErrArgument, "2 requests: there are 1 counts"},
			}
			for name, test := range refused {
				err := p.GrowBatch(test.requests, test.counts, test.pages)
				require.ErrorIs(t, err, test.is, name)
				require.ErrorContains(t, err, test.text, name)
				require.Equal(t, before, p.Stats(), name)
			}
		})
	}
}

// The trees must stay shallow whatever the order, or the promise of O(log n) fails.
func TestTreesStayShallow(t *testing.T) {
	const pages = 1 << 16
	p, err := New(0, pages)
	require.NoError(t, err)
	alloc(t, p, 1, pages, 0)
	for page := uint64(0); page < pages; page += 2 {
		require.NoError(t, p.Free(1, []Run{{page, 1}}))
	}
	require.Equal(t, uint64(pages/2), p.Stats().FreeRuns)
	// A treap of 32768 nodes is some 35 deep; a list would be 32768.
	for _, tr := range []*tree{&p.byAddress, &p.byOpen, &p.byCount} {
		require.Less(t, depth(tr, tr.root), 80)
		require.Greater(t, depth(tr, tr.root), 10)
	}
}

func depth(tr *tree, n int32) int {
	if n == none {
		return 0
	}
	return 1 + max(depth(tr, *tr.left(n)), depth(tr, *tr.right(n)))
}
