package core

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

// Scattered blocks between two engines of one process, over loopback.
func BenchmarkWrite(b *testing.B) {
	for _, size := range []int{512, 4096, 64 << 10, 1 << 20} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			p := newPair(b, 64<<20, nil)
			slots := min(64<<20/size, 32768)
			blocks := scatter(p.memA, p.memB, size, evenSlots(slots, 0), evenSlots(slots, 9))
			n := len(blocks.Length)
			b.SetBytes(int64(n * size))
			b.ReportAllocs()
			for b.Loop() {
				require.NoError(b, move(b, p.seg, Write, blocks))
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/block")
		})
	}
}
