package core

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

// Blocks of one size, scattered, to another process of this host.
func BenchmarkToAnotherProcess(b *testing.B) {
	const memory, most = 128 << 20, 4096
	name, addr := startOther(b, memory)
	for _, way := range ways[2:] {
		for _, size := range []int{512, 4096, 16384, 262144} {
			b.Run(fmt.Sprintf("%s/%d", way, size), func(b *testing.B) {
				over(b, way)
				e := openEngine(b, "127.0.0.1", testConfig(nil))
				here := newArena(b, memory)
				here.poison(2)
				register(b, e, here)
				seg := openSegment(b, e, name)
				slots := evenSlots(memory/size, 1)
				slots = slots[:min(len(slots), most)]
				blocks := scatter(here, here, size, slots, slots)
				for i := range blocks.Remote {
					blocks.Remote[i] = addr + uint64(slots[len(slots)-1-i]*size)
				}
				b.SetBytes(int64(size * len(slots)))
				for b.Loop() {
					require.NoError(b, move(b, seg, Write, blocks))
				}
			})
		}
	}
}
