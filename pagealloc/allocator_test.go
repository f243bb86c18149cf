package pagealloc

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"
)

// holes makes a pool of the pages 0 to 99 in which only free is free.
func holes(t *testing.T, free ...Run) *Pool {
	t.Helper()
	p, err := New(0, 100)
	require.NoError(t, err)
	_, err = p.Alloc(100)
	require.NoError(t, err)
	if len(free) > 0 {
		require.NoError(t, p.Free(free))
	}
	return p
}

func TestAllocChoosesTheBestFit(t *testing.T) {
	free := []Run{{0, 20}, {30, 5}, {40, 8}, {60, 5}, {70, 30}}
	tests := map[string]struct {
		count uint64
		want  []Run
	}{
		"exact, lowest of equals":      {5, []Run{{30, 5}}},
		"shortest that holds it":       {6, []Run{{40, 6}}},
		"small goes to a short run":    {1, []Run{{30, 1}}},
		"exact in the longest":         {30, []Run{{70, 30}}},
		"two runs, the longest first":  {31, []Run{{70, 30}, {30, 1}}},
		"remainder is a best fit too":  {37, []Run{{70, 30}, {40, 7}}},
		"three runs":                   {57, []Run{{70, 30}, {0, 20}, {40, 7}}},
		"all, lowest first on the tie": {68, []Run{{70, 30}, {0, 20}, {40, 8}, {30, 5}, {60, 5}}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			p := holes(t, free...)
			runs, err := p.Alloc(test.count)
			require.NoError(t, err)
			require.Equal(t, test.want, runs)
			require.Equal(t, 68-test.count, p.Stats().FreePages)
		})
	}
}

func TestAllocRefuses(t *testing.T) {
	p := holes(t, Run{0, 3}, Run{10, 4})
	before := p.Stats()

	_, err := p.Alloc(0)
	require.ErrorIs(t, err, ErrArgument)
	_, err = p.Alloc(8)
	require.ErrorIs(t, err, ErrExhausted)
	require.ErrorContains(t, err, "alloc of 8 pages, 7 are free")
	_, err = p.Alloc(math.MaxUint64)
	require.ErrorIs(t, err, ErrExhausted)
	require.Equal(t, before, p.Stats())
}

func TestFreeJoinsNeighbours(t *testing.T) {
	p := holes(t, Run{10, 10}, Run{30, 10})
	require.NoError(t, p.Free([]Run{{25, 5}, {20, 5}}))
	require.Equal(t, Stats{Pages: 100, FreePages: 30, FreeRuns: 1, LongestRun: 30}, p.Stats())

	runs, err := p.Alloc(30)
	require.NoError(t, err)
	require.Equal(t, []Run{{10, 30}}, runs)
	require.Equal(t, Stats{Pages: 100}, p.Stats())
}

func TestFreeRefuses(t *testing.T) {
	tests := map[string]struct {
		runs []Run
		is   error
		text string
	}{
		"free already":            {[]Run{{10, 1}}, ErrNotAllocated, "page 10"},
		"end is free":             {[]Run{{5, 6}}, ErrNotAllocated, "page 10"},
		"start is free":           {[]Run{{14, 3}}, ErrNotAllocated, "page 14"},
		"free ones in the middle": {[]Run{{5, 90}}, ErrNotAllocated, "page 10"},
		"twice in the call":       {[]Run{{50, 2}, {51, 1}}, ErrArgument, "page 51"},
		"empty run":               {[]Run{{50, 0}}, ErrArgument, "page 50"},
		"above the pool":          {[]Run{{100, 1}}, ErrForeign, "page 100"},
		"reaching out of it":      {[]Run{{98, 5}}, ErrForeign, "page 100"},
		"far above":               {[]Run{{1 << 60, 1}}, ErrForeign, "page 1152921504606846976"},
		"good one beside bad one": {[]Run{{50, 2}, {10, 1}}, ErrNotAllocated, "page 10"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			p := holes(t, Run{10, 5})
			before := p.Stats()
			err := p.Free(test.runs)
			require.ErrorIs(t, err, test.is)
			require.ErrorContains(t, err, test.text)
			require.Equal(t, before, p.Stats(), "a refused call freed something")
		})
	}
	require.NoError(t, holes(t).Free(nil))
}

func TestPoolNeedNotStartAtZero(t *testing.T) {
	p, err := New(1000, 10)
	require.NoError(t, err)
	runs, err := p.Alloc(10)
	require.NoError(t, err)
	require.Equal(t, []Run{{1000, 10}}, runs)
	err = p.Free([]Run{{999, 2}})
	require.ErrorIs(t, err, ErrForeign)
	require.ErrorContains(t, err, "page 999, the pool has pages 1000 to 1009")
	require.NoError(t, p.Free(runs))
}

func TestNewRefuses(t *testing.T) {
	_, err := New(5, 0)
	require.ErrorIs(t, err, ErrArgument)
	_, err = New(math.MaxUint64, 2)
	require.ErrorIs(t, err, ErrArgument)
	_, err = New(0, math.MaxUint64)
	require.NoError(t, err)
}
