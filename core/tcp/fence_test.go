package tcp

import (
	"context"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var loopback = netip.MustParseAddr("127.0.0.1")

func fenced(t *testing.T, s *Server, who Identity) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_, err := s.Fence(ctx, who)
	require.NoError(t, err)
}

// greeting makes a peer introduce itself as from; known is how many fences of the
// server it knows of.
func greeting(from Instance, name string, known *atomic.Uint64) func(*PeerConfig, *dialer) {
	return func(cfg *PeerConfig, d *dialer) {
		d.hello = &Hello{Target: Instance{1, 2, 3}, From: from, Name: name}
		cfg.Fences = known.Load
	}
}

// After Fence the peer's connections are gone, no byte of what it had begun lands,
// its postings end, and what it begins with knowledge of the fence works.
func TestFenceEndsWhatWasBegun(t *testing.T) {
	me := Instance{7}
	for name, who := range map[string]Identity{
		"by instance": {Instance: me, Addrs: []netip.Addr{loopback}},
		"by name":     {Names: []string{"other", "me:1"}},
		"by both":     {Instance: me, Names: []string{"me:1"}},
	} {
		t.Run(name, func(t *testing.T) {
			const n, size = 100_000, 256
			var known, others atomic.Uint64
			p := newPair(t, 2*n*size, greeting(me, "me:1", &known))
			p.near.poison(1)
			other := startPeer(t, p.server.listener.Addr().String(), greeting(Instance{8}, "else:1", &others))
			small := p.row(1, size, 2*size)
			src, _ := post(other, true, small)
			src.well(t)

			old, _ := post(p.peer, true, p.row(n, size, 2*size))
			old.started(t)
			half := newSource(p.row(n, size, 2*size)).publish(10)
			unsealed := p.peer.Post(true, half)
			unsealed.Kick()
			fenced(t, p.server, who)
			watchPoison(t, p.far)
			if end := old.end(t); end.Err != nil {
				require.ErrorIs(t, end.Err, ErrFenced)
				require.True(t, end.Quiet)
			}
			half.publish(-1)
			unsealed.Seal()
			require.ErrorIs(t, half.end(t).Err, ErrFenced, "began before the fence")

			known.Store(p.server.Fences())
			src, _ = post(p.peer, true, small)
			src.well(t)
			src, _ = post(other, true, small)
			src.well(t)
			other.mu.Lock()
			require.Zero(t, other.breaks, "the other peer's connection was not left alone")
			other.mu.Unlock()
		})
	}
}

// Peers that do not introduce themselves are known by address only.
func TestFenceByAddress(t *testing.T) {
	for name, who := range map[string]Identity{
		"upstream":             {Names: []string{"them:1"}, Addrs: []netip.Addr{netip.AddrFrom16(loopback.As16())}},
		"ours under version 1": {Instance: Instance{99}, Addrs: []netip.Addr{loopback}},
	} {
		t.Run(name, func(t *testing.T) {
			var known atomic.Uint64
			s := newServed(t, 1<<20)
			raw := dialRaw(t, s.server)
			raw.send(request(opWrite|flagV2, s.arena.addr(), 1000), make([]byte, 500))
			greeted := startPeer(t, s.server.listener.Addr().String(), greeting(Instance{7}, "me:1", &known))
			src, _ := post(greeted, true, []Slice{{s.arena.addr(), s.arena.addr() + 4096, 1, host{}}})
			src.well(t)
			require.Equal(t, 2, s.server.Connections())
			fenced(t, s.server, Identity{Addrs: []netip.Addr{netip.MustParseAddr("10.0.0.1")}})
			require.Equal(t, 2, s.server.Connections(), "fenced somebody else")
			fenced(t, s.server, who)
			raw.Write(make([]byte, 500))
			watchPoison(t, s.arena)
			raw.expectClose()
			eventually(t, "the connection to be gone", func() bool { return s.server.Connections() == 1 })
		})
	}
}

// An older process of the same name may still be connected.
func TestFenceByNameReachesOlderProcesses(t *testing.T) {
	s := newServed(t, 4096)
	for i := range 3 {
		raw := dialRaw(t, s.server)
		_, err := Greet(context.Background(), raw, Hello{Target: Instance{1, 2, 3}, From: Instance{byte(10 + i)}, Name: "me:1"})
		require.NoError(t, err)
	}
	require.Equal(t, 3, s.server.Connections())
	fenced(t, s.server, Identity{Names: []string{"me:1"}})
	eventually(t, "all to be gone", func() bool { return s.server.Connections() == 0 })
}

