package core

import (
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"strconv"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"mooncake/core/metadata"
)

// stand stands between engines and one of them: it hands out that engine's
// descriptor, changed by the test, and listens in on its data port.
type stand struct {
	name  string // to open the engine by
	wg    sync.WaitGroup
	mu    sync.Mutex // guards what follows
	heard [][]byte   // what initiators sent, connection by connection
}

func newStand(t *testing.T, e *Engine, change func(d *metadata.Descriptor)) *stand {
	d, err := metadata.DecodeDescriptor(e.describe())
	require.NoError(t, err)
	data, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	control, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	_, port, _ := net.SplitHostPort(control.Addr().String())
	s := &stand{name: "127.0.0.1:" + port}
	to := net.JoinHostPort("127.0.0.1", strconv.Itoa(int(d.TCPDataPort)))
	d.Name, d.TCPDataPort = s.name, metadata.PortOf(data)
	change(d)
	text, err := d.Encode()
	require.NoError(t, err)
	server, err := metadata.Listen(metadata.ServerConfig{Listener: control, Logger: slog.New(slog.DiscardHandler)},
		metadata.Handlers{Metadata: func() []byte { return text }})
	require.NoError(t, err)
	s.wg.Go(func() { s.listen(data, to) })
	t.Cleanup(func() {
		data.Close()
		server.Close()
		s.wg.Wait()
	})
	return s
}

func (s *stand) listen(l net.Listener, to string) {
	for {
		near, err := l.Accept()
		if err != nil {
			return
		}
		far, err := net.Dial("tcp", to)
		if err != nil {
			near.Close()
			continue
		}
		s.mu.Lock()
		s.heard = append(s.heard, nil)
		i := len(s.heard) - 1
		s.mu.Unlock()
		s.wg.Go(func() {
			defer far.(*net.TCPConn).CloseWrite()
			io.Copy(far, io.TeeReader(near, hearing{s, i}))
		})
		s.wg.Go(func() {
			defer near.Close()
			io.Copy(near, far)
		})
	}
}

// hearing notes what goes by on a connection.
type hearing struct {
	s *stand
	i int
}

func (h hearing) Write(p []byte) (int, error) {
	h.s.mu.Lock()
	defer h.s.mu.Unlock()
	h.s.heard[h.i] = append(h.s.heard[h.i], p...)
	return len(p), nil
}

// requests are what was sent: the versions of hellos, and which other opcodes.
func (s *stand) requests(t *testing.T) (hellos []uint64, ops []uint8) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, b := range s.heard {
		for len(b) > 0 {
			require.GreaterOrEqual(t, len(b), 24)
			size, addr, op := binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint64(b[8:]), b[16]
			b = b[24:]
			switch op & 0x7f {
			case 0x7e:
				hellos = append(hellos, addr)
			case 0x7c, 0x7d:
				b = b[16*addr:]
				fallthrough
			default:
				ops = append(ops, op)
			}
			if op&1 == 1 || op&0x7f == 0x7e { // a write or a hello: a payload follows
				b = b[size:]
			}
		}
	}
	slices.Sort(ops)
	slices.Sort(hellos)
	return slices.Compact(hellos), slices.Compact(ops)
}

