package tcp

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pkg/errors"
	"github.com/stretchr/testify/require"
)

// mosaic is memory registered in many pieces: a row of adjacent regions, every
// third of them not for system calls.
type mosaic struct {
	arena
	table   *table
	server  *Server
	regions []*region
}

// behind is host memory that system calls are not told of.
type behind struct{ host }

func (behind) Direct() bool { return false }

// within is a mover for some addresses only, so that whoever takes it for those of
// another one is found out.
type within struct {
	Mover
	start, end uint64
}

func (m *within) check(addr, n uint64) error {
	if addr < m.start || addr+n > m.end {
		return errors.Errorf("%d bytes at %#x are another mover's", n, addr)
	}
	return nil
}

func (m *within) checkAll(addr, length []uint64) error {
	for i := range addr {
		if err := m.check(addr[i], length[i]); err != nil {
			return err
		}
	}
	return nil
}

func (m *within) Store(addr uint64, p []byte) error {
	if err := m.check(addr, uint64(len(p))); err != nil {
		return err
	}
	return m.Mover.Store(addr, p)
}

func (m *within) Load(p []byte, addr uint64) error {
	if err := m.check(addr, uint64(len(p))); err != nil {
		return err
	}
	return m.Mover.Load(p, addr)
}

func (m *within) Scatter(addr, length []uint64, p []byte) error {
	if err := m.checkAll(addr, length); err != nil {
		return err
	}
	return m.Mover.Scatter(addr, length, p)
}

func (m *within) Gather(p []byte, addr, length []uint64) error {
	if err := m.checkAll(addr, length); err != nil {
		return err
	}
	return m.Mover.Gather(p, addr, length)
}

func newMosaic(t testing.TB, regions, size int) *mosaic {
	m := &mosaic{arena: newArena(t, regions*size), table: &table{}}
	for i := range regions {
		mover := Mover(host{})
		if i%3 == 2 {
			mover = behind{}
		}
		at := m.addr() + uint64(i*size)
		end := at + uint64(size)
		m.regions = append(m.regions, m.table.add(newRegion(&within{mover, at, end}, at, end)))
	}
	m.server = startServer(t, m.table)
	return m
}

// Ranges may lie in hundreds of regions, of both kinds of memory, and span regions
// that touch; every pin is given back.
func TestServerMixesRegionsInOneMessage(t *testing.T) {
	for _, c := range []struct{ regions, size, span, step int }{
		{700, 4096, 1000, 4096},   // a range in each
		{700, 512, 3 * 512, 1536}, // each range spans three or four
		{3, 1 << 20, 3000, 3 << 10},
		{9, 1 << 20, 700_000, 900_000},
		{64, 64 << 10, 64 << 10, 64 << 10},
	} {
		t.Run(fmt.Sprintf("%d regions of %d", c.regions, c.size), func(t *testing.T) {
			m := newMosaic(t, c.regions, c.size)
			var spans []span
			for at := c.step / 3; at+c.span <= len(m.arena) && len(spans) < maxRanges; at += c.step {
				spans = append(spans, span{m.addr() + uint64(at), uint64(c.span)})
			}
			body := pattern(len(spans) * c.span)
			m.poison(0xA5)
			want := append(arena(nil), m.arena...)
			for i, s := range spans {
				copy(want[s.addr-m.addr():], body[i*c.span:][:c.span])
			}
			raw := dialMany(t, m.server)
			go raw.Write(append(message(opWriteMany|flagV2, spans, body), message(opReadMany|flagV2, spans)...))
			raw.expect(okBytes, okBytes, body)
			require.True(t, bytes.Equal(want, m.arena))
			drained(t, m.regions...)
		})
	}
}

