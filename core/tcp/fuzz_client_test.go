package tcp

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

// outcome is what a client must make of the bytes that answer its only message, which
// writes, or reads so many bytes.
func outcome(b []byte, write bool, size int) error {
	if len(b) < StatusSize {
		return ErrPeer
	}
	code, rest := binary.LittleEndian.Uint32(b), len(b)-StatusSize
	switch {
	case string(b[4:8]) != "VTCM":
		return ErrProtocol
	case code == 1 && rest >= 8:
		return ErrRejected
	case code == 1, code == 0 && !write && rest < size:
		return ErrPeer // it may have been going to be anything
	case code != 0:
		return ErrProtocol
	}
	return nil
}

// FuzzClient answers requests with anything. A posting ends once and in time, well
// only when every slice has its answer, and no answer touches memory that nothing was
// asked for.
func FuzzClient(f *testing.F) {
	const (
		reads    = 1 << iota // else writes
		single               // each slice has a request of its own
		payload              // behind what the fuzzer says, as much as was asked for
		trailing             // and behind that a status
	)
	ok, no := string(okBytes), string(refusedAt(3))
	for _, s := range []string{"", ok, ok[:5], no, no[:11], ok + ok, no + ok, "\x05\x00\x00\x00VTCM", "VTCM\x00\x00\x00\x00"} {
		for kind := range byte(16) {
			f.Add(kind, byte(5), uint16(1700), []byte(s))
		}
	}
	const size = 1 << 18
	near := newArena(f, size)
	// One listener for all: a port each would run out of them.
	var now atomic.Pointer[func(c *net.TCPConn)]
	s := startScript(f, func(_ int, c *net.TCPConn) { (*now.Load())(c) })
	f.Fuzz(func(t *testing.T, kind, n byte, length uint16, reply []byte) {
		count := 1 + int(n)%60
		each := 1 + int(length)%(size/count/2)
		asked := bytes.Repeat([]byte{7}, count*each)
		reply = bytes.Clone(reply)
		if kind&payload != 0 {
			reply = append(reply, asked...)
		}
		if kind&trailing != 0 {
			reply = append(reply, okBytes...)
		}
		before := s.accepted.Load()
		serve := func(c *net.TCPConn) {
			if kind&single == 0 && !takeHello(c) {
				return
			}
			if _, err := io.ReadFull(c, make([]byte, HeaderSize)); err != nil {
				return
			}
			done := make(chan struct{})
			go func() {
				defer close(done)
				c.Write(reply)
				c.CloseWrite()
			}()
			swallow(c)
			<-done
		}
		now.Store(&serve)
		framing := many
		if kind&single != 0 {
			framing = framings["each"]
		}
		near.poison(0xA5)
		slices := row(host{}, near.addr(), 1<<40, count, each, 2*each)
		src, _ := post(startPeer(t, s.addr, framing, lanes(1)), kind&reads == 0, slices)
		end := src.end(t)
		done, _ := src.counts()
		require.True(t, end.Quiet)
		require.LessOrEqual(t, done, count)
		require.LessOrEqual(t, s.accepted.Load()-before, int64(8))
		if end.Err == nil {
			require.Equal(t, count, done)
		}
		if kind&single == 0 {
			want := outcome(reply, kind&reads == 0, count*each)
			if want == nil {
				require.NoError(t, end.Err)
			} else {
				require.ErrorIs(t, end.Err, want)
				require.Zero(t, done)
			}
		}
		for i := range slices {
			mine := near[2*i*each:][:each]
			switch {
			case kind&reads == 0:
				require.True(t, mine.all(0xA5), "a write changed its source")
			case kind&single == 0 && end.Err == nil:
				require.True(t, bytes.Equal(reply[StatusSize+i*each:][:each], mine), "slice %d", i)
			}
			require.True(t, near[(2*i+1)*each:][:each].all(0xA5), "behind slice %d", i)
		}
		require.True(t, near[2*count*each:].all(0xA5), "behind the last slice")
	})
}
