//go:build cgo

package core

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

// Scattered writes on the software NIC: with the mode that completes at once, the engine's
// own cost of a block; with the one that copies, beside the copy. What a read-back costs is
// most of a short call and nothing of a long one.
func BenchmarkRDMA(b *testing.B) {
	const size = 256
	for _, mode := range []string{"null", "copy"} {
		for _, back := range []string{"0", "1"} {
			for _, blocks := range []int{1, 64, 16384} {
				b.Run(fmt.Sprintf("%s/readback=%s/%d", mode, back, blocks), func(b *testing.B) {
					p := newSoftPair(b, 2*blocks*size, map[string]string{"MC_RDMA_READ_BACK": back})
					all := scatter(p.memA, p.memB, size, evenSlots(2*blocks, 0), evenSlots(2*blocks, 1))
					require.NoError(b, move(b, p.seg, Write, all))
					setNIC(b, "mode="+mode)
					defer setNIC(b, "mode=copy")
					b.ReportAllocs()
					for b.Loop() {
						batch, err := p.seg.Submit(Write, all, Options{Waits: true})
						require.NoError(b, err)
						batch.Receive()
						require.NoError(b, batch.Wait(deadline))
						batch.Close()
					}
					b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*blocks), "ns/block")
				})
			}
		}
	}
}
