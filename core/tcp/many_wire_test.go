package tcp

import (
	"bytes"
	"net"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// The bytes of messages, as another implementation would have to send and expect
// them: a client's, with the answers that it needs.
func TestMessagesOnTheWire(t *testing.T) {
	write := "\x06\x00\x00\x00\x00\x00\x00\x00" + // bytes of payload
		"\x02\x00\x00\x00\x00\x00\x00\x00" + // ranges
		"\xfd\x00\x00\x00\x00\x00\x00\x00" + // opcode, padding
		"\x00\x10\xef\xbe\xad\xde\x00\x7f" + "\x04\x00\x00\x00\x00\x00\x00\x00" +
		"\x00\x00\x00\x00\x00\x00\x00\x10" + "\x02\x00\x00\x00\x00\x00\x00\x00" + "pageKV"
	read := strings.Replace(write[:len(write)-6], "\xfd", "\xfc", 1)
	both := []string{"write", "read"}
	for i, want := range []string{write, read} {
		t.Run(both[i], func(t *testing.T) {
			seen := make(chan string, 1)
			s := newScriptedMany(t, 4096, func(_ int, c *net.TCPConn) {
				b := make([]byte, len(want))
				n, _ := c.Read(b)
				for n < len(b) {
					k, err := c.Read(b[n:])
					if err != nil {
						break
					}
					n += k
				}
				seen <- string(b[:n])
				c.Write(okBytes)
				if i == 1 {
					c.Write([]byte("pageKV"))
				}
				honest(c, 0)
			})
			copy(s.near, "page")
			copy(s.near[100:], "KV")
			src, _ := post(s.peer, i == 0, []Slice{
				{s.near.addr(), 0x7f00deadbeef1000, 4, host{}}, {s.near.addr() + 100, 0x1000000000000000, 2, host{}}})
			src.well(t)
			require.Equal(t, want, <-seen)
			require.Equal(t, "pageKV", string(s.near[:4])+string(s.near[100:102]))
		})
	}
}

// The server's side of the same, byte for byte, in one stream: writes, reads,
// single requests, in any order and without waiting.
func TestServerAnswersMessages(t *testing.T) {
	s := newServed(t, 1<<20)
	base := s.arena.addr()
	raw := dialRaw(t, s.server)
	raw.send(helloBytes(HelloMany),
		message(opWriteMany|flagV2, []span{{base + 10, 3}, {base, 2}, {base + 4096, 1}}, []byte("abcdef")),
		request(opWrite|flagV2, base+20, 2), []byte("xy"),
		message(opReadMany|flagV2, []span{{base + 20, 2}, {base, 2}, {base + 10, 3}}),
		request(opRead|flagV2, base+4096, 1),
		request(opRead, base, 2), // a version 1 read, which has no status
		message(opWriteMany|flagV2, []span{{base, 1}}, []byte("z")),
		message(opReadMany|flagV2, []span{{base, 1}, {base, 1}}))
	raw.expect(greetingBytes, okBytes, okBytes, okBytes, []byte("xydeabc"), okBytes, []byte("f"), []byte("de"),
		okBytes, okBytes, []byte("zz"))
	raw.CloseWrite()
	raw.expectClose()
	require.EqualValues(t, 6+2+1, s.server.Counters.Written.Load())
	require.EqualValues(t, 7+1+2+2, s.server.Counters.Read.Load())
	require.Zero(t, s.server.Counters.Rejected.Load())
}

// A thousand messages and single requests follow each other without a pause; each
// sees what those before it wrote.
func TestServerPipelinesMessagesAndSingleRequests(t *testing.T) {
	const rounds, cells, cell = 1000, 64, 700
	s := newServed(t, cells*cell)
	model := make(arena, cells*cell)
	at := func(i int) uint64 { return s.arena.addr() + uint64(i%cells*cell) }
	out, want := helloBytes(HelloMany), greetingBytes
	for i := range rounds {
		payload := bytes.Repeat([]byte{byte(i), byte(i >> 8)}, cell)
		switch i % 4 {
		case 0: // three cells in one message
			out = append(out, message(opWriteMany|flagV2, []span{{at(7 * i), cell}, {at(7*i + 1), 13}, {at(7*i + 2), cell}},
				payload[:2*cell-13], payload[:26])...)
			body := append(append([]byte{}, payload[:2*cell-13]...), payload[:26]...)
			for k, n := range []int{cell, 13, cell} {
				body = body[copy(model[(7*i+k)%cells*cell:][:n], body):]
			}
			want = append(want, okBytes...)
		case 1:
			out = append(out, message(opReadMany|flagV2, []span{{at(i), cell}, {at(i - 1), cell}})...)
			want = append(append(append(want, okBytes...), model[i%cells*cell:][:cell]...), model[(i-1)%cells*cell:][:cell]...)
		case 2:
			out = append(append(out, request(opWrite|flagV2, at(3*i), cell)...), payload[:cell]...)
			copy(model[3*i%cells*cell:][:cell], payload)
			want = append(want, okBytes...)
		case 3:
			out = append(out, request(opRead|flagV2, at(3*i), cell)...)
			want = append(append(want, okBytes...), model[3*i%cells*cell:][:cell]...)
		}
	}
	raw := dialRaw(t, s.server)
	go raw.Write(out)
	raw.expect(want)
	require.True(t, bytes.Equal(model, s.arena))
	drained(t, s.region)
}

// As many ranges as fit, of one byte, and of sizes about those at which the way of
// the bytes changes.
func TestServerTakesFullMessages(t *testing.T) {
	for _, size := range []int{1, 7, 8, gatherMax - 1, gatherMax, gatherMax + 1, 8191, 8192} {
		s := newServed(t, maxRanges*2*size)
		body := pattern(maxRanges * size)
		spans := spread(s.arena.addr(), maxRanges, size, 2*size)
		raw := dialMany(t, s.server)
		go raw.Write(append(message(opWriteMany|flagV2, spans, body), message(opReadMany|flagV2, spans)...))
		raw.expect(okBytes, okBytes, body)
		for i := range maxRanges {
			require.True(t, bytes.Equal(body[i*size:][:size], s.arena[2*i*size:][:size]), "range %d of %d bytes", i, size)
			require.True(t, s.arena[(2*i+1)*size:][:size].all(0), "behind range %d", i)
		}
	}
}

// Ranges of one message may overlap: they are filled one after the other.
func TestServerFillsOverlappingRangesInOrder(t *testing.T) {
	for _, size := range []int{100, 3 * maxDirect} { // through the buffer, and straight
		s := newServed(t, 2*size)
		first, second, third := bytes.Repeat([]byte{1}, size), bytes.Repeat([]byte{2}, size/2), bytes.Repeat([]byte{3}, size)
		base := s.arena.addr()
		raw := dialMany(t, s.server)
		raw.send(message(opWriteMany|flagV2, []span{{base, uint64(size)}, {base + uint64(size/4), uint64(size / 2)}, {base + uint64(size/2), uint64(size)}},
			first, second, third))
		raw.expect(okBytes)
		want := make([]byte, 2*size)
		copy(want, first)
		copy(want[size/4:], second)
		copy(want[size/2:], third)
		require.True(t, bytes.Equal(want, s.arena))
	}
}

// Requests are served in order: what is read is what was there before the write that
// follows in the same stream, however long the answer.
func TestServerReadsBeforeItWrites(t *testing.T) {
	for _, size := range []int{100, gatherMax, gatherMax + 1, 60_000} {
		s := newServed(t, size)
		before, after := pattern(size), bytes.Repeat([]byte{7}, size)
		all := []span{{s.arena.addr(), uint64(size)}}
		ways := map[string]struct{ read, write []byte }{
			"messages": {message(opReadMany|flagV2, all), message(opWriteMany|flagV2, all, after)},
			"single":   {request(opRead|flagV2, all[0].addr, all[0].n), append(request(opWrite|flagV2, all[0].addr, all[0].n), after...)},
		}
		for name, w := range ways {
			copy(s.arena, before)
			raw := dialMany(t, s.server)
			raw.send(w.read, w.write, w.read)
			raw.expect(okBytes, before, okBytes, okBytes, after)
			require.True(t, bytes.Equal(after, s.arena), name)
		}
	}
}
