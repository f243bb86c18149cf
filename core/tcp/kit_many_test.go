package tcp

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"testing"

	"github.com/stretchr/testify/require"
)

// span is one range of a message.
type span struct{ addr, n uint64 }

// message is the head of a message of many ranges, and what follows it.
func message(op uint8, spans []span, payload ...[]byte) []byte {
	var sum uint64
	for _, s := range spans {
		sum += s.n
	}
	return messageOf(op, uint64(len(spans)), sum, spans, payload...)
}

// messageOf is one whose header says what the test wants.
func messageOf(op uint8, count, size uint64, spans []span, payload ...[]byte) []byte {
	b := request(op, count, size)
	for _, s := range spans {
		b = binary.LittleEndian.AppendUint64(b, s.addr)
		b = binary.LittleEndian.AppendUint64(b, s.n)
	}
	return append(b, bytes.Join(payload, nil)...)
}

// refusedAt is the answer to a message whose range i was refused.
func refusedAt(i uint64) []byte {
	return binary.LittleEndian.AppendUint64(append([]byte(nil), rejectedBytes...), i)
}

// theirs is the instance of startServer's servers.
var theirs = Instance{1, 2, 3}

func helloBytes(version int) []byte {
	return Hello{Version: version, Target: theirs, From: Instance{7}, Name: "near"}.encode()
}

var greetingBytes = Greeting{Instance: theirs}.encode()

// dialMany is a bare connection on which messages of many ranges are agreed on.
func dialMany(t testing.TB, s *Server) rawClient {
	raw := dialRaw(t, s)
	raw.send(helloBytes(HelloMany))
	raw.expect(greetingBytes)
	return raw
}

// ranged is a message as a scripted server sees it.
type ranged struct {
	header
	spans []span
	body  []byte // a write's payload
}

// receiveMany reads one message, or one single request as a message of one range.
func receiveMany(c io.Reader) (m ranged, ok bool) {
	var b [HeaderSize]byte
	if _, err := io.ReadFull(c, b[:]); err != nil {
		return m, false
	}
	m.header = parseHeader(b[:])
	switch m.op &^ flagV2 {
	case opWriteMany, opReadMany:
		list := make([]byte, m.addr*rangeSize)
		if _, err := io.ReadFull(c, list); err != nil {
			return m, false
		}
		for ; len(list) > 0; list = list[rangeSize:] {
			addr, n := parseRange(list)
			m.spans = append(m.spans, span{addr, n})
		}
	default:
		m.spans = []span{{m.addr, m.size}}
	}
	if op := m.op &^ flagV2; op == opWriteMany || op == opWrite || op == opHello {
		m.body = make([]byte, m.size)
		if _, err := io.ReadFull(c, m.body); err != nil {
			return m, false
		}
	}
	return m, true
}

// store puts a write's payload into memory.
func (m ranged) store() {
	body := m.body
	for _, s := range m.spans {
		body = body[copy(hostBytes(s.addr, int(s.n)), body):]
	}
}

// serve does what a message asks for.
func (m ranged) serve(c io.Writer) {
	out := append([]byte(nil), okBytes...)
	if m.body != nil {
		m.store()
	} else {
		for _, s := range m.spans {
			out = append(out, hostBytes(s.addr, int(s.n))...)
		}
	}
	c.Write(out)
}

// takeHello answers the hello with which a connection begins.
func takeHello(c net.Conn) bool {
	m, ok := receiveMany(c)
	if ok {
		c.Write(greetingBytes)
	}
	return ok && m.op == opHello|flagV2
}

// honestMany serves up to n messages, n < 0 all.
func honestMany(c net.Conn, n int) {
	for ; n != 0; n-- {
		m, ok := receiveMany(c)
		if !ok {
			return
		}
		m.serve(c)
	}
}

// newScriptedMany is a scripted peer with which messages of many ranges are agreed
// on; serve begins behind the hello.
func newScriptedMany(t testing.TB, size int, serve func(n int, c *net.TCPConn), set ...func(*PeerConfig, *dialer)) *scripted {
	greeted := func(n int, c *net.TCPConn) {
		if takeHello(c) {
			serve(n, c)
		}
	}
	return newScripted(t, size, greeted, append([]func(*PeerConfig, *dialer){many}, set...)...)
}

// spread is n spans of size bytes, stride apart.
func spread(base uint64, n, size, stride int) []span {
	out := make([]span, n)
	for i := range out {
		out[i] = span{base + uint64(i*stride), uint64(size)}
	}
	return out
}

// pattern is n bytes that differ from their neighbours.
func pattern(n int) []byte {
	b := make(arena, n)
	b.fill(9)
	return b
}

// drained waits until a server has given all pins back.
func drained(t testing.TB, regions ...*region) {
	t.Helper()
	for i, r := range regions {
		eventually(t, "the pins to be given back", func() bool { return r.held() == 0 })
		require.Zero(t, r.held(), "region %d", i)
	}
}
