//go:build cgo

package core

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"mooncake/core/metadata"
)

// A peer by two names is one process with one connection, also when an earlier process had
// one of the names.
func TestRDMAOnePeerByTwoNames(t *testing.T) {
	p := newRDMAPair(t, 1<<20, map[string]string{"MC_HANDSHAKE_CONNECT_TIMEOUT": "2"})
	require.NoError(t, move(t, p.seg, Write, repeated(p, 10)))
	port := p.b.Port()
	require.NoError(t, p.b.Close())
	cfg := testConfig(nil)
	cfg.RPCPort = port
	b := openEngine(t, "127.0.0.1", cfg)
	register(t, b, p.memB)
	for _, name := range []string{"localhost", "127.0.0.1"} {
		s, err := p.a.OpenSegment(context.Background(), fmt.Sprintf("%s:%d", name, port))
		require.NoError(t, err)
		require.NoError(t, move(t, s, Write, repeated(p, 10)), name)
	}
	assert.EqualValues(t, 2, p.a.Stats().ConnectionsOpened)
}

// Peers of other kinds are one process by two names if their devices are the same.
func TestSameProcessOfAnotherKind(t *testing.T) {
	e := openEngine(t, "127.0.0.1", testConfig(nil))
	d := func(gid string) *metadata.Descriptor {
		return &metadata.Descriptor{Name: "peer:1", Devices: []metadata.Device{{Name: "mlx5_0", GID: gid}}}
	}
	p := &process{engine: e, name: "peer:1", identity: identityOf(d("a"))}
	p.known.Store(newKnowledge(d("a")))
	e.mu.Lock()
	e.live[p] = struct{}{}
	assert.Same(t, p, e.sameProcess(d("a")))
	assert.Nil(t, e.sameProcess(d("b")))
	assert.Nil(t, e.sameProcess(&metadata.Descriptor{Name: "peer:1"}), "without devices there is no connection to share")
	p.gone.Store(true)
	assert.Nil(t, e.sameProcess(d("a")))
	delete(e.live, p)
	e.mu.Unlock()
}
