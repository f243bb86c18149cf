//go:build cgo

package core

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"mooncake/core/metadata"
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
		"no queue pairs":       func(m *metadata.ConnectionMessage) { m.QPNum = nil },
		"no GID":               func(m *metadata.ConnectionMessage) { m.LocalGID = "there" },
		"another device":       func(m *metadata.ConnectionMessage) { m.PeerNICPath += "9" },
		"another server":       func(m *metadata.ConnectionMessage) { m.PeerNICPath = "192.0.2.1:1@mlx5_0" },
		"no path":              func(m *metadata.ConnectionMessage) { m.LocalNICPath = "" },
		"no device in it":      func(m *metadata.ConnectionMessage) { m.LocalNICPath = "192.0.2.7" },
		"an ack to nothing":    func(m *metadata.ConnectionMessage) { yes := true; m.ReadyAck = &yes },
		"an unknown extension": func(m *metadata.ConnectionMessage) { m.Extension = &metadata.ConnectionExtension{} },
	} {
		m := stranger(t, p.b)
		spoil(m)
		reply, err := p.a.client.Connect(context.Background(), p.b.Name(), m)
		if err == nil {
			assert.NotEmpty(t, reply.ReplyMsg, name)
			assert.Empty(t, reply.QPNum, name)
		}
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
