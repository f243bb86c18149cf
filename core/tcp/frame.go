package tcp

import (
	"encoding/binary"

	"github.com/pkg/errors"
)

const (
	// HeaderSize is the length of a request header on the wire: size, address,
	// opcode, and seven bytes of padding that we send as zero.
	HeaderSize = 24
	// StatusSize is the length of a version 2 status.
	StatusSize = 8

	opRead  = 0
	opWrite = 1
	opHello = 0x7e // between engines of this kind only; see hello.go
	flagV2  = 0x80

	statusMagic = 0x4D435456 // "MCTV"

	statusOK       = 0
	statusRejected = 1
	// Answers to a hello only; never sent to anyone else.
	statusOtherProcess = 3
)

// header is one request as it stands on the wire.
type header struct {
	size uint64 // bytes of payload
	addr uint64 // absolute address in the server's process
	op   uint8  // opRead, opWrite or opHello, with flagV2
}

// put writes the header into the first HeaderSize bytes of b.
func (h header) put(b []byte) {
	binary.LittleEndian.PutUint64(b, h.size)
	binary.LittleEndian.PutUint64(b[8:], h.addr)
	binary.LittleEndian.PutUint64(b[16:], uint64(h.op))
}

// parseHeader reads a header from the first HeaderSize bytes of b.
func parseHeader(b []byte) header {
	return header{
		size: binary.LittleEndian.Uint64(b),
		addr: binary.LittleEndian.Uint64(b[8:]),
		op:   b[16],
	}
}

// putStatus writes a status into the first StatusSize bytes of b.
func putStatus(b []byte, code uint32) {
	binary.LittleEndian.PutUint32(b, code)
	binary.LittleEndian.PutUint32(b[4:], statusMagic)
}

// parseStatus reads a status; an answer without the magic is ErrProtocol, as
// from a version 1 server that took the request for a read.
func parseStatus(b []byte) (code uint32, err error) {
	if m := binary.LittleEndian.Uint32(b[4:]); m != statusMagic {
		return 0, errors.WithMessagef(ErrProtocol, "status magic is %#x, not %#x", m, uint32(statusMagic))
	}
	return binary.LittleEndian.Uint32(b), nil
}
