//go:build cgo

package core

import (
	"context"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"mooncake/core/endpoint"
	"mooncake/rdma"
)

// Upstream may be told to have more queue pairs than a lane takes. The peer may post to all,
// and all are broken together.
func TestRDMAMoreQueuePairsThanALaneTakes(t *testing.T) {
	p := newSoftPair(t, 4096, nil)
	port := rdmaOf(t, p.a).port
	made, err := port.NewQueues(rdma.MostLaneQPs + 8)
	require.NoError(t, err)
	q := made.(*rdmaQueues)
	defer q.destroy()
	require.NoError(t, q.Connect(endpoint.Remote{Address: port.address.Load().endpoint(), Numbers: q.Numbers()}))
	assert.Len(t, q.Numbers(), rdma.MostLaneQPs+8)
	var lane *rdma.Lane
	require.NoError(t, q.attach(context.Background(), func(l *rdma.Lane) { lane = l }))
	require.NotNil(t, lane)
	q.Break()
	for i, qp := range q.qps {
		state, err := qp.State()
		assert.NoError(t, err)
		assert.Equal(t, rdma.QPError, state, "queue pair %d", i)
	}
	eventually(t, "the lane to let go", func() bool { return q.detach() == nil })
}
