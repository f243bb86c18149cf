package core

import (
	"fmt"
	"runtime/debug"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// rows are n ranges of lengths 1, 2, 3 ... in an arena, in reverse order.
func rows(a arena, n int) (addr, length []uint64, total int) {
	at := a.addr() + uint64(len(a))
	for i := range n {
		at -= uint64(2*i + 2)
		addr, length = append(addr, at), append(length, uint64(i+1))
		total += i + 1
	}
	return addr, length, total
}

func TestScatterAndGather(t *testing.T) {
	a := newArena(t, 1<<16)
	addr, length, total := rows(a, 200)
	p, back := make([]byte, total), make([]byte, total)
	arena(p).fill(1)
	p[total-1] = 9 // fill works in eights
	require.NoError(t, hostMover{}.Scatter(addr, length, p))
	want := make(arena, len(a))
	for i, left := 0, p; i < len(addr); i++ {
		left = left[copy(want[addr[i]-a.addr():][:length[i]], left):]
	}
	assert.Equal(t, string(want), string(a), "also what lies between the ranges")
	require.NoError(t, hostMover{}.Gather(back, addr, length))
	assert.Equal(t, p, back)
	require.NoError(t, hostMover{}.Scatter(nil, nil, nil))
	require.NoError(t, hostMover{}.Gather(nil, nil, nil))
}

// Ranges on top of each other are filled in order.
func TestScatterOverlapping(t *testing.T) {
	a := newArena(t, 4096)
	at := a.addr()
	require.NoError(t, hostMover{}.Scatter([]uint64{at, at + 2, at + 1}, []uint64{4, 4, 2}, []byte("aaaabbbbcc")))
	assert.Equal(t, "accbbb", string(a[:6]))
}

// A hole among the ranges is an error that names the range; those before it are
// done, those behind it untouched, and faults are the caller's own again.
func TestScatterAndGatherMeetAHole(t *testing.T) {
	a := newArena(t, 1<<16)
	hole := newArena(t, 4096)
	require.NoError(t, unix.Mprotect(hole, unix.PROT_NONE))
	for _, at := range []int{0, 3, 9} {
		addr, length, total := rows(a, 10)
		addr[at] = hole.addr() + 100
		p := make(arena, total)
		p.poison(7)
		for name, f := range map[string]func() error{
			"scatter": func() error { return hostMover{}.Scatter(addr, length, p) },
			"gather":  func() error { return hostMover{}.Gather(p, addr, length) },
		} {
			a.poison(0)
			err := f()
			require.ErrorIs(t, err, errFault, name)
			require.ErrorContains(t, err, fmt.Sprintf("from or to %#x", addr[at]))
			require.False(t, debug.SetPanicOnFault(false), "faults are left turned into panics")
			for i := range addr {
				if i != at {
					want := name == "scatter" && i < at
					assert.Equal(t, want, a[addr[i]-a.addr()] == 7, "%s, range %d, hole at %d", name, i, at)
				}
			}
			p.poison(7)
		}
	}
}

func TestScatterAndGatherDoNotAllocate(t *testing.T) {
	a := newArena(t, 1<<16)
	addr, length, total := rows(a, 200)
	p := make([]byte, total)
	var m mover = hostMover{}
	assert.Zero(t, testing.AllocsPerRun(100, func() {
		if m.Scatter(addr, length, p) != nil || m.Gather(p, addr, length) != nil {
			panic("a fault")
		}
	}))
}
