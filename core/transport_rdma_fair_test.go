//go:build cgo

package core

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Small calls beside a large one that fills its queues wait for their own requests, and not
// for those of the large one, in every mix of directions.
func TestRDMASmallCallsBesideALargeOne(t *testing.T) {
	for _, large := range []Op{Write, Read} {
		for _, small := range []Op{Write, Read} {
			p := newSoftPair(t, 32<<20, nil)
			require.NoError(t, move(t, p.seg, small, repeated(p, 10)))
			setNIC(t, "rate=20k")
			slots := evenSlots(len(p.memA)/2/512, 1)
			b, err := p.seg.Submit(large, scatter(p.memA, p.memB, 512, slots, slots), Options{})
			require.NoError(t, err)
			last := p.memA.region(len(p.memA)-8192, 8192)
			few := scatter(last, p.memB.region(len(p.memB)-8192, 8192), 512, []int{0, 2, 4, 6, 8}, []int{1, 3, 5, 7, 9})
			var took []time.Duration
			for range 9 {
				began := time.Now()
				require.NoError(t, move(t, p.seg, small, few))
				took = append(took, time.Since(began))
			}
			slices.Sort(took)
			t.Logf("op %d beside op %d: %v", small, large, took)
			assert.Equal(t, Running, b.Status().State, "the large call is to last longer than the small ones")
			assert.Less(t, took[len(took)/2], slack(10*time.Millisecond))
			setNIC(t, "rate=0")
			require.NoError(t, b.Wait(deadline))
			b.Close()
		}
	}
}