// Few bytes on the wire must not make the server hold a lot of memory: ranges that
// each span thousands of regions.
func TestServerBoundsThePiecesOfAMessage(t *testing.T) {
	const regions = 2000
	s := newArena(t, regions*16)
	mem := &grid{base: s.addr(), end: s.end()}
	for i := range regions {
		at := s.addr() + uint64(i*16)
		mem.regions = append(mem.regions, newRegion(host{}, at, at+16))
	}
	server := startServer(t, mem)
	spans := make([]span, maxRanges)
	for i := range spans {
		spans[i] = span{s.addr(), uint64(len(s))}
	}
	raw := dialMany(t, server)
	raw.send(message(opReadMany|flagV2, spans))
	b := make([]byte, StatusSize+culpritSize)
	_, err := raw.Read(b)
	require.NoError(t, err)
	require.Equal(t, rejectedBytes, b[:StatusSize])
	require.Less(t, mem.asked.Load(), int64(100_000))
	// One range over all of them is fine.
	raw = dialMany(t, server)
	raw.send(message(opReadMany|flagV2, spans[:1]))
	raw.expect(okBytes, s)
}

// grid is a Memory of regions of 16 bytes, side by side.
type grid struct {
	base, end uint64
	regions   []*region
	asked     atomic.Int64
}

func (g *grid) Find(addr uint64) Region {
	g.asked.Add(1)
	if addr < g.base || addr >= g.end {
		return nil
	}
	return g.regions[(addr-g.base)/16]
}

// One of several regions goes while the payload comes: the message is refused, and
// the answer names the range whose memory went, so that the right slice is blamed.
// Nothing lands afterwards, neither in memory registered anew at the same place nor
// in the ranges whose regions are still there.
func TestDeregisterInMidMessage(t *testing.T) {
	for name, c := range map[string]struct{ size, span int }{
		"through the buffer": {4096, 100}, "straight": {1 << 20, 1 << 20},
	} {
		for _, victim := range []int{0, 3, 6} {
			t.Run(fmt.Sprintf("%s/%d", name, victim), func(t *testing.T) {
				const n = 7
				a := newArena(t, n*c.size)
				mem := &table{}
				var regions []*region
				for i := range n {
					at := a.addr() + uint64(i*c.size)
					regions = append(regions, mem.add(newRegion(host{}, at, at+uint64(c.size))))
				}
				s := startServer(t, mem)
				// The first range spans two regions, so that pieces and ranges differ.
				spans := []span{{regions[0].end - uint64(c.span/2), uint64(c.span)}}
				for _, r := range regions[2:] {
					spans = append(spans, span{r.start, uint64(c.span)})
				}
				body := bytes.Repeat([]byte{7}, len(spans)*c.span)
				raw := dialMany(t, s)
				raw.send(message(opWriteMany|flagV2, spans, body[:3*c.span/4]))
				last := int(spans[0].addr-a.addr()) + 3*c.span/4 - 1
				eventually(t, "the first bytes", func() bool { return a[last] == 7 })
				regions[victim].deregister()
				again := mem.add(newRegion(host{}, regions[victim].start, regions[victim].end))
				a.poison(0xA5)
				raw.Write(body[3*c.span/4:])
				raw.expect(refusedAt(uint64(max(0, victim-1))))
				raw.expectClose()
				watchPoison(t, a)
				require.Zero(t, again.total())
				drained(t, regions...)
			})
		}
	}
}

// A read of many ranges ends when the memory of one goes; the reader can tell that
// from a whole answer.
func TestDeregisterInMidManyRead(t *testing.T) {
	const n, size = 8, 16 << 20
	a := newArena(t, n*size)
	mem := &table{}
	var regions []*region
	for i := range n {
		at := a.addr() + uint64(i*size)
		regions = append(regions, mem.add(newRegion(host{}, at, at+size)))
	}
	s := startServer(t, mem)
	raw := dialMany(t, s)
	raw.send(message(opReadMany|flagV2, spread(a.addr(), n, size, size)))
	raw.expect(okBytes)
	began := time.Now()
	regions[n-1].deregister()
	require.Less(t, time.Since(began), time.Second, "waited for a peer that takes nothing")
	got, _ := raw.WriteTo(discard{})
	require.Less(t, got, int64(n*size))
	drained(t, regions...)
}