func TestFenceOfNobodyAndOfIdlePeers(t *testing.T) {
	s := newServed(t, 4096)
	fenced(t, s.server, Identity{})
	fenced(t, s.server, Identity{Names: []string{"nobody"}, Instance: Instance{5}})
	require.EqualValues(t, 2, s.server.Fences())
	g, err := Greet(context.Background(), dialRaw(t, s.server), Hello{Target: Instance{1, 2, 3}, From: Instance{5}})
	require.NoError(t, err)
	require.EqualValues(t, 2, g.Fenced)
	require.Equal(t, Instance{1, 2, 3}, g.Instance)
}

// A memory that hangs: Fence gives up with its context, having begun.
func TestFenceWaitsForTheMemory(t *testing.T) {
	d := newDevice(4096)
	gate := make(chan struct{})
	open := sync.OnceFunc(func() { close(gate) })
	mem := &table{}
	mem.add(newRegion(&stuck{d, gate}, d.base, d.base+4096))
	s := startServer(t, mem)
	t.Cleanup(open)
	raw := dialRaw(t, s)
	raw.send(request(opWrite|flagV2, d.base, 5), []byte("bytes"))
	eventually(t, "the store", func() bool { return mem.regions[0].held() == 1 })
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	who := Identity{Addrs: []netip.Addr{loopback}}
	_, err := s.Fence(ctx, who)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	// The connection must not look closed to the peer while the store goes on.
	raw.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	_, err = raw.Read(make([]byte, 1))
	require.ErrorIs(t, err, os.ErrDeadlineExceeded, "closed before the memory was left alone")
	open()
	fenced(t, s, who)
	raw.SetReadDeadline(time.Now().Add(patience))
	raw.expectClose()
}

// stuck is memory whose stores wait for the gate.
type stuck struct {
	*device
	gate chan struct{}
}

func (m *stuck) Store(addr uint64, p []byte) error {
	<-m.gate
	return m.device.Store(addr, p)
}

func (m *stuck) Scatter(addr, length []uint64, p []byte) error {
	<-m.gate
	return m.device.Scatter(addr, length, p)
}

// What the server remembers of peers is bounded, and forgetting errs on the safe
// side: a peer that was fenced stays so.
func TestFenceMemoryIsBounded(t *testing.T) {
	s := newServed(t, 4096, func(cfg *ServerConfig) { cfg.MaxConns = 4 })
	first := Instance{1}
	fenced(t, s.server, Identity{Instance: first})
	for i := range 100 {
		fenced(t, s.server, Identity{Instance: Instance{2, byte(i)}})
		raw := dialRaw(t, s.server)
		_, err := Greet(context.Background(), raw, Hello{Target: Instance{1, 2, 3}, From: Instance{3, byte(i)}, Name: string(rune(i))})
		require.NoError(t, err)
		raw.Close()
		eventually(t, "the connection to end", func() bool { return s.server.Connections() == 0 })
	}
	s.server.mu.Lock()
	require.LessOrEqual(t, len(s.server.fenced), 16)
	require.LessOrEqual(t, len(s.server.named), 16)
	s.server.mu.Unlock()
	g, err := Greet(context.Background(), dialRaw(t, s.server), Hello{Target: Instance{1, 2, 3}, From: first})
	require.NoError(t, err)
	require.GreaterOrEqual(t, g.Fenced, uint64(1))
}

func TestHelloRefusals(t *testing.T) {
	s := newServed(t, 4096)
	good := Hello{Target: Instance{1, 2, 3}, From: Instance{5}, Name: "me"}.encode()
	raw := dialRaw(t, s.server)
	raw.send(good, good)
	raw.expect(Greeting{Instance: Instance{1, 2, 3}}.encode(), rejectedBytes)
	raw.expectClose()

	raw = dialRaw(t, s.server)
	raw.send(Hello{Target: Instance{4}}.encode())
	raw.expect([]byte("\x03\x00\x00\x00VTCM"))
	raw.expectClose()

	raw = dialRaw(t, s.server)
	raw.send(request(opHello|flagV2, HelloVersion, 5), []byte("hello"))
	raw.expectClose()
	s.alive(t)
}

// Requests may follow a hello without waiting for the answer.
func TestHelloIsPipelined(t *testing.T) {
	s := newServed(t, 4096)
	raw := dialRaw(t, s.server)
	raw.send(Hello{Target: Instance{1, 2, 3}}.encode(), request(opRead|flagV2, s.arena.addr(), 3))
	raw.expect(Greeting{Instance: Instance{1, 2, 3}}.encode(), okBytes, []byte{0, 0, 0})
}
