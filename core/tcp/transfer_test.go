package tcp

import (
	"fmt"
	"math/rand/v2"
	"net"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"
)

// scattered cuts arenas of equal size into n slices that cover half of them, with
// gaps in between, in random order on both sides: local piece order[i] goes with
// remote piece i.
func scattered(m Mover, local, remote uint64, n, size int, seed uint64) []Slice {
	out := make([]Slice, n)
	for i, j := range rand.New(rand.NewPCG(seed, 2)).Perm(n) {
		out[i] = Slice{Local: local + uint64(2*j*size), Remote: remote + uint64(2*i*size), Len: uint64(size), Mover: m}
	}
	return out
}

// moved checks every byte of to: what slices moved there, and that everything else
// is still poison.
func moved(t *testing.T, slices []Slice, from, to arena, write bool, poison byte) {
	t.Helper()
	want := make(arena, len(to))
	want.poison(poison)
	for _, s := range slices {
		src, dst := s.Local, s.Remote
		if !write {
			src, dst = dst, src
		}
		copy(want[dst-to.addr():][:s.Len], from[src-from.addr():][:s.Len])
	}
	if string(want) == string(to) {
		return
	}
	for i := range want {
		if want[i] != to[i] {
			require.Failf(t, "wrong byte", "at %d: %#x instead of %#x", i, to[i], want[i])
		}
	}
}

// both runs a test for writes and reads.
func both(t *testing.T, f func(t *testing.T, write bool)) {
	for _, name := range []string{"many", "each"} {
		t.Run(name, func(t *testing.T) {
			t.Cleanup(func() { framing = framings["many"] })
			framing = framings[name]
			t.Run("write", func(t *testing.T) { f(t, true) })
			t.Run("read", func(t *testing.T) { f(t, false) })
		})
	}
}

// ways returns where the bytes come from and where they go to.
func (p *pair) ways(write bool) (from, to arena) {
	if write {
		return p.near, p.far
	}
	return p.far, p.near
}

func TestMoveSizes(t *testing.T) {
	both(t, func(t *testing.T, write bool) {
		p := newPair(t, 64<<20)
		from, to := p.ways(write)
		from.fill(1)
		for _, c := range []struct{ n, size int }{
			{1, 1}, {1000, 1}, {300, 7}, {257, 512}, {1, directMin - 1}, {64, directMin}, {64, directMin + 1},
			{33, serveBuffer - HeaderSize}, {33, serveBuffer}, {16, 1<<20 + 1}, {2, 16 << 20},
		} {
			t.Run(fmt.Sprintf("%dx%d", c.n, c.size), func(t *testing.T) {
				slices := scattered(host{}, p.near.addr(), p.far.addr(), c.n, c.size, 3)
				used := 2*c.n*c.size + 4096
				to[:min(used, len(to))].poison(0xA5)
				src, _ := post(p.peer, write, slices)
				src.well(t)
				used = min(used, len(to))
				moved(t, slices, from, to[:used], write, 0xA5)
			})
		}
		eventually(t, "the pins to be given back", func() bool { return p.region.held() == 0 })
	})
}

func TestMoveHundredThousandBlocks(t *testing.T) {
	both(t, func(t *testing.T, write bool) {
		const n, size = 100_000, 80
		p := newPair(t, 2*n*size)
		from, to := p.ways(write)
		from.fill(1)
		to.poison(0xA5)
		slices := scattered(host{}, p.near.addr(), p.far.addr(), n, size, 3)
		src, _ := post(p.peer, write, slices)
		src.well(t)
		moved(t, slices, from, to, write, 0xA5)
	})
}

// Writes and reads of several postings share lanes.
func TestMoveManyPostingsAtOnce(t *testing.T) {
	const postings, n, size = 24, 400, 3000
	p := newPair(t, 2*postings*n*size)
	part := len(p.near) / postings
	p.near.fill(1)
	p.far.fill(2)
	near, far := make(arena, len(p.near)), make(arena, len(p.far))
	copy(near, p.near)
	copy(far, p.far)
	var sources []*source
	for i := range postings {
		slices := scattered(host{}, p.near.addr()+uint64(i*part), p.far.addr()+uint64(i*part), n, size, uint64(i))
		src, _ := post(p.peer, i%2 == 0, slices)
		sources = append(sources, src)
		for _, s := range slices {
			a, b := s.Local-p.near.addr(), s.Remote-p.far.addr()
			if i%2 == 0 {
				copy(far[b:][:s.Len], near[a:][:s.Len])
			} else {
				copy(near[a:][:s.Len], far[b:][:s.Len])
			}
		}
	}
	for _, src := range sources {
		src.well(t)
	}
	require.True(t, string(near) == string(p.near), "local memory")
	require.True(t, string(far) == string(p.far), "remote memory")
	require.LessOrEqual(t, p.server.Connections(), defaultLanes)
}

func TestMoveOverIPv6(t *testing.T) {
	l, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		t.Skip("no IPv6 on the loopback device: ", err)
	}
	near, far := newArena(t, 1<<20), newArena(t, 1<<20)
	mem := &table{}
	mem.add(newRegion(host{}, far.addr(), far.end()))
	s := NewServer(l, ServerConfig{Memory: mem, Log: quietLog})
	t.Cleanup(s.Close)
	near.fill(1)
	p := startPeer(t, l.Addr().String())
	slices := scattered(host{}, near.addr(), far.addr(), 100, 4096, 1)
	src, _ := post(p, true, slices)
	src.well(t)
	moved(t, slices, near, far, true, 0)
}

