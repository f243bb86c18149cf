package rdma

import (
	"sync/atomic"
	"testing"

	"github.com/pkg/errors"
	"github.com/stretchr/testify/require"
)

func TestSplitRanges(t *testing.T) {
	const mib, gib = 1 << 20, 1 << 30
	ranges := []AddrRange{{0x7000_0000_1000, 5 * gib}, {1, 2}, {0x8000_0000_0000, 4 * gib}}
	for _, most := range []uint64{0, 1 << 50, 5 * gib, 2*gib + 12345, 64*mib + 1, 4 * mib} {
		parts := splitRanges(ranges, most)
		at := make([]uint64, len(ranges)) // bytes seen of each
		owner := 0
		for _, p := range parts {
			require.GreaterOrEqual(t, p.owner, owner)
			owner = p.owner
			require.Equal(t, ranges[owner].Addr+at[owner], p.Addr)
			require.NotZero(t, p.Length)
			require.True(t, most == 0 || p.Length <= most)
			if at[owner] > 0 {
				require.Zero(t, p.Addr%(2*mib))
			}
			at[owner] += p.Length
		}
		for i, r := range ranges {
			require.Equal(t, r.Length, at[i])
		}
	}
	require.Len(t, splitRanges(ranges, 0), 3)
	require.EqualValues(t, 3, countParts(ranges, 0))
	require.Len(t, splitRanges([]AddrRange{{3, 10}}, 4), 3)
	require.EqualValues(t, 3, countParts([]AddrRange{{3, 10}}, 4))
}

func TestRegisterWorkers(t *testing.T) {
	parts := func(count int, length uint64) []part {
		all := make([]part, count)
		for i := range all {
			all[i].Length = length
		}
		return all
	}
	tests := []struct {
		parts              []part
		wanted, processors int
		want               int
	}{
		{parts(0, 0), 0, 8, 1},
		{parts(1, 1<<40), 0, 8, 1},
		{parts(8, 4096), 0, 8, 1},
		{parts(4, 1<<20), 0, 8, 1},
		{parts(100, 4096), 0, 8, 8},
		{parts(2, 8<<20), 0, 8, 2},
		{parts(4, 1<<30), 0, 64, 4},
		{parts(100, 1<<30), 0, 64, 8},
		{parts(100, 1<<30), 0, 2, 2},
		{parts(100, 1<<63), 0, 64, 8},
		{parts(100, 1), 3, 1, 3},
		{parts(2, 1), 100, 1, 2},
		{parts(100, 1<<30), 1, 64, 1},
	}
	for _, test := range tests {
		require.Equal(t, test.want, registerWorkers(test.parts, test.wanted, test.processors), "%d parts", len(test.parts))
	}
}

func TestInParallel(t *testing.T) {
	for _, workers := range []int{1, 3} {
		var sum atomic.Int64
		require.NoError(t, inParallel(100, workers, func(i int) error { sum.Add(int64(i)); return nil }))
		require.EqualValues(t, 4950, sum.Load())

		var after atomic.Int64
		bad := errors.New("bad")
		require.Equal(t, bad, inParallel(1000000, workers, func(i int) error {
			if i == 10 {
				return bad
			}
			after.Add(1)
			return nil
		}))
		require.Less(t, after.Load(), int64(1000000-1), "it went on")
	}
	require.NoError(t, inParallel(0, 1, nil))
}
