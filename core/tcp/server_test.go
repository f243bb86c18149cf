package tcp

import (
	"bytes"
	"io"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// rawClient is a bare connection to a server.
type rawClient struct {
	*net.TCPConn
	t testing.TB
}

func dialRaw(t testing.TB, s *Server) rawClient {
	c, err := net.Dial("tcp", s.listener.Addr().String())
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(patience))
	return rawClient{c.(*net.TCPConn), t}
}

// send sends what the pieces are in a row.
func (c rawClient) send(pieces ...[]byte) {
	c.t.Helper()
	_, err := c.Write(bytes.Join(pieces, nil))
	require.NoError(c.t, err)
}

// expect reads exactly want.
func (c rawClient) expect(want ...[]byte) {
	c.t.Helper()
	all := bytes.Join(want, nil)
	got := make([]byte, len(all))
	n, err := io.ReadFull(c, got)
	require.NoError(c.t, err, "after %d of %d bytes", n, len(all))
	require.True(c.t, bytes.Equal(all, got), "other bytes came")
}

// expectClose reads until the server has closed; nothing may come before.
func (c rawClient) expectClose() {
	c.t.Helper()
	b, err := io.ReadAll(c)
	if err != nil {
		require.True(c.t, hangup(err), "%v", err)
	}
	require.Empty(c.t, b)
}

func request(op uint8, addr, size uint64) []byte {
	b := make([]byte, HeaderSize)
	header{size, addr, op}.put(b)
	return b
}

var (
	okBytes       = []byte("\x00\x00\x00\x00VTCM")
	rejectedBytes = []byte("\x01\x00\x00\x00VTCM")
)

// served is a server with one region.
type served struct {
	arena  arena
	region *region
	table  *table
	server *Server
}

func newServed(t testing.TB, size int, set ...func(*ServerConfig)) *served {
	s := &served{arena: newArena(t, size), table: &table{}}
	s.region = s.table.add(newRegion(host{}, s.arena.addr(), s.arena.end()))
	s.server = startServer(t, s.table, set...)
	return s
}

func TestServerExactBytes(t *testing.T) {
	s := newServed(t, 1<<20)
	s.arena.fill(1)
	keep := append(arena(nil), s.arena...)
	payload := bytes.Repeat([]byte("kv"), 50_000)

	for _, c := range []struct {
		name   string
		size   int
		off    int
		op     uint8
		answer [][]byte
	}{
		{"version 2 read", 5, 100, opRead | flagV2, [][]byte{okBytes, keep[100:105]}},
		{"version 2 read of everything", 1 << 20, 0, opRead | flagV2, [][]byte{okBytes, keep}},
		{"version 1 read", 5, 100, opRead, [][]byte{keep[100:105]}},
		{"the last byte", 1, 1<<20 - 1, opRead | flagV2, [][]byte{okBytes, keep[1<<20-1:]}},
		{"version 2 write", len(payload), 4096, opWrite | flagV2, [][]byte{okBytes}},
		{"version 1 write", 1, 1, opWrite, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			raw := dialRaw(t, s.server)
			body := []byte{}
			if c.op&^flagV2 == opWrite {
				body = payload[:c.size]
			}
			raw.send(request(c.op, s.arena.addr()+uint64(c.off), uint64(c.size)), body)
			raw.expect(c.answer...)
			raw.CloseWrite()
			raw.expectClose()
			if len(body) > 0 {
				require.True(t, bytes.Equal(body, s.arena[c.off:][:c.size]))
			}
		})
	}
	eventually(t, "the connections to end", func() bool { return s.server.Connections() == 0 })
	require.EqualValues(t, len(payload)+1, s.server.Counters.Written.Load())
	require.EqualValues(t, 1<<20+11, s.server.Counters.Read.Load())
	require.Zero(t, s.server.Counters.Rejected.Load())
}