// Memory that system calls cannot reach, at either end or both.
func TestMoveThroughStaging(t *testing.T) {
	const size = 2<<20 + 4096
	for _, version := range []int{1, 2} {
		for _, ends := range []string{"near", "far", "both"} {
			t.Run(fmt.Sprintf("v%d/%s", version, ends), func(t *testing.T) {
				both(t, func(t *testing.T, write bool) {
					near, far := newDevice(size), newDevice(size)
					nearHost, farHost := newArena(t, size), newArena(t, size)
					nearMover, nearAddr, nearBytes := Mover(near), near.base, near.b
					farMover, farAddr, farBytes := Mover(far), far.base, far.b
					if ends == "far" {
						nearMover, nearAddr, nearBytes = host{}, nearHost.addr(), nearHost
					}
					if ends == "near" {
						farMover, farAddr, farBytes = host{}, farHost.addr(), farHost
					}
					arena(nearBytes).fill(1)
					arena(farBytes).fill(2)
					mem := &table{}
					mem.add(newRegion(farMover, farAddr, farAddr+size))
					s := startServer(t, mem)
					p := startPeer(t, s.listener.Addr().String(), func(cfg *PeerConfig, _ *dialer) { cfg.Version = version })

					slices := []Slice{}
					for at := 0; at < 4096*8; at += 4096 {
						slices = append(slices, Slice{nearAddr + uint64(at), farAddr + uint64(at), 1000, nearMover})
					}
					slices = append(slices, Slice{nearAddr + 1<<20, farAddr + 1<<20, 1<<20 + 3, nearMover})
					src, _ := post(p, write, slices)
					src.well(t)
					p.Close()
					s.Close()
					got, seed, from := arena(farBytes), uint64(2), nearBytes
					if !write {
						got, seed, from = nearBytes, 1, farBytes
					}
					want := make(arena, size)
					want.fill(seed)
					for at := 0; at < 4096*8; at += 4096 {
						copy(want[at:][:1000], from[at:])
					}
					copy(want[1<<20:][:1<<20+3], from[1<<20:])
					require.True(t, string(want) == string(got))
				})
			})
		}
	}
}

// A posting whose memory is of several kinds.
func TestMoveMixedKindsOfMemory(t *testing.T) {
	p := newPair(t, 1<<20)
	d := newDevice(1 << 20)
	arena(d.b).fill(3)
	p.near.fill(1)
	var slices []Slice
	for i := range 200 {
		off := uint64(i * 4096)
		s := Slice{p.near.addr() + off, p.far.addr() + off, 4096, host{}}
		if i%3 == 2 {
			s.Local, s.Mover = d.base+off, d
		}
		slices = append(slices, s)
	}
	src, _ := post(p.peer, true, slices)
	src.well(t)
	for i := range 200 {
		want := p.near
		if i%3 == 2 {
			want = d.b
		}
		require.True(t, string(want[i*4096:][:4096]) == string(p.far[i*4096:][:4096]), "slice %d", i)
	}
}

// A source whose slices come in windows, while others are on their way.
func TestMoveInWindows(t *testing.T) {
	both(t, func(t *testing.T, write bool) {
		const n, size = 5000, 600
		p := newPair(t, 2*n*size)
		from, to := p.ways(write)
		from.fill(1)
		to.poison(0xA5)
		slices := scattered(host{}, p.near.addr(), p.far.addr(), n, size, 3)
		src := newSource(slices)
		po := p.peer.Post(write, src)
		po.Kick() // nothing yet
		for shown := 0; shown < n; shown += 37 {
			src.publish(37)
			po.Kick()
			if shown%11 == 0 { // let it run dry now and then
				eventually(t, "the window to be confirmed", func() bool { done, _ := src.counts(); return done == min(shown+37, n) })
			}
		}
		require.Empty(t, src.ends, "ended before it was sealed")
		po.Seal()
		src.well(t)
		po.Kick() // harmless afterwards
		po.Seal()
		po.Stop(ErrClosed)
		src.well(t)
		moved(t, slices, from, to, write, 0xA5)
	})
}

func TestEmptyPostingEndsWell(t *testing.T) {
	p := newPair(t, 4096)
	src, _ := post(p.peer, true, nil)
	src.well(t)
	require.Zero(t, p.server.Connections(), "connected for nothing")
}

// A small posting is not kept waiting by a huge one, whoever sends.
func TestSmallPostingPassesHugeOne(t *testing.T) {
	const n, size = 200_000, 256
	for _, lanesOf := range []int{1, 4} {
		t.Run(fmt.Sprintf("%d lanes", lanesOf), func(t *testing.T) {
			p := newPair(t, 2*n*size, lanes(lanesOf))
			huge := newSource(p.row(n, size, 2*size)).publish(-1)
			po := p.peer.Post(true, huge)
			go po.Seal()
			eventually(t, "the huge posting to be on its way", func() bool { done, _ := huge.counts(); return done > 0 })
			before, _ := huge.counts()
			small, _ := post(p.peer, true, p.row(10, size, 2*size))
			small.well(t)
			after, _ := huge.counts()
			t.Logf("%d of %d slices went by meanwhile", after-before, n)
			require.Less(t, after-before, n/2)
			huge.well(t)
		})
	}
}

// Slices cost no allocation at either end.
func TestNoAllocationPerSlice(t *testing.T) {
	both(t, func(t *testing.T, write bool) {
		const n, size = 100_000, 64
		p := newPair(t, 2*n*size)
		slices := p.row(n, size, 2*size)
		src, _ := post(p.peer, write, slices) // opens the lanes
		src.well(t)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		src, _ = post(p.peer, write, slices)
		src.well(t)
		runtime.ReadMemStats(&after)
		mallocs := after.Mallocs - before.Mallocs
		t.Logf("%d allocations for %d slices", mallocs, n)
		require.Less(t, mallocs, uint64(n/50))
	})
}
