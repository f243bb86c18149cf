package core

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// Memory that was taken away behind the engine's back is an error that says whose it
// was, whichever way it goes on this host.
func TestMemoryThatIsGoneIsNamed(t *testing.T) {
	for _, way := range hostWays { // tcp breaks the connection, and a NIC has pinned the memory
		for _, prot := range []int{unix.PROT_NONE, unix.PROT_READ} {
			for _, op := range []Op{Read, Write} {
				for _, here := range []bool{true, false} {
					destination := here == (op == Read)
					if prot == unix.PROT_READ && !destination {
						continue
					}
					for _, count := range []int{1, 200} {
						name := fmt.Sprintf("%s/prot=%d/op=%d/here=%v/%d", way, prot, op, here, count)
						t.Run(name, func(t *testing.T) {
							over(t, way)
							p := newPair(t, 1<<20, nil)
							mem, want := p.memA, ErrAddress
							if !here {
								mem, want = p.memB, ErrRejected
							}
							require.NoError(t, unix.Mprotect(mem[512<<10:], prot))
							t.Cleanup(func() { unix.Mprotect(mem, unix.PROT_READ|unix.PROT_WRITE) })
							slots := evenSlots(1<<20/1024, 1)
							if count == 1 {
								slots = []int{700}
							}
							err := move(t, p.seg, op, scatter(p.memA, p.memB, 1024, slots, slots))
							require.ErrorIs(t, err, want)
							assert.Contains(t, err.Error(), "quiet at both ends")
							require.NoError(t, move(t, p.seg, op, scatter(p.memA, p.memB, 1024, []int{1}, []int{3})))
						})
					}
				}
			}
		}
	}
}
