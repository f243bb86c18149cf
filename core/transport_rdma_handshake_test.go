//go:build cgo

package core

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"mooncake/core/metadata"
	"mooncake/tests/softnic/nic"
)

// stranger is what a peer of another implementation sends to connect.
func stranger(t *testing.T, e *Engine) *metadata.ConnectionMessage {
	r := rdmaOf(t, e)
	return &metadata.ConnectionMessage{LocalNICPath: "192.0.2.7:12345@mlx5_7", PeerNICPath: r.server() + "@" + r.port.name,
		QPNum: []uint32{1, 2}, LocalGID: "00:00:00:00:00:00:00:00:00:00:ff:ff:c6:33:64:01", ReadyAck: new(bool)}
}

// Requests to connect that make no sense are answered with a reason, and cost nothing.
func TestRDMARefusesBadHandshakes(t *testing.T) {
	p := newRDMAPair(t, 1<<20, nil)
	before := len(rdmaObjects())
	for name, spoil := range map[string]func(*metadata.ConnectionMessage){
		"no queue pairs":    func(m *metadata.ConnectionMessage) { m.QPNum = nil },
		"no GID":            func(m *metadata.ConnectionMessage) { m.LocalGID = "there" },
		"another device":    func(m *metadata.ConnectionMessage) { m.PeerNICPath += "9" },
		"another server":    func(m *metadata.ConnectionMessage) { m.PeerNICPath = "192.0.2.1:1@mlx5_0" },
		"no path":           func(m *metadata.ConnectionMessage) { m.LocalNICPath = "" },
		"no device in it":   func(m *metadata.ConnectionMessage) { m.LocalNICPath = "192.0.2.7" },
		"an ack to nothing": func(m *metadata.ConnectionMessage) { yes := true; m.ReadyAck = &yes },
		"an unknown kind": func(m *metadata.ConnectionMessage) {
			m.Extension = &metadata.ConnectionExtension{Version: 1, Kind: "dance", Instance: strings.Repeat("0a", 16),
				Target: p.b.instanceText(), Connection: 1, Name: "192.0.2.7:12345"}
		},
		"another instance": func(m *metadata.ConnectionMessage) {
			m.Extension = &metadata.ConnectionExtension{Version: 1, Kind: "connect", Instance: strings.Repeat("0a", 16),
				Target: strings.Repeat("0b", 16), Connection: 1, Name: "192.0.2.7:12345"}
		},
	} {
		m := stranger(t, p.b)
		spoil(m)
		reply, err := p.a.client.Connect(context.Background(), p.b.Name(), m)
		require.ErrorIs(t, err, metadata.ErrRejected, name)
		require.NotNil(t, reply, name)
		assert.NotEmpty(t, reply.ReplyMsg, name)
		assert.Empty(t, reply.QPNum, name)
	}
	assert.Len(t, rdmaObjects(), before, "queue pairs that nobody will use")
	require.NoError(t, move(t, p.seg, Write, repeated(p, 10)))
}

// Handshakes that stop half-way keep nobody from connecting, nor the engine from closing.
func TestRDMAHalfHandshakes(t *testing.T) {
	p := newRDMAPair(t, 1<<20, nil)
	for i := range 20 {
		m := stranger(t, p.b)
		m.LocalNICPath = fmt.Sprintf("192.0.2.7:%d@mlx5_7", 20000+i)
		reply, err := p.a.client.Connect(context.Background(), p.b.Name(), m)
		require.NoError(t, err)
		require.Empty(t, reply.ReplyMsg)
		require.Len(t, reply.QPNum, 2)
	}
	require.NoError(t, move(t, p.seg, Write, repeated(p, 10)))
	began := time.Now()
	require.NoError(t, p.b.Close())
	assert.Less(t, time.Since(began), 3*time.Second)
}

// What no message carries both ends must have alike: queue pairs are as upstream's, but for
// the retries between two of ours, whose highest number is for ever to soft-RoCE.
func TestRDMAQueuePairsAreAsUpstreams(t *testing.T) {
	overSoftNIC(t)
	p := newPair(t, 1<<20, map[string]string{"MC_IB_TC": "106", "MC_IB_SL": "3", "MC_MTU": "1024", "MC_RDMA_QUEUE_PAIRS": "3"})
	require.NoError(t, move(t, p.seg, Write, repeated(p, 10)))
	reply, err := p.a.client.Connect(context.Background(), p.b.Name(), stranger(t, p.b))
	require.NoError(t, err)
	require.Len(t, reply.QPNum, 2)
	want := map[string]string{"state": "RTS", "access": fmt.Sprint(7 | uint32(rdmaOf(t, p.b).port.atomics())), "pkey": "0", "mtu": "3",
		"hop": "16", "tc": "106", "sl": "3", "rnr_timer": "12", "reads_in": "16", "rq_psn": "0", "timeout": "14", "rnr_retries": "7",
		"reads": "16", "sq_psn": "0"}
	retries := map[string]int{}
	for _, qp := range nic.QPs(t) {
		for name, value := range want {
			assert.Equal(t, value, qp[name], name)
		}
		retries[qp["retries"]]++
	}
	assert.Equal(t, map[string]int{"6": 6, "7": 2}, retries)
}
