package core

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestZZFair(t *testing.T) {
	for _, way := range ways[1:] {
		over(t, way)
		const size = 512
		p := newPair(t, 1<<30, nil)
		p.memA.poison(1)
		p.memB.poison(1)
		slots := evenSlots(len(p.memA)/size, 1)[:1000000]
		big := scatter(p.memA, p.memB, size, slots, slots)
		var alone []time.Duration
		small := func() time.Duration {
			began := time.Now()
			require.NoError(t, move(t, p.seg, Write, scatter(p.memA, p.memB, size, []int{1, 3, 5, 7, 9, 11, 13, 15, 17, 19}, []int{19, 17, 15, 13, 11, 9, 7, 5, 3, 1})))
			return time.Since(began)
		}
		for range 50 {
			alone = append(alone, small())
		}
		done := make(chan error, 1)
		began := time.Now()
		go func() { done <- move(t, p.seg, Write, big) }()
		var worst, sum time.Duration
		n := 0
		var err error
		for running := true; running; {
			select {
			case err = <-done:
				running = false
			default:
				d := small()
				worst = max(worst, d)
				sum += d
				n++
			}
		}
		require.NoError(t, err)
		t.Logf("%s: alone %v; 1M blocks took %v, beside it %d small: mean %v worst %v", way, alone[25], time.Since(began), n, sum/time.Duration(max(n, 1)), worst)
	}
}
