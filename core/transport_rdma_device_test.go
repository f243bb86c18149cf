//go:build cgo

package core

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"mooncake/rdma"
)

// What is wrong with a device when an engine opens: by name it is an error that says
// which device and what to do; otherwise one line in the log, and the engine works over
// tcp.
func TestRDMAOpenFailures(t *testing.T) {
	for _, c := range []struct {
		name, setting, devices string
		kind                   error
		words                  []string
	}{
		{"no device", "ndev=0", "", ErrDevice, []string{"ibv_devices"}},
		{"permission", "denied=13", "", ErrDevice, []string{softDevice, "/dev/infiniband"}},
		{"no GID", "gids=none", "", ErrDevice, []string{softDevice, "GID"}},
		{"port down", "port=down", "", ErrDevice, []string{softDevice, "ip link"}},
		{"unknown device", "", "mlx5_9", ErrInvalid, []string{"mlx5_9", softDevice}},
		{"no room", "max_cqe=0", "", nil, []string{softDevice}},
		{"no domains", "max_pd=0", "", nil, []string{softDevice}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if !alone(t, c.setting) {
				return
			}
			cfg := testConfig(nil)
			cfg.Devices = c.devices
			_, err := Open("127.0.0.1", cfg)
			require.Error(t, err)
			t.Log(err)
			if c.kind != nil {
				assert.ErrorIs(t, err, c.kind)
			}
			for _, word := range c.words {
				assert.Contains(t, err.Error(), word)
			}
			assert.Empty(t, rdmaObjects())

			var out bytes.Buffer
			cfg.RDMA.Force = false
			cfg.Log = slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelWarn}))
			a, b := openEngine(t, "127.0.0.1", cfg), openEngine(t, "127.0.0.1", cfg)
			assert.Equal(t, 1, strings.Count(out.String(), "\n"), "%s", out.String())
			assert.Contains(t, out.String(), "using tcp")
			from, to := newArena(t, 4096), newArena(t, 4096)
			register(t, a, from)
			register(t, b, to)
			require.NoError(t, move(t, openSegment(t, a, b.Name()), Write, scatter(from, to, 4096, []int{0}, []int{0})))
		})
	}
}

// Memory that the device does not take: an error that says why, nothing is registered,
// and the engine stays usable.
func TestRDMARegistrationFailures(t *testing.T) {
	for _, c := range []struct {
		name, setting string
		kind          error
		words         []string
	}{
		{"memlock", "memlock=1M", nil, []string{softDevice}},
		{"too many", "max_mr=4", nil, []string{softDevice}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if !alone(t, c.setting) {
				return
			}
			p := newPair(t, 64<<10, nil)
			big := newArena(t, 4<<20)
			var ranges []Range
			for at := uint64(0); at < 4<<20; at += 512 << 10 {
				ranges = append(ranges, Range{big.addr() + at, 512 << 10})
			}
			_, err := p.b.Register(ranges, "*")
			require.Error(t, err)
			t.Log(err)
			for _, word := range c.words {
				assert.Contains(t, err.Error(), word)
			}
			assert.True(t, isAny(err, ErrFull, ErrDevice, ErrInvalid), "%v", err)
			assert.EqualValues(t, 1, p.b.Stats().Memories)
			require.NoError(t, move(t, p.seg, Write, repeated(p, 10)))
			_, err = p.b.Register(ranges[:1], "*")
			require.NoError(t, err, "what fits")
		})
	}
}

// Ranges longer than the device takes at once, and blocks across the borders.
func TestRDMALargeRangesAreSplit(t *testing.T) {
	over(t, "rdma")
	p := newPair(t, 1<<20, map[string]string{"MC_MAX_MR_SIZE": "65536"})
	p.memA.fill(1)
	for _, op := range []Op{Write, Read} {
		require.NoError(t, move(t, p.seg, op, scatter(p.memA, p.memB, 1<<20, []int{0}, []int{0})))
		slots := inOrder(10)
		require.NoError(t, move(t, p.seg, op, scatter(p.memA, p.memB, 100_000, slots, slots)))
	}
	assert.Equal(t, string(p.memA), string(p.memB))
	assert.EqualValues(t, 1, p.b.Stats().Memories)
}

