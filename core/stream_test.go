package core

import (
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// Whatever the alignment and the length: these bytes, and no others.
func TestStreamedCopies(t *testing.T) {
	const room = 1 << 20
	src, dst := newArena(t, room), newArena(t, room)
	src.fill(1)
	for _, n := range []int{streamMessage, streamMessage + 1, streamMessage + 127, 100_003, copyChunk, copyChunk + 33, 700_001} {
		for _, at := range [][2]int{{0, 0}, {1, 0}, {0, 31}, {17, 5}, {4095, 4097}} {
			dst.poison(0xA5)
			d, s := dst.addr()+uint64(at[0]), src.addr()+uint64(at[1])
			require.NoError(t, hostMover{}.Copy([]uint64{d}, []uint64{s}, []uint64{uint64(n)}))
			require.True(t, string(dst[at[0]:at[0]+n]) == string(src[at[1]:at[1]+n]), "%d bytes at %v", n, at)
			require.True(t, dst[:at[0]].all(0xA5) && dst[at[0]+n:].all(0xA5), "%d bytes at %v: others were touched", n, at)
		}
	}
}

// Of ranges copied together, and of a message, each is stored as its length says.
func TestStreamedRangesAmongOthers(t *testing.T) {
	const room = 1 << 20
	src, dst := newArena(t, room), newArena(t, room)
	src.fill(1)
	lengths := []uint64{1, streamRange, 100, streamRange + 77, streamRange - 1, 6 * streamRange, 5}
	var from, to []uint64
	at := uint64(3)
	for _, n := range lengths {
		from, to = append(from, src.addr()+at), append(to, dst.addr()+2*at)
		at += n + 19
	}
	compare := func() {
		for i, n := range lengths {
			d, s := to[i]-dst.addr(), from[i]-src.addr()
			require.True(t, string(dst[d:d+n]) == string(src[s:s+n]), "range %d", i)
			arena(dst[d : d+n]).poison(0xA5)
		}
		require.True(t, dst.all(0xA5))
	}
	dst.poison(0xA5)
	require.NoError(t, hostMover{}.Copy(to, from, lengths))
	compare()
	p := make([]byte, sum(lengths))
	require.Greater(t, len(p), streamMessage)
	require.NoError(t, hostMover{}.Gather(p, from, lengths))
	require.NoError(t, hostMover{}.Scatter(to, lengths, p))
	compare()
}

func sum(numbers []uint64) (total uint64) {
	for _, n := range numbers {
		total += n
	}
	return total
}

// A hole on either side is an error that names the range, not the end of the process.
func TestStreamedCopiesSurviveHoles(t *testing.T) {
	good, holed := newArena(t, 1<<20), newArena(t, 1<<20)
	require.NoError(t, unix.Mprotect(holed[512<<10:], unix.PROT_NONE))
	n := []uint64{1 << 20}
	require.ErrorIs(t, hostMover{}.Copy([]uint64{holed.addr()}, []uint64{good.addr()}, n), errFault)
	require.ErrorIs(t, hostMover{}.Copy([]uint64{good.addr()}, []uint64{holed.addr()}, n), errFault)
	require.NoError(t, hostMover{}.Copy([]uint64{good.addr()}, []uint64{holed.addr()}, []uint64{512 << 10}))
}
