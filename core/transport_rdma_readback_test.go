//go:build cgo

package core

import (
	"bytes"
	"log/slog"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// With MC_RDMA_READ_BACK a batch that writes ends with a read on each queue pair that it
// used, which moves none of the batch's bytes; one that reads does not.
func TestRDMAReadBack(t *testing.T) {
	relaxed := map[string]string{"MC_RDMA_READ_BACK": "1", "MC_IB_PCI_RELAXED_ORDERING": "1"}
	plain, back := newRDMAPair(t, 4<<20, nil), newRDMAPair(t, 4<<20, relaxed)
	require.NotNil(t, rdmaOf(t, back.a).port.pageMR)
	for _, c := range []struct {
		op          Op
		blocks      int
		least, most uint64 // requests more than without
	}{
		{Write, 1, 1, 1}, {Write, 64, 1, 1}, {Write, 2000, 1, 4}, {Read, 1, 0, 0}, {Read, 64, 0, 0},
	} {
		var requests [2]uint64
		for i, p := range []*pair{plain, back} {
			p.memA.fill(uint64(c.blocks))
			p.memB.fill(uint64(c.blocks) + 1)
			from, to := evenSlots(2*c.blocks, 0), evenSlots(2*c.blocks, 1)
			b := scatter(p.memA, p.memB, 1024, from, to)
			before := p.a.Stats().BytesRDMA
			requests[i] = messages(p.a, func() { require.NoError(t, move(t, p.seg, c.op, b)) })
			assert.EqualValues(t, c.blocks*1024, p.a.Stats().BytesRDMA-before)
			for k := range from {
				require.Equal(t, p.memA[from[k]*1024:(from[k]+1)*1024], p.memB[to[k]*1024:(to[k]+1)*1024])
			}
		}
		assert.GreaterOrEqual(t, requests[1], requests[0]+c.least, "%+v", c)
		assert.LessOrEqual(t, requests[1], requests[0]+c.most, "%+v", c)
	}
}

// Who has relaxed ordering alone is told once what that means.
func TestRDMARelaxedOrderingWarns(t *testing.T) {
	over(t, "rdma")
	for _, c := range []struct {
		relaxed, back string
		lines         int
	}{{"1", "", 1}, {"1", "1", 0}, {"0", "1", 0}, {"", "", 0}} {
		var out bytes.Buffer
		cfg := testConfig(map[string]string{"MC_IB_PCI_RELAXED_ORDERING": c.relaxed, "MC_RDMA_READ_BACK": c.back})
		cfg.Log = slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelWarn}))
		openEngine(t, "127.0.0.1", cfg)
		assert.Equal(t, c.lines, bytes.Count(out.Bytes(), []byte("MC_RDMA_READ_BACK=1")), "%+v: %s", c, out.String())
	}
}
