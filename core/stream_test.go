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
	for _, n := range []int{streamFrom, streamFrom + 1, streamFrom + 127, 100_003, copyChunk, copyChunk + 33, 700_001} {
		for _, at := range [][2]int{{0, 0}, {1, 0}, {0, 31}, {17, 5}, {4095, 4097}} {
			dst.poison(0xA5)
			d, s := dst.addr()+uint64(at[0]), src.addr()+uint64(at[1])
			require.NoError(t, hostMover{}.Copy([]uint64{d}, []uint64{s}, []uint64{uint64(n)}))
			require.True(t, string(dst[at[0]:at[0]+n]) == string(src[at[1]:at[1]+n]), "%d bytes at %v", n, at)
			require.True(t, dst[:at[0]].all(0xA5) && dst[at[0]+n:].all(0xA5), "%d bytes at %v: others were touched", n, at)
		}
	}
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
