package tcp

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

// A message with one bad range is refused as a whole: the answer names the range,
// what came before has its answer, and nothing of it, nor of what follows, is
// written.
func TestServerRefusesMessagesAsAWhole(t *testing.T) {
	s := newServed(t, 1<<20)
	readOnly := newArena(t, 4096)
	r := newRegion(host{}, readOnly.addr(), readOnly.end())
	r.readOnly = true // before anybody can find it
	s.table.add(r)
	base, end := s.arena.addr(), s.arena.end()
	good := func(i int) span { return span{base + uint64(i*64), 32} }
	s.arena.poison(0xA5)
	readOnly.poison(0xA5)

	for name, c := range map[string]struct {
		bad  span
		read bool // reads are refused as well
	}{
		"nothing registered": {span{0x1000, 8}, true},
		"before the region":  {span{base - 4, 8}, true},
		"past the end":       {span{end - 4, 8}, true},
		"length 0":           {span{base, 0}, true},
		"wraps around":       {span{base, -base + 8}, true},
		"wraps to itself":    {span{base + 1, 1<<64 - 1}, true},
		"the last address":   {span{1<<64 - 1, 1}, true},
		"read-only":          {span{readOnly.addr(), 8}, false},
	} {
		for _, of := range []int{1, 2, 3, 64, maxRanges} {
			for _, at := range []int{0, of / 2, of - 1} {
				t.Run(fmt.Sprintf("%s/%d of %d", name, at, of), func(t *testing.T) {
					spans := make([]span, of)
					for i := range spans {
						spans[i] = good(i)
					}
					spans[at] = c.bad
					before := s.server.Counters.Rejected.Load()
					follow := request(opWrite|flagV2, base, 8)
					raw := dialMany(t, s.server)
					raw.send(request(opRead|flagV2, base, 1), message(opWriteMany|flagV2, spans, pattern(of*32)), follow, pattern(8))
					raw.expect(okBytes, []byte{0xA5}, refusedAt(uint64(at)))
					raw.expectClose()
					raw.Close()
					raw = dialMany(t, s.server)
					raw.send(message(opReadMany|flagV2, spans), follow, pattern(8))
					if c.read {
						raw.expect(refusedAt(uint64(at)))
						raw.expectClose()
						before++
					} else {
						raw.expect(okBytes)
					}
					raw.Close()
					eventually(t, "the connections to end", func() bool { return s.server.Connections() == 0 })
					if !c.read { // the good request behind it was served
						s.arena[:8].poison(0xA5)
					}
					require.EqualValues(t, before+1, s.server.Counters.Rejected.Load())
					require.True(t, s.arena.all(0xA5) && readOnly.all(0xA5), "something was written")
				})
			}
		}
	}
}

// Headers that do not go with their ranges. No range is at fault: the first is named.
func TestServerRefusesMalformedMessages(t *testing.T) {
	s := newServed(t, 1<<20)
	s.arena.poison(0xA5)
	base := s.arena.addr()
	spans := spread(base, maxRanges+1, 16, 32)
	for name, b := range map[string][]byte{
		"no ranges":                messageOf(opWriteMany|flagV2, 0, 0, nil),
		"no ranges, with bytes":    messageOf(opWriteMany|flagV2, 0, 64, nil, pattern(64)),
		"one range too many":       message(opWriteMany|flagV2, spans, pattern(100)),
		"read one range too many":  message(opReadMany|flagV2, spans),
		"2^32 ranges":              messageOf(opWriteMany|flagV2, 1<<32, 16, spans[:1], pattern(16)),
		"2^60 ranges":              messageOf(opReadMany|flagV2, 1<<60, 16, spans[:1]), // times 16 is 0
		"2^64-1 ranges":            messageOf(opWriteMany|flagV2, 1<<64-1, 16, spans[:1], pattern(16)),
		"a byte less than the sum": messageOf(opWriteMany|flagV2, 2, 31, spans[:2], pattern(32)),
		"a byte more than the sum": messageOf(opWriteMany|flagV2, 2, 33, spans[:2], pattern(33)),
		"nothing":                  messageOf(opWriteMany|flagV2, 2, 0, spans[:2], pattern(32)),
		"2^64-1 bytes":             messageOf(opWriteMany|flagV2, 2, 1<<64-1, spans[:2], pattern(32)),
		"read of less":             messageOf(opReadMany|flagV2, 2, 31, spans[:2]),
		"read of more":             messageOf(opReadMany|flagV2, 2, 1<<63, spans[:2]),
	} {
		t.Run(name, func(t *testing.T) {
			raw := dialMany(t, s.server)
			raw.send(b)
			raw.expect(refusedAt(0))
			raw.expectClose()
			require.True(t, s.arena.all(0xA5))
		})
	}
	s.alive(t)
}