// Several regions are in an answer that nobody takes, and the last of them goes: its
// bytes are not sent any more, whatever becomes of the memory.
func TestDeregisterBehindAnUntakenAnswer(t *testing.T) {
	const n, size = 5, 30_000
	a := newArena(t, n*size)
	mem := &table{}
	var regions []*region
	for i := range n {
		at := a.addr() + uint64(i*size)
		regions = append(regions, mem.add(newRegion(host{}, at, at+size)))
	}
	s := startTinyServer(t, mem)
	nd := net.Dialer{Control: tiny}
	c, err := nd.Dial("tcp", s.listener.Addr().String())
	require.NoError(t, err)
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	raw := rawClient{c.(*net.TCPConn), t}
	raw.send(helloBytes(HelloMany), message(opReadMany|flagV2, spread(a.addr(), n, size, size)))
	raw.expect(greetingBytes, okBytes)
	regions[n-1].deregister()
	a[(n-1)*size:].poison(0xA5)
	got, err := io.ReadAll(raw)
	require.True(t, err == nil || hangup(err), "%v", err)
	require.LessOrEqual(t, len(got), (n-1)*size, "bytes of memory that was deregistered")
	require.True(t, arena(got).all(0))
}

// The end of a long payload comes in few system calls, also where it is too short to
// be received straight, and where memory is none of theirs.
func TestServerReceivesPayloadsInFewCalls(t *testing.T) {
	for name, m := range map[string]Mover{"host": host{}, "device": behind{}} {
		t.Run(name, func(t *testing.T) {
			const size, rounds = 1 << 20, 8
			a := newArena(t, size)
			mem := &table{}
			counting := &countingMover{Mover: m}
			mem.add(newRegion(counting, a.addr(), a.end()))
			s := startServer(t, mem)
			body := pattern(size)
			raw := dialMany(t, s)
			for range rounds {
				raw.send(message(opWriteMany|flagV2, []span{{a.addr(), size}}, body[:size-directMin/2]))
				// The rest comes when the server waits for it.
				eventually(t, "the first part", func() bool { return bytes.Equal(a[size-directMin/2-16:][:16], body[size-directMin/2-16:][:16]) })
				raw.send(body[size-directMin/2:])
				raw.expect(okBytes)
				require.True(t, bytes.Equal(body, a))
				a.poison(0)
			}
			t.Logf("%d copies", counting.stores.Load())
			require.Less(t, counting.stores.Load(), int64(rounds*(size/serveBuffer+64)), "copied in crumbs")
		})
	}
}

// countingMover counts copies into memory.
type countingMover struct {
	Mover
	stores atomic.Int64
}

func (m *countingMover) Store(addr uint64, p []byte) error {
	m.stores.Add(1)
	return m.Mover.Store(addr, p)
}

func (m *countingMover) Scatter(addr, length []uint64, p []byte) error {
	m.stores.Add(1)
	return m.Mover.Scatter(addr, length, p)
}

// Registered memory that cannot be accessed: the connection ends without an answer,
// for there is none that says so; what lies behind the hole is untouched, and the
// server goes on.
func TestServerMeetsAHoleInMidMessage(t *testing.T) {
	for _, size := range []int{100, 64 << 10} { // through the buffer, and straight
		s := newServed(t, 8*size)
		hole := newHole(t)
		s.table.add(newRegion(host{}, hole, hole+1<<20))
		spans := []span{{s.arena.addr(), uint64(size)}, {hole, uint64(size)}, {s.arena.addr() + uint64(2*size), uint64(size)}}
		body := bytes.Repeat([]byte{7}, 3*size)
		raw := dialMany(t, s.server)
		raw.Write(message(opWriteMany|flagV2, spans, body)) // may fail: the server has had enough
		raw.expectClose()
		require.True(t, s.arena[size:].all(0))
		raw = dialMany(t, s.server)
		raw.send(message(opReadMany|flagV2, spans))
		got, err := io.ReadAll(raw)
		require.True(t, err == nil || hangup(err), "%v", err)
		require.Less(t, len(got), StatusSize+3*size)
		for _, r := range s.table.regions {
			drained(t, r)
		}
		s.alive(t)
	}
}
