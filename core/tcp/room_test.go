package tcp

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// Clients that connect and say nothing lock nobody out; those that have made a
// request keep their connection, also when idle.
func TestSilentClientsMakeRoom(t *testing.T) {
	const limit = 4
	s := newServed(t, 4096, func(cfg *ServerConfig) { cfg.MaxConns = limit })
	ask := request(opRead|flagV2, s.arena.addr(), 1)
	idle := dialRaw(t, s.server)
	idle.send(ask)
	idle.expect(okBytes, []byte{0})
	for range 50 {
		dialRaw(t, s.server)
	}
	for range 2 * limit {
		good := dialRaw(t, s.server)
		good.send(ask)
		good.expect(okBytes, []byte{0})
		good.Close()
	}
	eventually(t, "those evicted are gone", func() bool { return s.server.Connections() <= limit })
	idle.send(ask)
	idle.expect(okBytes, []byte{0})
}

func TestDefaultMaxConnsIsPositive(t *testing.T) {
	n := defaultMaxConns()
	require.GreaterOrEqual(t, n, 16)
	require.LessOrEqual(t, n, mostConns)
}
