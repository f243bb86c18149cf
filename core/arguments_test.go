package core

import (
	"context"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestSubmitRefusesBadBlocks(t *testing.T) {
	p := newPair(t, 8192, nil)
	l, r, end := p.memA.addr(), p.memB.addr(), uint64(8192)
	one := func(a, b, n uint64) Blocks {
		return Blocks{Local: []uint64{l, a}, Remote: []uint64{r, b}, Length: []uint64{1, n}}
	}
	p.memB.poison(9)
	tests := map[string]struct {
		op     Op
		blocks Blocks
		want   error
		text   string
	}{
		"op":                 {7, one(l, r, 1), ErrInvalid, "op is 7"},
		"fewer remotes":      {Write, Blocks{Local: []uint64{l}, Length: []uint64{1}}, ErrInvalid, "differ"},
		"local 0":            {Write, one(0, r, 1), ErrAddress, "block 1: local"},
		"local past the end": {Write, one(l+end, r, 1), ErrAddress, "block 1: local"},
		"local across":       {Write, one(l+end-1, r, 2), ErrAddress, "block 1: local"},
		"local before":       {Write, one(l-1, r, 2), ErrAddress, "block 1: local"},
		"remote 0":           {Write, one(l, 0, 1), ErrAddress, "block 1: remote"},
		"remote across":      {Read, one(l, r+end-1, 2), ErrAddress, "block 1: remote"},
		"local wraps":        {Write, one(math.MaxUint64-1, r, 5), ErrInvalid, "wraps"},
		"remote wraps":       {Write, one(l, math.MaxUint64-1, 5), ErrInvalid, "wraps"},
		"huge length":        {Write, one(l, r, 1<<60), ErrAddress, "block 1: local"},
		"length of all ones": {Write, one(l, r, math.MaxUint64), ErrInvalid, "wraps"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := p.seg.Submit(test.op, test.blocks, Options{})
			require.ErrorIs(t, err, test.want)
			assert.Contains(t, err.Error(), test.text)
		})
	}
	assert.True(t, p.memB.all(9), "nothing moved")
	assert.EqualValues(t, 0, p.a.Stats().BatchesOpen)
}

func TestRegisterRefusesBadRanges(t *testing.T) {
	e := openEngine(t, "127.0.0.1", testConfig(nil))
	a := newArena(t, 64<<10)
	at := a.addr()
	register(t, e, a[8192:16384])
	none, err := unix.Mmap(-1, 0, 8192, unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	require.NoError(t, err)
	defer unix.Munmap(none)
	tests := map[string]struct {
		ranges []Range
		want   error
		text   string
	}{
		"address 0":             {[]Range{{0, 10}}, ErrInvalid, "range 0 is 0"},
		"length 0":              {[]Range{{at, 10}, {at + 100, 0}}, ErrInvalid, "range 1"},
		"wraps":                 {[]Range{{math.MaxUint64 - 5, 10}}, ErrInvalid, "wraps"},
		"overlaps":              {[]Range{{at, 8193}}, ErrOverlap, "overlaps"},
		"same":                  {[]Range{{at + 8192, 8192}}, ErrOverlap, "overlaps"},
		"overlaps in the batch": {[]Range{{at, 100}, {at + 99, 100}}, ErrOverlap, "overlaps"},
		"not mapped":            {[]Range{{4096, 4096}}, ErrAddress, "not mapped"},
		"partly mapped":         {[]Range{{at, 1 << 40}}, nil, ""},
		"not readable":          {[]Range{{arena(none).addr(), 4096}}, ErrAddress, "read permission"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := e.Register(test.ranges, "*")
			require.Error(t, err)
			if test.want != nil {
				require.ErrorIs(t, err, test.want)
			}
			assert.Contains(t, err.Error(), test.text)
			assert.EqualValues(t, 1, e.Stats().Memories, "nothing of the call stays registered")
		})
	}
	_, err = e.Register([]Range{{at, 8192}, {at + 16384, 100}}, "*")
	require.NoError(t, err, "adjacent ranges are fine")
}

func TestReadOnlyMemoryIsASourceOnly(t *testing.T) {
	p := newPair(t, 8192, nil)
	ro := newArena(t, 4096)
	ro.fill(1)
	require.NoError(t, unix.Mprotect(ro, unix.PROT_READ))
	register(t, p.a, ro)
	require.NoError(t, move(t, p.seg, Write, scatter(ro, p.memB, 4096, []int{0}, []int{0})))
	assert.Equal(t, string(ro), string(p.memB[:4096]))
	err := move(t, p.seg, Read, scatter(ro, p.memB, 4096, []int{0}, []int{0}))
	require.ErrorIs(t, err, ErrInvalid)
	assert.Contains(t, err.Error(), "read-only")
	back := openSegment(t, p.b, p.a.Name())
	require.ErrorIs(t, move(t, back, Write, scatter(p.memB, ro, 4096, []int{0}, []int{0})), ErrRejected)
	require.NoError(t, move(t, back, Read, scatter(p.memB, ro, 4096, []int{1}, []int{0})))
}

