//go:build cgo

package core

import (
	"bytes"
	"context"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Memory that is registered in parts has a key for each. Blocks that go from part to part
// are not given to the lane one by one.
func TestRDMABlocksGoFromKeyToKey(t *testing.T) {
	p := newSoftPair(t, 2<<20, map[string]string{"MC_MAX_MR_SIZE": "65536"})
	for i := range p.memA {
		p.memA[i] = byte(i * 7 >> 3)
	}
	p.memB.poison(1)
	from, to := evenSlots(len(p.memA)/256, 1), evenSlots(len(p.memB)/256, 2)
	require.NoError(t, move(t, p.seg, Write, scatter(p.memA, p.memB, 256, from[:1], to[:1])))
	counters := rdmaOf(t, p.a).port.port.Counters
	before := counters()
	require.NoError(t, move(t, p.seg, Write, scatter(p.memA, p.memB, 256, from, to)))
	doorbells := counters().Doorbells - before.Doorbells
	assert.Less(t, doorbells, uint64(len(from)/8), "of %d blocks", len(from))
	for i := range from {
		require.True(t, bytes.Equal(p.memA.region(from[i]*256, 256), p.memB.region(to[i]*256, 256)), "block %d", i)
		require.True(t, p.memB.region(to[i]*256+256, 256).all(1), "beside block %d", i)
	}
}

// The end of a batch is kept for the thread that is going to receive; but not for ever
// when the batch fails, since that thread may be far from it.
func TestRDMAFailureIsToldBeforeTheThreadReceives(t *testing.T) {
	p := newSoftPair(t, 16<<20, nil)
	setNIC(t, "rate=20k")
	slots := evenSlots(len(p.memA)/512, 1)
	b, err := p.seg.Submit(Write, scatter(p.memA, p.memB, 512, slots, slots), Options{Waits: true})
	require.NoError(t, err)
	defer b.Close()
	eventually(t, "bytes to be moved", func() bool { return b.Status().BytesDone > 0 })
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	require.NoError(t, p.b.Fence(ctx, p.a.Name()))
	eventually(t, "the batch to fail", func() bool { return b.Status().State == Failed })
	require.ErrorIs(t, b.Err(), ErrFenced)
}
