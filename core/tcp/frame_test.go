package tcp

import (
	"encoding/binary"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// Byte strings as other implementations send and expect them.
func TestHeaderOnTheWire(t *testing.T) {
	for _, c := range []struct {
		name string
		h    header
		wire string
	}{
		{"version 1 read", header{1, 2, opRead},
			"\x01\x00\x00\x00\x00\x00\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"},
		{"version 1 write", header{0x0102030405060708, 0x7f00deadbeef1000, opWrite},
			"\x08\x07\x06\x05\x04\x03\x02\x01\x00\x10\xef\xbe\xad\xde\x00\x7f\x01\x00\x00\x00\x00\x00\x00\x00"},
		{"version 2 read", header{4096, 0x1000, opRead | flagV2},
			"\x00\x10\x00\x00\x00\x00\x00\x00\x00\x10\x00\x00\x00\x00\x00\x00\x80\x00\x00\x00\x00\x00\x00\x00"},
		{"version 2 write", header{1<<64 - 1, 1<<64 - 1, opWrite | flagV2},
			"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x81\x00\x00\x00\x00\x00\x00\x00"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := make([]byte, HeaderSize)
			for i := range b {
				b[i] = 0xEE // what was in the buffer must not leak into the padding
			}
			c.h.put(b)
			require.Equal(t, c.wire, string(b))
			require.Equal(t, c.h, parseHeader(b))
		})
	}
}

// The padding is whatever the sender's heap had.
func TestHeaderPaddingIsIgnored(t *testing.T) {
	b := []byte("\x01\x00\x00\x00\x00\x00\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00\x81garbage")
	require.Len(t, b, HeaderSize)
	require.Equal(t, header{1, 2, opWrite | flagV2}, parseHeader(b))
}

func TestStatusOnTheWire(t *testing.T) {
	b := make([]byte, StatusSize)
	putStatus(b, statusOK)
	require.Equal(t, "\x00\x00\x00\x00\x56\x54\x43\x4D", string(b))
	putStatus(b, statusRejected)
	require.Equal(t, "\x01\x00\x00\x00\x56\x54\x43\x4D", string(b))
	code, err := parseStatus(b)
	require.NoError(t, err)
	require.EqualValues(t, statusRejected, code)

	for _, wrong := range []string{"\x00\x00\x00\x00\x00\x00\x00\x00", "\x56\x54\x43\x4D\x00\x00\x00\x00", "\x00\x00\x00\x00\x4D\x43\x54\x56"} {
		_, err := parseStatus([]byte(wrong))
		require.ErrorIs(t, err, ErrProtocol, "%x", wrong)
	}
}

// The row of statuses that answers are cut from holds nothing else.
func TestRowOfStatuses(t *testing.T) {
	for i := 0; i < len(okStatuses); i += StatusSize {
		code, err := parseStatus(okStatuses[i:])
		require.NoError(t, err)
		require.Zero(t, code)
	}
}

func TestHelloOnTheWire(t *testing.T) {
	h := Hello{Target: Instance{1, 2}, From: Instance{15: 9}, Name: "host:12345"}
	b := h.encode()
	head := parseHeader(b)
	require.EqualValues(t, opHello|flagV2, head.op)
	require.EqualValues(t, HelloFirst, head.addr)
	h.Version = HelloMany
	require.EqualValues(t, HelloMany, parseHeader(h.encode()).addr)
	h.Version = 0 // the server takes it from the header
	require.EqualValues(t, len(b)-HeaderSize, head.size)
	got, err := decodeHello(b[HeaderSize:])
	require.NoError(t, err)
	require.Equal(t, h, got)

	later := append(b[HeaderSize:], "fields of a later version"...)
	got, err = decodeHello(later)
	require.NoError(t, err)
	require.Equal(t, h, got)

	for n := range len(b) - HeaderSize {
		_, err := decodeHello(b[HeaderSize : HeaderSize+n])
		require.ErrorIs(t, err, ErrProtocol, "cut to %d bytes", n)
	}
}

// sendmsg is given our iovecs as the system's.
func TestIovecLayout(t *testing.T) {
	var ours iovec
	var theirs unix.Iovec
	require.Equal(t, unsafe.Sizeof(theirs), unsafe.Sizeof(ours))
	require.Equal(t, unsafe.Offsetof(theirs.Base), unsafe.Offsetof(ours.base))
	require.Equal(t, unsafe.Sizeof(theirs.Base), unsafe.Sizeof(ours.base))
	require.Equal(t, unsafe.Offsetof(theirs.Len), unsafe.Offsetof(ours.len))
	require.Equal(t, unsafe.Sizeof(theirs.Len), unsafe.Sizeof(ours.len))
}

func TestAdvance(t *testing.T) {
	vec := func() []iovec { return []iovec{{100, 10}, {200, 1}, {300, 5}} }
	require.Equal(t, vec(), advance(vec(), 0))
	require.Equal(t, []iovec{{103, 7}, {200, 1}, {300, 5}}, advance(vec(), 3))
	require.Equal(t, []iovec{{200, 1}, {300, 5}}, advance(vec(), 10))
	require.Equal(t, []iovec{{301, 4}}, advance(vec(), 12))
	require.Empty(t, advance(vec(), 16))
}

func FuzzHeader(f *testing.F) {
	f.Add([]byte("\x01\x00\x00\x00\x00\x00\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00\x81garbage"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < HeaderSize {
			return
		}
		h := parseHeader(b)
		again := make([]byte, HeaderSize)
		h.put(again)
		require.Equal(t, b[:17], again[:17])
		require.Equal(t, h, parseHeader(again))
	})
}

func FuzzStatus(f *testing.F) {
	f.Add([]byte("\x01\x00\x00\x00\x56\x54\x43\x4D"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < StatusSize {
			return
		}
		code, err := parseStatus(b)
		require.Equal(t, string(b[4:8]) == "VTCM", err == nil)
		if err == nil {
			require.Equal(t, binary.LittleEndian.Uint32(b), code)
			again := make([]byte, StatusSize)
			putStatus(again, code)
			require.Equal(t, b[:StatusSize], again)
		}
	})
}

func FuzzHello(f *testing.F) {
	f.Add(Hello{Name: "n"}.encode()[HeaderSize:])
	f.Add([]byte{33: 0xff, 32: 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := decodeHello(b)
		if err != nil {
			require.ErrorIs(t, err, ErrProtocol)
			return
		}
		require.Equal(t, string(b[34:34+len(h.Name)]), h.Name)
		if len(h.Name) <= 1024 {
			require.Equal(t, string(b[:34+len(h.Name)]), string(h.encode()[HeaderSize:]))
		}
	})
}
