package pagealloc

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestFIFOGivesPagesInTheOrderInWhichTheyCameBack(t *testing.T) {
	l, err := NewFIFO(0, 10)
	require.NoError(t, err)
	require.Equal(t, []Run{{0, 2}}, alloc(t, l, 1, 2, 9))
	require.Equal(t, []Run{{2, 2}}, alloc(t, l, 2, 2, 0))
	for range 2 {
		grow(t, l, 1, 1)
		grow(t, l, 2, 1)
	}
	runs, err := l.Runs(nil, 1)
	require.NoError(t, err)
	require.Equal(t, []Run{{0, 2}, {4, 1}, {6, 1}}, runs)
	_, err = l.Release(1)
	require.NoError(t, err)
	_, err = l.Release(2)
	require.NoError(t, err)
	require.Equal(t, Stats{Pages: 10, FreePages: 10, FreeRuns: 7, LongestRun: 2, Histogram: [64]uint64{4, 3}}, l.Stats())
	require.Equal(t, []Run{{8, 2}, {0, 2}, {4, 1}, {6, 1}, {2, 2}, {5, 1}, {7, 1}}, alloc(t, l, 3, 10, 0))
}

func TestSortedSortsWhenItRunsShort(t *testing.T) {
	l, err := NewSorted(0, 10)
	require.NoError(t, err)
	require.Equal(t, []Run{{0, 7}}, alloc(t, l, 1, 7, 0))
	require.NoError(t, l.FreePages(1, []uint64{5, 1, 0}))
	// Three are in the list, so it does not run short.
	require.Equal(t, []Run{{7, 2}}, alloc(t, l, 2, 2, 0))
	require.NoError(t, l.Free(2, []Run{{7, 1}}))
	require.Equal(t, []Run{{0, 2}, {5, 1}}, alloc(t, l, 3, 3, 0))
	require.Equal(t, []Run{{7, 1}, {9, 1}}, grow(t, l, 3, 2))
	runs, err := l.Runs(nil, 3)
	require.NoError(t, err)
	require.Equal(t, []Run{{0, 2}, {5, 1}, {7, 1}, {9, 1}}, runs)
}

// Each page must be somewhere, however often the list has gone through its memory.
func TestListsLoseNothing(t *testing.T) {
	for name, l := range kinds(t, 3, 50) {
		t.Run(name, func(t *testing.T) {
			for round := range uint64(300) {
				count := 1 + round*7%23
				alloc(t, l, 2*round, count, 0)
				alloc(t, l, 2*round+1, 20, 0)
				grow(t, l, 2*round, 5)
				_, err := l.Release(2 * round)
				require.NoError(t, err)
				_, err = l.Release(2*round + 1)
				require.NoError(t, err)
				if round%50 == 0 {
					merged, err := Coalesce(alloc(t, l, 9999, 50, 0))
					require.NoError(t, err)
					require.Equal(t, []Run{{3, 50}}, merged)
					_, err = l.Release(9999)
					require.NoError(t, err)
				}
			}
		})
	}
}