// Small limits of a device only make requests smaller.
func TestRDMASmallLimits(t *testing.T) {
	for _, settings := range [][]string{
		{"max_sge=1", "max_sge_rd=1"}, {"max_qp_wr=4"}, {"max_reads=1"}, {"max_inline=0"}, {"max_cqe=512"},
		{"max_mr_size=65536"}, {"gids=v1"}, {"gids=v2at1"}, {"link=ib"}, {"ndev=1"},
	} {
		t.Run(settings[0], func(t *testing.T) {
			if !alone(t, settings...) {
				return
			}
			p := newPair(t, 1<<20, nil)
			for _, op := range []Op{Write, Read} {
				for _, size := range []int{24, 4096} {
					from, to := evenSlots(1<<20/size, 0), evenSlots(1<<20/size, 7)
					p.memA.fill(uint64(size))
					p.memB.fill(uint64(size) + 1)
					require.NoError(t, move(t, p.seg, op, scatter(p.memA, p.memB, size, from, to)))
					for i := range from {
						require.Equal(t, p.memA[from[i]*size:(from[i]+1)*size], p.memB[to[i]*size:(to[i]+1)*size])
					}
				}
				require.NoError(t, move(t, p.seg, op, scatter(p.memA, p.memB, 256, evenSlots(4096, 1), inOrder(2048))))
				require.NoError(t, move(t, p.seg, op, scatter(p.memA, p.memB, 1<<20, []int{0}, []int{0})))
				require.Equal(t, string(p.memA), string(p.memB))
			}
		})
	}
}

// A port that goes down under batches ends them with an error that names the device, at
// once and quiet; when it is up again, all is well.
func TestRDMAPortGoesDown(t *testing.T) {
	p := newSoftPair(t, 8<<20, nil)
	p.memA.poison(1)
	for _, op := range []Op{Write, Read} {
		setNIC(t, "rate=20k")
		b := underWay(t, p, op)
		began := time.Now()
		setNIC(t, "port=down")
		err := b.Wait(deadline)
		require.ErrorIs(t, err, ErrDevice)
		t.Logf("%v after %v", err, time.Since(began))
		assert.Contains(t, err.Error(), softDevice)
		assert.Contains(t, err.Error(), "quiet at both ends")
		assert.Less(t, time.Since(began), slack(500*time.Millisecond))
		watchPoison(t, p.memA, p.memB)
		require.ErrorIs(t, move(t, p.seg, op, repeated(p, 10)), ErrDevice)
		setNIC(t, "port=up", "rate=0")
		eventually(t, "the port to be used again", func() bool { return move(t, p.seg, op, repeated(p, 10)) == nil })
	}
}

// What happens to a port that is not used here leaves connections alone; a completion queue
// that is lost ends them, with an error that names the device.
func TestRDMAEventsOfTheDevice(t *testing.T) {
	p := newSoftPair(t, 8<<20, nil)
	require.NoError(t, move(t, p.seg, Write, repeated(p, 10)))
	r := rdmaOf(t, p.a)
	r.device(rdma.AsyncEvent{Kind: rdma.EventPortDown, Text: "port error", Port: 2})
	assert.Nil(t, r.port.down.Load())
	require.NoError(t, move(t, p.seg, Write, repeated(p, 10)))
	assert.EqualValues(t, 1, p.a.Stats().ConnectionsOpened)

	setNIC(t, "rate=20k")
	b := underWay(t, p, Write)
	r.device(rdma.AsyncEvent{Kind: rdma.EventCQBroken, Text: "CQ error"})
	err := b.Wait(deadline)
	require.ErrorIs(t, err, ErrDevice)
	assert.Contains(t, err.Error(), softDevice+": CQ error")
	require.ErrorIs(t, move(t, p.seg, Write, repeated(p, 10)), ErrDevice)
}

// Another GID: connections are made by the new one, batches arrive.
func TestRDMAGIDChanges(t *testing.T) {
	p := newSoftPair(t, 8<<20, nil)
	for _, entry := range []string{"gidnet=1", "gidnet=2", "gidnet=0"} {
		before := rdmaOf(t, p.a).port.address.Load().gidText()
		in := p.startInnocents(t, 4)
		setNIC(t, entry)
		in.verify(t)
		eventually(t, "the new GID", func() bool { return rdmaOf(t, p.a).port.address.Load().gidText() != before })
		require.NoError(t, move(t, p.seg, Write, repeated(p, 10)))
	}
}

// A device that is lost takes its engine's transfers with it, but not the process.
func TestRDMADeviceIsLost(t *testing.T) {
	if !alone(t) {
		return
	}
	p := newPair(t, 8<<20, nil)
	setNIC(t, "rate=20k")
	b := underWay(t, p, Write)
	setNIC(t, "fatal=1")
	err := b.Wait(deadline)
	require.ErrorIs(t, err, ErrDevice)
	assert.Contains(t, err.Error(), softDevice)
	require.ErrorIs(t, move(t, p.seg, Write, repeated(p, 10)), ErrDevice)
	more := newArena(t, 4096)
	_, err = p.a.Register([]Range{{more.addr(), 4096}}, "*")
	require.ErrorIs(t, err, ErrDevice, "not the caller's argument")
	require.NoError(t, p.a.Close())
	require.NoError(t, p.b.Close())
	assert.Empty(t, rdmaObjects())
}