// Lengths whose sum wraps around to what the header says.
func TestServerRefusesSumsThatWrapAround(t *testing.T) {
	mem := &table{}
	vast := mem.add(newRegion(&counted{}, 1<<20, 1<<63+1<<20))
	s := startServer(t, mem)
	half := span{1 << 20, 1 << 63}
	for _, op := range []uint8{opWriteMany | flagV2, opReadMany | flagV2} {
		for _, spans := range [][]span{{half, half}, {half, half, {1 << 20, 5}}, {{1 << 20, 5}, half, half}} {
			raw := dialMany(t, s)
			raw.send(message(op, spans), make([]byte, 5))
			b := make([]byte, StatusSize)
			_, err := raw.Read(b)
			require.NoError(t, err)
			require.Equal(t, rejectedBytes, b)
			raw.Close()
		}
	}
	require.Zero(t, vast.Mover.(*counted).calls, "memory was touched")
}

// counted is memory that nobody may touch.
type counted struct{ calls int }

func (c *counted) Direct() bool                               { return false }
func (c *counted) Store(uint64, []byte) error                 { c.calls++; return nil }
func (c *counted) Load([]byte, uint64) error                  { c.calls++; return nil }
func (c *counted) Scatter(_, _ []uint64, _ []byte) error      { c.calls++; return nil }
func (c *counted) Gather(_ []byte, _, _ []uint64) (err error) { c.calls++; return nil }

// Messages are for those that agreed on them: others learn that the opcode is
// unknown, without the index that they would not expect.
func TestServerRefusesMessagesThatWereNotAgreedOn(t *testing.T) {
	s := newServed(t, 4096)
	s.arena.poison(0xA5)
	one := spread(s.arena.addr(), 1, 8, 8)
	for name, first := range map[string][]byte{"no hello": nil, "hello 0": helloBytes(0), "hello 1": helloBytes(HelloFirst)} {
		for _, op := range []uint8{opWriteMany, opReadMany} {
			t.Run(fmt.Sprintf("%s/%#x", name, op), func(t *testing.T) {
				raw := dialRaw(t, s.server)
				raw.send(first, message(op|flagV2, one, pattern(8)))
				if first != nil {
					raw.expect(greetingBytes)
				}
				raw.expect(rejectedBytes)
				raw.expectClose()
			})
		}
	}
	for _, op := range []uint8{opWriteMany, opReadMany} { // there is no version 1 of them
		raw := dialMany(t, s.server)
		raw.send(message(op, one, pattern(8)))
		raw.expectClose()
	}
	require.True(t, s.arena.all(0xA5))
}

// A later version of the hello may do all that this one may; a second hello ends the
// connection, also between messages, and changes nothing.
func TestServerTakesLaterHellosOnce(t *testing.T) {
	s := newServed(t, 4096)
	one := spread(s.arena.addr(), 1, 8, 8)
	for _, version := range []int{HelloMany, HelloMany + 1, 1 << 30} {
		raw := dialRaw(t, s.server)
		raw.send(helloBytes(version), message(opWriteMany|flagV2, one, []byte("all good")), helloBytes(HelloFirst),
			message(opWriteMany|flagV2, one, []byte("not this")))
		raw.expect(greetingBytes, okBytes, rejectedBytes)
		raw.expectClose()
		require.True(t, bytes.HasPrefix(s.arena, []byte("all good")))
	}
}
