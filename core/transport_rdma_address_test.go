//go:build cgo

package core

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// twoPorts opens an engine on each of two ports of the software NIC, with memory, so that
// one of the ports can be changed alone.
func twoPorts(t *testing.T, one, other Config) *pair {
	p := &pair{memA: newArena(t, 64<<10), memB: newArena(t, 64<<10)}
	one.Devices, other.Devices = "mlx5_0", "mlx5_1"
	p.a, p.b = openEngine(t, "127.0.0.1", one), openEngine(t, "127.0.0.1", other)
	p.regA, p.regB = register(t, p.a, p.memA), register(t, p.b, p.memB)
	p.seg = openSegment(t, p.a, p.b.Name())
	return p
}

func gidIndex(t *testing.T, e *Engine) int { return rdmaOf(t, e).port.address.Load().gid.Index }

// gid3, a mask for dead_gids: the GID at index 3, which is the best.
const gid3 = "dead_gids=8"

// A GID from which a peer cannot be reached is given up for another one, by initiators as
// by responders, whatever the device says; it is said in the log, and stays so.
func TestRDMAAnotherGIDReachesThePeer(t *testing.T) {
	overSoftNIC(t)
	for _, errno := range []int{22, 61, 110, 101, 113, 99} {
		t.Run(fmt.Sprint("errno ", errno), func(t *testing.T) {
			var out bytes.Buffer
			cfg := testConfig(nil)
			loud := cfg
			loud.Log = slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelWarn}))
			p := twoPorts(t, loud, cfg)
			setNIC(t, gid3, fmt.Sprint("dead_gid_errno=", errno))
			back := openSegment(t, p.b, p.a.Name())
			blocks := scatter(p.memB, p.memA, 4096, inOrder(16), inOrder(16))
			if errno == 22 { // where this engine answers first
				require.NoError(t, move(t, back, Write, blocks))
			}
			require.NoError(t, move(t, p.seg, Write, repeated(p, 10)))
			require.Equal(t, 1, gidIndex(t, p.a))
			require.Equal(t, 3, gidIndex(t, p.b))
			require.NoError(t, move(t, back, Write, blocks))

			port := rdmaOf(t, p.a).port
			require.NoError(t, port.look(), "as after an event of the port")
			require.Equal(t, 1, gidIndex(t, p.a), "it is remembered what does not work")
			c := openEngine(t, "127.0.0.1", cfg)
			register(t, c, newArena(t, 4096))
			_, err := p.a.OpenSegment(context.Background(), c.Name())
			require.NoError(t, err)
			assert.Equal(t, 1, strings.Count(out.String(), "\n"), "%s", out.String())
			for _, word := range []string{"mlx5_0", "gid_index=1", "GID 3 198.51.100.1"} {
				assert.Contains(t, out.String(), word)
			}
			seen, err := p.b.client.Fetch(context.Background(), p.a.Name())
			require.NoError(t, err)
			require.Equal(t, port.address.Load().gidText(), seen.Devices[0].GID, "peers are told")
		})
	}
}

// Both ends on one port that has to change its GID.
func TestRDMABothEndsTakeAnotherGID(t *testing.T) {
	p := newSoftPair(t, 64<<10, nil)
	setNIC(t, gid3)
	for _, op := range []Op{Write, Read} {
		require.NoError(t, move(t, p.seg, op, repeated(p, 10)))
	}
	require.Equal(t, []int{1, 1}, []int{gidIndex(t, p.a), gidIndex(t, p.b)})
}

// When the port's table changes, what did not work before may work.
func TestRDMAGIDIsTakenAgain(t *testing.T) {
	p := newSoftPair(t, 64<<10, nil)
	setNIC(t, gid3)
	require.NoError(t, move(t, p.seg, Write, repeated(p, 10)))
	require.Equal(t, 1, gidIndex(t, p.a))
	setNIC(t, "dead_gids=0", "gidnet=1")
	eventually(t, "the best GID to be taken", func() bool { return gidIndex(t, p.a) == 3 })
	require.NoError(t, move(t, p.seg, Write, repeated(p, 10)))
}

// No GID reaches the peer: the error names each one that was tried, and why it will not do,
// and nothing is changed.
func TestRDMANoGIDReachesThePeer(t *testing.T) {
	overSoftNIC(t)
	for _, c := range []struct {
		name  string
		vars  map[string]string
		words []string
		not   string
	}{
		{"all", nil, []string{"mlx5_0 port 1", "GID 3 198.51.100.1", "GID 1 fe80::", "ENETUNREACH", "routes"}, "MC_AUTO_GID_MAX_RETRIES"},
		{"fixed", map[string]string{"MC_GID_INDEX": "3"}, []string{"GID index 3", "MC_GID_INDEX", "ENETUNREACH"}, "GID 1"},
		{"none allowed", map[string]string{"MC_AUTO_GID_MAX_RETRIES": "0"}, []string{"GID 3 198.51.100.1", "raise MC_AUTO_GID_MAX_RETRIES"}, "GID 1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := twoPorts(t, testConfig(c.vars), testConfig(nil))
			setNIC(t, "dead_gids=65535", "dead_gid_errno=101")
			err := move(t, p.seg, Write, repeated(p, 10))
			require.ErrorIs(t, err, ErrDevice)
			t.Log(err)
			back := openSegment(t, p.b, p.a.Name())
			said := move(t, back, Write, scatter(p.memB, p.memA, 4096, []int{0}, []int{0}))
			require.ErrorIs(t, said, ErrPeer)
			t.Log(said)
			for _, err := range []error{err, said} {
				for _, word := range c.words {
					assert.Contains(t, err.Error(), word)
				}
				assert.NotContains(t, err.Error(), c.not)
			}
			assert.Equal(t, 3, gidIndex(t, p.a))
			setNIC(t, "dead_gids=0")
			require.NoError(t, move(t, p.seg, Write, repeated(p, 10)))
		})
	}
}

// Between two of ours the smaller path MTU counts: queue pairs with different ones refuse
// long requests.
func TestRDMAPathMTUIsTheSmallerOne(t *testing.T) {
	overSoftNIC(t)
	for _, mtu := range []string{"512", "4096"} {
		t.Run(mtu, func(t *testing.T) {
			p := twoPorts(t, testConfig(map[string]string{"MC_MTU": mtu}), testConfig(map[string]string{"MC_MTU": "1024"}))
			for _, op := range []Op{Write, Read} {
				p.memA.fill(1)
				p.memB.fill(2)
				require.NoError(t, move(t, p.seg, op, scatter(p.memA, p.memB, 64<<10, []int{0}, []int{0})))
				require.Equal(t, string(p.memA), string(p.memB))
			}
		})
	}
}

// What is no matter of the address is not taken for one.
func TestNoRoute(t *testing.T) {
	require.False(t, noRoute(nil))
	require.False(t, noRoute(errors.New("no room")))
}
