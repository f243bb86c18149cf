package metadata

import (
	"encoding/binary"
	"io"

	"github.com/pkg/errors"
)

// Type is what a frame asks or answers.
type Type uint8

const (
	TypeConnection Type = 0 // queue pairs, to connect over RDMA
	TypeMetadata   Type = 1 // the descriptor
	TypeNotify     Type = 2 // a notification
	TypeProbe      Type = 3 // a sign of life

	// TypeLegacy stands for a frame without type byte: a connection request of
	// an old peer. It is a value that no frame can carry.
	TypeLegacy Type = 0xff
)

func (t Type) String() string {
	switch t {
	case TypeConnection:
		return "connection"
	case TypeMetadata:
		return "metadata"
	case TypeNotify:
		return "notify"
	case TypeProbe:
		return "probe"
	case TypeLegacy:
		return "legacy connection"
	}
	return "unknown"
}

const (
	// DefaultMaxLength is the limit of a frame's length where
	// MC_HANDSHAKE_MAX_LENGTH does not set another one.
	DefaultMaxLength = 1 << 20

	frameHeader = 8        // the length
	firstRead   = 16 << 10 // memory given to a frame before any of it came
	legacyFirst = 0x80     // first bytes from here on are types nobody knows
)

// AppendFrame appends the frame of the given type and body to dst. The body of
// a legacy frame is a JSON text, so it is never empty.
func AppendFrame(dst []byte, t Type, body []byte) []byte {
	dst = binary.LittleEndian.AppendUint64(dst, frameLength(t, body))
	if t != TypeLegacy {
		dst = append(dst, byte(t))
	}
	return append(dst, body...)
}

// frameLength is the length field of the frame: type byte and body.
func frameLength(t Type, body []byte) uint64 {
	if t == TypeLegacy {
		return uint64(len(body))
	}
	return uint64(len(body)) + 1
}

// ReadFrame reads one frame whose length is at most max and returns its type
// and body; the body is the caller's. Memory grows with the bytes that came, not
// with the length that was announced.
// It returns io.EOF if the stream ends before the first byte,
// io.ErrUnexpectedEOF (wrapped) if it ends within the frame, r's error if r
// fails, and otherwise an error that tells what is malformed.
func ReadFrame(r io.Reader, max uint64) (Type, []byte, error) {
	length, err := readLength(r, max)
	if err != nil {
		return 0, nil, err
	}
	var first [1]byte
	if _, err := io.ReadFull(r, first[:]); err != nil {
		return 0, nil, errors.Wrap(unexpected(err), "frame: no byte after the length")
	}
	switch t := first[0]; {
	case t <= byte(TypeProbe):
		body, err := readBody(r, nil, length-1)
		return Type(t), body, err
	case t >= legacyFirst:
		return 0, nil, errors.Errorf("frame: unknown type %d", t)
	}
	body, err := readBody(r, first[:], length-1)
	return TypeLegacy, body, err
}

func readLength(r io.Reader, max uint64) (uint64, error) {
	var header [frameHeader]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		if err == io.EOF {
			return 0, io.EOF
		}
		return 0, errors.Wrap(err, "frame: length incomplete")
	}
	length := binary.LittleEndian.Uint64(header[:])
	if length == 0 || length > max {
		return 0, errors.Errorf("frame: length %d is not within 1 to %d; a larger limit is set by MC_HANDSHAKE_MAX_LENGTH", length, max)
	}
	return length, nil
}

// readBody returns have followed by the next n bytes of r.
func readBody(r io.Reader, have []byte, n uint64) ([]byte, error) {
	total := uint64(len(have)) + n
	body := append(make([]byte, 0, min(total, firstRead)), have...)
	for uint64(len(body)) < total {
		if len(body) == cap(body) {
			grown := make([]byte, len(body), min(total, 2*uint64(cap(body))))
			copy(grown, body)
			body = grown
		}
		got, err := io.ReadFull(r, body[len(body):cap(body)])
		body = body[:len(body)+got]
		if err != nil {
			return nil, errors.Wrapf(unexpected(err), "frame: %d of %d bytes", len(body), total)
		}
	}
	return body, nil
}

// unexpected is err for a stream that must not end here.
func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