// Memory that was taken away without being deregistered gives errors, on either
// side, and the engines go on. Access is taken away instead of the mapping: a hole
// in the address space would soon hold something else.
func TestMemoryTakenAwayBehindTheEnginesBack(t *testing.T) {
	overTCP(t) // a NIC has pinned the memory
	for _, size := range []int{512, 64 << 10} {
		p := newPair(t, 1<<20, nil)
		lost, err := unix.Mmap(-1, 0, 1<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
		require.NoError(t, err)
		register(t, p.a, lost)
		register(t, p.b, arena(lost))
		t.Cleanup(func() { unix.Munmap(lost) })
		gone := arena(lost).addr()
		require.NoError(t, unix.Mprotect(lost, unix.PROT_NONE))
		n := uint64(size)
		local := Blocks{Local: []uint64{gone}, Remote: []uint64{p.memB.addr()}, Length: []uint64{n}}
		remote := Blocks{Local: []uint64{p.memA.addr()}, Remote: []uint64{gone}, Length: []uint64{n}}
		for _, op := range []Op{Write, Read} {
			require.ErrorIs(t, move(t, p.seg, op, local), ErrAddress)
			require.Error(t, move(t, p.seg, op, remote))
		}
		require.NoError(t, move(t, p.seg, Write, scatter(p.memA, p.memB, size, []int{0}, []int{0})))
	}
}

func TestPeersThatAreNotThere(t *testing.T) {
	e := openEngine(t, "127.0.0.1", testConfig(nil))
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	for name, want := range map[string]error{
		"": ErrInvalid, "///": ErrInvalid, "127.0.0.1": ErrInvalid, "127.0.0.1:0": ErrInvalid, "127.0.0.1:x": ErrInvalid,
		"127.0.0.1:99999": ErrInvalid, "127.0.0.1:1": ErrPeer, "no-such-host.invalid:5": ErrNotFound,
	} {
		began := time.Now()
		_, err := e.OpenSegment(ctx, name)
		require.ErrorIs(t, err, want, "%q", name)
		require.ErrorIs(t, e.Probe(ctx, name), want, "%q", name)
		require.ErrorIs(t, e.Notify(ctx, name, "a", "b"), want, "%q", name)
		assert.Less(t, time.Since(began), 5*time.Second, "%q", name)
	}
}

func TestOpenRefusesBadNamesAndOptions(t *testing.T) {
	for name, want := range map[string]error{"": ErrInvalid, ":5": ErrInvalid, "[::1": ErrInvalid, "a b": ErrInvalid, "h:x": ErrInvalid} {
		_, err := Open(name, testConfig(nil))
		require.ErrorIs(t, err, want, "%q", name)
	}
	cfg := testConfig(nil)
	cfg.Metadata = "etcd://127.0.0.1:2379"
	_, err := Open("127.0.0.1", cfg)
	require.ErrorIs(t, err, ErrUnsupported)
	cfg = testConfig(nil)
	cfg.Protocol = "nvlink"
	_, err = Open("127.0.0.1", cfg)
	require.ErrorIs(t, err, ErrUnsupported)
	e := openEngine(t, "127.0.0.1", testConfig(nil))
	cfg = testConfig(nil)
	cfg.RPCPort = e.Port()
	_, err = Open("127.0.0.1", cfg)
	require.ErrorIs(t, err, ErrDevice, "port taken")
}

func TestNotificationsAndProbe(t *testing.T) {
	p := newPair(t, 4096, nil)
	ctx := context.Background()
	require.NoError(t, p.a.Probe(ctx, p.b.Name()))
	require.NoError(t, p.a.Notify(ctx, p.b.Name(), "name ✓", "message\n\"quoted\""))
	_, _, present, taken := p.b.TakeNotification(func(n, m string) bool { return false })
	assert.True(t, present && !taken, "does not fit, stays")
	n, m, _, taken := p.b.TakeNotification(func(n, m string) bool { return true })
	assert.True(t, taken)
	assert.Equal(t, []string{"name ✓", "message\n\"quoted\""}, []string{n, m})
	_, _, present, _ = p.b.TakeNotification(func(n, m string) bool { return true })
	assert.False(t, present)
}

func TestDescriptionThatPeersCouldNotFetchIsRefused(t *testing.T) {
	e := openEngine(t, "127.0.0.1", testConfig(nil))
	a := newArena(t, 64<<20)
	var ranges []Range
	for i := range uint64(30_000) {
		ranges = append(ranges, Range{a.addr() + i*2048, 1024})
	}
	_, err := e.Register(ranges, "*")
	require.ErrorIs(t, err, ErrFull)
	assert.Contains(t, err.Error(), "MC_HANDSHAKE_MAX_LENGTH")
	ms, err := e.Register(ranges[:10_000], "*")
	require.NoError(t, err)
	s := openSegment(t, openEngine(t, "127.0.0.1", testConfig(nil)), e.Name())
	_, err = s.Buffer(9_999)
	require.NoError(t, err)
	_, err = s.Buffer(10_000)
	require.ErrorIs(t, err, ErrNotFound)
	require.NoError(t, DeregisterAll(ms))
	require.ErrorIs(t, DeregisterAll(ms), ErrClosed)
	assert.EqualValues(t, 0, e.Stats().Memories)
}

func TestConfigFromEnv(t *testing.T) {
	c := testConfig(nil)
	assert.Equal(t, 30*time.Second, c.TransferTimeout)
	assert.EqualValues(t, 15000, c.MinPort)
	assert.EqualValues(t, 17000, c.MaxPort)
	assert.Equal(t, 4, c.Lanes)
	assert.False(t, c.ForceTCP)
	assert.Zero(t, c.MetricInterval)
	c = testConfig(map[string]string{"MC_TRANSFER_TIMEOUT": "2", "MC_MIN_PRC_PORT": "20000", "MC_MAX_RPC_PORT": "20010",
		"MC_TCP_LANES_PER_PEER": "7", "MC_FORCE_TCP": "0", "MC_TCP_PROTO": "1", "MC_TE_METRIC": "true", "MC_LOG_LEVEL": "error"})
	assert.Equal(t, 5*time.Second, c.TransferTimeout, "never below 5 s")
	assert.EqualValues(t, 20000, c.MinPort)
	assert.EqualValues(t, 20010, c.MaxPort)
	assert.Equal(t, 7, c.Lanes)
	assert.True(t, c.ForceTCP, "present is enough, whatever it says")
	assert.True(t, c.ForceV1)
	assert.Equal(t, 5*time.Second, c.MetricInterval)
	c = testConfig(map[string]string{"MC_TRANSFER_TIMEOUT": "soon", "MC_MIN_RPC_PORT": "80", "MC_MAX_RPC_PORT": "40000",
		"MC_TCP_LANES_PER_PEER": "-3", "MC_HANDSHAKE_MAX_LENGTH": "99999999999999999999", "MC_LOG_LEVEL": "ERROR"})
	assert.Equal(t, testConfig(map[string]string{"MC_LOG_LEVEL": "ERROR"}), c, "malformed values are the defaults")
	e := openEngine(t, "127.0.0.1", testConfig(map[string]string{"MC_MIN_RPC_PORT": "21000", "MC_MAX_RPC_PORT": "21050"}))
	assert.GreaterOrEqual(t, e.Port(), uint16(21000))
	assert.LessOrEqual(t, e.Port(), uint16(21050))
	cfg := testConfig(map[string]string{"MC_LEGACY_RPC_PORT_BINDING": ""})
	assert.Equal(t, "127.0.0.1:21077", openEngine(t, "127.0.0.1:21077", cfg).Name())
}

func TestHostMaps(t *testing.T) {
	a, ok := parseArea("7f00-7f80 rw-p 00000000 00:00 0 ")
	assert.True(t, ok)
	assert.Equal(t, area{start: 0x7f00, end: 0x7f80, readable: true, writable: true}, a)
	a, _ = parseArea("200000000-200200000 rw-s 00000000 00:05 77 /dev/nvidia0")
	assert.True(t, a.gpu)
	_, err := (&hostMaps{read: true, areas: []area{a}}).check(0, Range{0x200000000, 4096})
	require.ErrorIs(t, err, ErrUnsupported)
	assert.Contains(t, err.Error(), "GPU memory")
	reserved, _ := parseArea("300000000-400000000 ---p 00000000 00:00 0")
	for cuda, want := range map[bool]error{true: ErrUnsupported, false: ErrAddress} {
		_, err := (&hostMaps{read: true, areas: []area{reserved}, cuda: cuda}).check(3, Range{0x300000000, 4096})
		require.ErrorIs(t, err, want)
		assert.Contains(t, err.Error(), "range 3")
	}
	for _, bad := range []string{"", "x", "zz-zz rw-p", "1-2"} {
		_, ok := parseArea(bad)
		assert.False(t, ok, "%q", bad)
	}
}
