package pagealloc

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestFromPages(t *testing.T) {
	tests := map[string]struct {
		pages []uint64
		runs  []Run
	}{
		"none":          {nil, nil},
		"one":           {[]uint64{7}, []Run{{7, 1}}},
		"in order":      {[]uint64{3, 4, 5}, []Run{{3, 3}}},
		"backwards":     {[]uint64{5, 4, 3}, []Run{{3, 3}}},
		"with gaps":     {[]uint64{9, 0, 5, 4, 1}, []Run{{0, 2}, {4, 2}, {9, 1}}},
		"highest there": {[]uint64{math.MaxUint64 - 1}, []Run{{math.MaxUint64 - 1, 1}}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			before := append([]uint64(nil), test.pages...)
			runs, err := FromPages(test.pages)
			require.NoError(t, err)
			require.Equal(t, test.runs, runs)
			require.Equal(t, before, append([]uint64(nil), test.pages...))
		})
	}

	_, err := FromPages([]uint64{4, 8, 4})
	require.ErrorIs(t, err, ErrArgument)
	require.ErrorContains(t, err, "page 4 is listed twice")
	_, err = FromPages([]uint64{math.MaxUint64})
	require.ErrorIs(t, err, ErrArgument)
}

func TestCoalesce(t *testing.T) {
	runs := []Run{{10, 2}, {0, 3}, {12, 1}, {3, 1}}
	merged, err := Coalesce(runs)
	require.NoError(t, err)
	require.Equal(t, []Run{{0, 4}, {10, 3}}, merged)
	require.Equal(t, []Run{{10, 2}, {0, 3}, {12, 1}, {3, 1}}, runs)

	refused := map[string]struct {
		runs []Run
		text string
	}{
		"same twice":       {[]Run{{1, 1}, {1, 1}}, "page 1 is listed twice"},
		"one in another":   {[]Run{{0, 10}, {5, 1}}, "page 5 is listed twice"},
		"after a merge":    {[]Run{{0, 4}, {4, 4}, {7, 2}}, "page 7 is listed twice"},
		"empty":            {[]Run{{6, 0}}, "the run from page 6 is empty"},
		"past the numbers": {[]Run{{math.MaxUint64, 2}}, "passes the last page number"},
	}
	for name, test := range refused {
		t.Run(name, func(t *testing.T) {
			_, err := Coalesce(test.runs)
			require.ErrorIs(t, err, ErrArgument)
			require.ErrorContains(t, err, test.text)
		})
	}
}

func TestSplit(t *testing.T) {
	for at := uint64(0); at <= 4; at++ {
		head, tail, err := Run{6, 4}.Split(at)
		require.NoError(t, err)
		require.Equal(t, []Run{{6, at}, {6 + at, 4 - at}}, []Run{head, tail})
	}
	_, _, err := Run{6, 4}.Split(5)
	require.ErrorIs(t, err, ErrArgument)
	require.ErrorContains(t, err, "split at 5")
}

func TestPages(t *testing.T) {
	require.Equal(t, []uint64{8, 9, 2}, Pages([]Run{{8, 2}, {2, 1}}))
	require.Empty(t, Pages(nil))
}