// Whatever two engines of different versions or settings announce, they use what both
// know: the bytes arrive in either direction.
func TestFramingsOfDifferentVersions(t *testing.T) {
	overTCP(t)
	plain, first := map[string]string{"MC_TCP_PROTO": "2"}, map[string]string{"MC_TCP_PROTO": "1"}
	announce := func(hello int) func(d *metadata.Descriptor) {
		return func(d *metadata.Descriptor) { d.Extension.Hello = hello }
	}
	asItIs := func(*metadata.Descriptor) {}
	asUpstream := func(d *metadata.Descriptor) { d.Extension = nil }
	asFirst := func(d *metadata.Descriptor) { d.Extension, d.TCPProtoVersion = nil, 1 }
	messages, single, version1 := []uint8{0xfc, 0xfd}, []uint8{0x80, 0x81}, []uint8{0x00, 0x01}
	for name, c := range map[string]struct {
		initiator, target map[string]string
		change            func(d *metadata.Descriptor)
		hellos            []uint64
		ops               []uint8
	}{
		"the same":                       {nil, nil, asItIs, []uint64{2}, messages},
		"plain initiator":                {plain, nil, asItIs, []uint64{1}, single},
		"plain target":                   {nil, plain, asItIs, []uint64{1}, single},
		"both plain":                     {plain, plain, asItIs, []uint64{1}, single},
		"version 1 initiator":            {first, nil, asItIs, nil, version1},
		"version 1 initiator, plain":     {first, plain, asItIs, nil, version1},
		"version 1 target":               {nil, first, asItIs, []uint64{2}, messages}, // it serves all
		"target announces hello 3":       {nil, nil, announce(3), []uint64{2}, messages},
		"plain, target announces 3":      {plain, nil, announce(3), []uint64{1}, single},
		"target announces much":          {nil, nil, announce(1<<31 - 1), []uint64{2}, messages},
		"target announces hello 1":       {nil, nil, announce(1), []uint64{1}, single},
		"target announces hello 0":       {nil, nil, announce(0), nil, single},
		"plain, target announces 0":      {plain, nil, announce(0), nil, single},
		"target announces nothing":       {nil, nil, asUpstream, nil, single},
		"plain, target announces none":   {plain, nil, asUpstream, nil, single},
		"target announces framing 1":     {nil, nil, asFirst, nil, version1},
		"plain, target announces only 1": {plain, nil, asFirst, nil, version1},
	} {
		t.Run(name, func(t *testing.T) {
			const size, slots = 700, 200
			near, far := newArena(t, size*slots), newArena(t, size*slots)
			a := openEngine(t, "127.0.0.1", testConfig(c.initiator))
			b := openEngine(t, "127.0.0.1", testConfig(c.target))
			register(t, a, near)
			register(t, b, far)
			s := newStand(t, b, c.change)
			seg := openSegment(t, a, s.name)
			from, to := evenSlots(slots, 1), evenSlots(slots, 2)

			near.fill(1)
			far.poison(0xA5)
			require.NoError(t, move(t, seg, Write, scatter(near, far, size, from, to)))
			want := make(arena, len(far))
			want.poison(0xA5)
			for i := range from {
				copy(want[to[i]*size:][:size], near[from[i]*size:])
			}
			assert.Equal(t, string(want), string(far), "written")

			far.fill(2)
			near.poison(0xA5)
			require.NoError(t, move(t, seg, Read, scatter(near, far, size, from, to)))
			want.poison(0xA5)
			for i := range from {
				copy(want[from[i]*size:][:size], far[to[i]*size:])
			}
			assert.Equal(t, string(want), string(near), "read")

			require.NoError(t, a.Close())
			eventually(t, "the connections to end", func() bool { return b.Stats().Connections == 0 })
			hellos, ops := s.requests(t)
			assert.Equal(t, c.hellos, hellos, "hellos")
			assert.Equal(t, c.ops, ops, "opcodes")
		})
	}
}

// What an engine announces: messages, unless it was told to keep to upstream's framing.
func TestFramingIsAnnounced(t *testing.T) {
	overTCP(t)
	for proto, want := range map[string]int{"": 2, "1": 2, "2": 1, "3": 2, "x": 2} {
		t.Run(fmt.Sprintf("MC_TCP_PROTO=%q", proto), func(t *testing.T) {
			vars := map[string]string{"MC_TCP_PROTO": proto}
			d, err := metadata.DecodeDescriptor(openEngine(t, "127.0.0.1", testConfig(vars)).describe())
			require.NoError(t, err)
			assert.Equal(t, want, d.Extension.Hello)
			assert.Equal(t, 2, d.TCPProtoVersion, "upstream's framing is announced all the same")
		})
	}
}

// A batch with one bad block among good ones, over messages and over single requests:
// the error names the block's address, in either framing, and nothing of it stays open.
func TestRejectionsInBothFramings(t *testing.T) {
	overTCP(t)
	for _, proto := range []string{"", "2"} {
		for _, op := range []Op{Write, Read} {
			t.Run(fmt.Sprintf("MC_TCP_PROTO=%q/%v", proto, op), func(t *testing.T) {
				const size = 512
				near, far := newArena(t, 400*size), newArena(t, 400*size)
				vars := map[string]string{"MC_TCP_PROTO": proto}
				a, b := openEngine(t, "127.0.0.1", testConfig(vars)), openEngine(t, "127.0.0.1", testConfig(vars))
				register(t, a, near)
				register(t, b, far[:200*size])
				gone := register(t, b, far[200*size:])
				seg := openSegment(t, a, b.Name())
				slots := evenSlots(400, 0)
				require.NoError(t, move(t, seg, op, scatter(near, far, size, slots, slots)))
				// The initiator does not know yet, so the request gets as far as the peer.
				require.NoError(t, gone.Deregister())
				far.poison(0xA5)
				near.poison(0x5A)
				err := move(t, seg, op, scatter(near, far, size, slots, slots))
				require.ErrorIs(t, err, ErrRejected)
				require.ErrorContains(t, err, fmt.Sprintf("%#x", far.addr()+200*size))
				assert.True(t, far[200*size:].all(0xA5), "deregistered memory was written")
				assert.True(t, near[200*size:].all(0x5A), "read from deregistered memory")
				assert.EqualValues(t, 1, b.Stats().ServedRejected)
			})
		}
	}
}