func TestServerPipelinesMixedVersions(t *testing.T) {
	const n, size = 1000, 300
	s := newServed(t, 2*n*size)
	s.arena.fill(1)
	keep := append(arena(nil), s.arena...)
	var out, want []byte
	at := func(i int) uint64 { return s.arena.addr() + uint64(i*size) }
	for i := range n {
		switch i % 4 {
		case 0:
			out = append(append(out, request(opWrite|flagV2, at(i), size)...), keep[(n+i)*size:][:size]...)
			want = append(want, okBytes...)
		case 1:
			out = append(out, request(opRead|flagV2, at(i), size)...)
			want = append(append(want, okBytes...), keep[i*size:][:size]...)
		case 2:
			out = append(append(out, request(opWrite, at(i), size)...), keep[(n+i)*size:][:size]...)
		case 3: // of what the last write of version 2 has just put there
			out = append(out, request(opRead, at(i-3), size)...)
			want = append(want, keep[(n+i-3)*size:][:size]...)
		}
	}
	raw := dialRaw(t, s.server)
	go raw.Write(out)
	raw.expect(want)
	for i := 2; i < n; i += 4 {
		require.Equal(t, keep[(n+i)*size:][:size], s.arena[i*size:][:size], "version 1 write %d", i)
	}
}

func TestServerRejects(t *testing.T) {
	s := newServed(t, 1<<20)
	r := newRegion(host{}, s.arena.end(), s.arena.end()+4096)
	r.readOnly = true // before anybody can find it
	s.table.add(r)
	base, end := s.arena.addr(), s.arena.end()
	for _, c := range []struct {
		name       string
		op         uint8
		addr, size uint64
	}{
		{"not registered", opRead, base - 1, 1},
		{"past the end", opRead, base, 1<<20 + 4097},
		{"size 0", opRead, base, 0},
		{"wrap-around", opRead, base, -base},
		{"wrap-around to the same place", opRead, base + 1, 1<<64 - 1},
		{"size 0 write", opWrite, base, 0},
		{"read-only", opWrite, end, 1},
		{"from writable into read-only", opWrite, end - 1, 2},
		{"opcode 2", 2, base, 1},
		{"opcode 0x7f", 0x7f, base, 1},
		{"hello too long", opHello, HelloVersion, maxHelloSize + 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := s.server.Counters.Rejected.Load()
			raw := dialRaw(t, s.server)
			raw.send(request(opRead|flagV2, base, 1), request(c.op|flagV2, c.addr, c.size))
			raw.expect(okBytes, []byte{0}, rejectedBytes)
			raw.expectClose()
			raw = dialRaw(t, s.server)
			raw.send(request(c.op, c.addr, c.size))
			raw.expectClose()
			require.EqualValues(t, before+2, s.server.Counters.Rejected.Load())
		})
	}
	require.True(t, s.arena.all(0))
}

// A refusal arrives although the payload is on its way, so that closing resets
// the connection.
func TestServerRejectionIsNotLostToTheReset(t *testing.T) {
	s := newServed(t, 4096)
	payload := make([]byte, 16<<20)
	for range 5 {
		raw := dialRaw(t, s.server)
		raw.send(request(opWrite|flagV2, s.arena.end(), uint64(len(payload))))
		go raw.Write(payload)
		raw.expect(rejectedBytes)
	}
	require.True(t, s.arena.all(0))
}

// A range may span registrations that touch; upstream refuses that.
func TestServerServesAdjacentRegions(t *testing.T) {
	a := newArena(t, 1<<20)
	a.fill(1)
	mem := &table{}
	cuts := []uint64{0, 4096, 4097, 100_000, 1 << 20}
	for i := 1; i < len(cuts); i++ {
		mem.add(newRegion(host{}, a.addr()+cuts[i-1], a.addr()+cuts[i]))
	}
	s := startServer(t, mem)
	raw := dialRaw(t, s)
	raw.send(request(opRead|flagV2, a.addr(), 1<<20))
	raw.expect(okBytes, a)
	other := make(arena, 1<<20)
	other.fill(2)
	raw.send(request(opWrite|flagV2, a.addr(), 1<<20), other)
	raw.expect(okBytes)
	require.True(t, bytes.Equal(a, other))
	for _, r := range mem.regions {
		eventually(t, "the pins to be given back", func() bool { return r.held() == 0 })
	}
}

// The answers to a burst of reads that nobody takes do not hold up others, and the
// connection ends.
func TestServerEndsConnectionThatTakesNoAnswers(t *testing.T) {
	s := newServed(t, 16<<20, func(cfg *ServerConfig) { cfg.StallTimeout = 300 * time.Millisecond })
	raw := dialRaw(t, s.server)
	for range 8 {
		raw.send(request(opRead|flagV2, s.arena.addr(), 16<<20))
	}
	other := dialRaw(t, s.server)
	other.send(request(opRead|flagV2, s.arena.addr(), 1))
	other.expect(okBytes, []byte{0})
	eventually(t, "the connection to end", func() bool { return s.server.Connections() == 1 })
	require.Zero(t, s.region.held())
}
