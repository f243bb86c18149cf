package tcp

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// stream makes a client's bytes out of a fuzzer's: requests of every kind, most of
// them nearly right, with addresses near the memory at base.
type stream struct {
	in   []byte
	base uint64
	out  []byte
}

func (s *stream) byte() (b byte) {
	if len(s.in) > 0 {
		b, s.in = s.in[0], s.in[1:]
	}
	return b
}

// span is a range in the memory or about its end, mostly short.
func (s *stream) span() span {
	off := uint64(s.byte()) | uint64(s.byte())<<8
	n := uint64(s.byte())
	switch s.byte() % 16 {
	case 0:
		n = 0
	case 1:
		n = -n
	case 2, 3:
		n *= 64
	case 4:
		n *= 256
	}
	return span{s.base + off, n}
}

// payload is n bytes, if that is not absurd.
func (s *stream) payload(n uint64) {
	for i := range min(n, 1<<17) {
		s.out = append(s.out, byte(i*7)^byte(len(s.out)>>5))
	}
}

func (s *stream) build() []byte {
	for len(s.in) > 0 && len(s.out) < 1<<19 {
		switch k := s.byte(); k % 8 {
		case 0, 1:
			s.many(opWriteMany | flagV2)
		case 2:
			s.many(opReadMany | flagV2)
		case 3, 4:
			x := s.span()
			op := [...]uint8{opWrite | flagV2, opRead | flagV2, opWrite, opRead}[k>>3%4]
			s.out = append(s.out, request(op, x.addr, x.n)...)
			if op&^flagV2 == opWrite {
				s.payload(x.n)
			}
		case 5:
			s.out = append(s.out, helloBytes(int(k>>3)%4)...)
		case 6: // anything
			n := min(int(k>>3), len(s.in))
			s.out = append(s.out, s.in[:n]...)
			s.in = s.in[n:]
		case 7: // the rest is cut off here and there
			if k > 0xf0 {
				s.out = s.out[:len(s.out)-min(len(s.out), int(s.byte()))]
			}
		}
	}
	return s.out
}

// many is a message, sometimes with a header that does not go with it.
func (s *stream) many(op uint8) {
	count := int(s.byte())
	lie := s.byte()
	if lie > 0xf8 {
		count *= 5
	}
	var spans []span
	var sum uint64
	for range count {
		spans = append(spans, s.span())
		sum += spans[len(spans)-1].n
	}
	said := uint64(count)
	switch lie {
	case 1:
		said++
	case 2:
		sum++
	case 3:
		said = binary.LittleEndian.Uint64(append(bytes.Clone(s.in), make([]byte, 8)...))
	}
	s.out = append(s.out, messageOf(op, said, sum, spans)...)
	if op&^flagV2 == opWriteMany {
		s.payload(sum)
	}
}

// FuzzServer sends streams of requests and holds memory and answers against a model:
// only ranges of requests that were accepted change, and each byte to what was sent.
func FuzzServer(f *testing.F) {
	const size = 1<<16 + 512
	memory := newArena(f, size)
	tiles := []tile{{0, 4096, false, host{}}, {4096, 5000, false, behind{}}, {6000, 40_000, false, host{}},
		{40_000, 41_000, true, host{}}, {41_000, 65_000, false, behind{}}, {65_000, 1 << 16, false, host{}}}
	mem := &table{}
	for _, t := range tiles {
		r := mem.add(newRegion(t.mover, memory.addr()+uint64(t.from), memory.addr()+uint64(t.to)))
		r.readOnly = t.readOnly
	}
	server := startServer(f, mem)
	initial := pattern(size)

	f.Add([]byte("\x15\x00\x03\x08\x00\x20\x00\x10\x10\x40\x00\x10\x20\x20\x00\x10\x02\x02\x08\x00\x20\x00\x10\x10\x40\x00\x10"))
	f.Add([]byte("\x15\x00\x02\x08\xf0\x0f\xff\x00\x00\x20\xff\x04")) // adjacent regions, a long range
	f.Add([]byte("\x15\x01\x01\x02\x00\x00\x01\x10"))                 // a wrong sum
	f.Add([]byte("\x15\x03\x10\x20\x40\x10\x0c\x10\x20\x40\x10\x15")) // single requests, a second hello
	f.Add(append([]byte("\x15\x01\x20\x10"), bytes.Repeat([]byte("\x00\x30\xff\x03"), 32)...))
	f.Add(append([]byte("\x15\x00\xff\x10"), bytes.Repeat([]byte("\x00\x80\x40\x10\x40\x9c\x01\x10"), 128)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		copy(memory, initial)
		sent := (&stream{in: b, base: memory.addr()}).build()
		want := &model{base: memory.addr(), mem: append([]byte(nil), memory...), regions: tiles}
		want.run(sent)
		before := server.Counters.Written.Load()

		c, err := net.Dial("tcp", server.listener.Addr().String())
		require.NoError(t, err)
		defer c.Close()
		c.SetDeadline(time.Now().Add(patience))
		sender := make(chan struct{})
		go func() {
			defer close(sender)
			c.Write(sent) // may fail: the server has had enough
			c.(*net.TCPConn).CloseWrite()
		}()
		got, err := io.ReadAll(c)
		<-sender
		if err != nil {
			require.True(t, hangup(err), "%v", err)
		}
		if want.abrupt {
			require.True(t, bytes.HasPrefix(want.out, got), "other answers than the model's")
		} else {
			require.True(t, bytes.Equal(want.out, got), "other answers than the model's")
		}
		for end := time.Now().Add(patience); server.Connections() > 0; runtime.Gosched() {
			require.True(t, time.Now().Before(end), "the connection does not end")
		}
		require.True(t, bytes.Equal(want.mem, memory), "other memory than the model's")
		require.Equal(t, want.written, server.Counters.Written.Load()-before)
		for _, r := range mem.regions {
			require.Zero(t, r.held())
		}
	})
}