// More peers than the completion queue could hold at full depth, and all of them at once.
func TestRDMAManyPeers(t *testing.T) {
	const peers = 256
	over(t, "rdma")
	cfg := testConfig(nil)
	hub := openEngine(t, "127.0.0.1", cfg)
	mem := newArena(t, peers*4096)
	mem.fill(1)
	register(t, hub, mem)
	small := testConfig(map[string]string{"MC_MAX_CQE_PER_CTX": "256", "MC_MAX_WR": "16"})
	others, theirs := make([]*Engine, peers), newArena(t, peers*4096)
	began := time.Now()
	var wg sync.WaitGroup
	for i := range peers {
		wg.Go(func() {
			var err error
			others[i], err = Open("127.0.0.1", small)
			if assert.NoError(t, err) {
				_, err = others[i].Register([]Range{{theirs.addr() + uint64(i)*4096, 4096}}, "*")
				assert.NoError(t, err)
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
	defer func() {
		for _, e := range others {
			wg.Go(func() { e.Close() })
		}
		wg.Wait()
	}()
	t.Logf("%d engines after %v", peers, time.Since(began))
	began = time.Now()
	one := func(from, to *Engine, op Op, blocks Blocks) {
		seg, err := from.OpenSegment(context.Background(), to.Name())
		if assert.NoError(t, err) {
			assert.NoError(t, move(t, seg, op, blocks))
		}
	}
	for i := range peers {
		wg.Go(func() { one(hub, others[i], Write, scatter(mem, theirs, 4096, []int{i}, []int{i})) })
	}
	wg.Wait()
	t.Logf("the hub reached all after %v", time.Since(began))
	assert.Equal(t, string(mem), string(theirs))
	theirs.fill(9)
	began = time.Now()
	for i := range peers {
		wg.Go(func() { one(others[i], hub, Write, scatter(theirs, mem, 4096, []int{i}, []int{i})) })
	}
	wg.Wait()
	t.Logf("all reached the hub after %v", time.Since(began))
	assert.Equal(t, string(theirs), string(mem))
}

// Devices are taken from Config.Devices, else from MC_TE_FILTERS, the first that works.
func TestRDMADevicesByName(t *testing.T) {
	overSoftNIC(t)
	for _, c := range []struct{ devices, filter, want string }{
		{"", "", "mlx5_0"}, {"mlx5_1", "", "mlx5_1"}, {"", "mlx5_1", "mlx5_1"}, {"mlx5_0", "mlx5_1", "mlx5_0"},
	} {
		cfg := testConfig(map[string]string{"MC_TE_FILTERS": c.filter})
		cfg.Devices = c.devices
		e := openEngine(t, "127.0.0.1", cfg)
		assert.Equal(t, c.want, rdmaOf(t, e).port.name, fmt.Sprint(c))
	}
	setNIC(t, "port=down")
	e := openEngine(t, "127.0.0.1", testConfig(nil))
	assert.Equal(t, "mlx5_1", rdmaOf(t, e).port.name)
}

// With MC_FORCE_HCA a peer without rdma is an error that says so, and not reached otherwise;
// other peers are.
func TestRDMAForcedTowardsAPeerOfTCP(t *testing.T) {
	p := newRDMAPair(t, 1<<20, nil)
	cfg := testConfig(map[string]string{"MC_FORCE_TCP": "1"})
	plain := openEngine(t, "127.0.0.1", cfg)
	_, err := p.a.OpenSegment(context.Background(), plain.Name())
	require.ErrorIs(t, err, ErrUnsupported)
	for _, word := range []string{plain.Name(), "offers [tcp]", "MC_FORCE_HCA"} {
		assert.Contains(t, err.Error(), word)
	}
	require.NoError(t, move(t, p.seg, Write, repeated(p, 10)))
}

// The thread that polls a port spins only where cores are to spare.
func TestPollersSpinWithManyCores(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(0))
	for cores, spins := range map[int]bool{1: false, 2: false, spareCores - 1: false, spareCores: true, 64: true} {
		runtime.GOMAXPROCS(cores)
		assert.Equal(t, spins, pollerSpin() > 0, "%d cores", cores)
	}
}
