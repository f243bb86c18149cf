package tcp

import "encoding/binary"

// Between two engines of this kind that agreed on it (see HelloMany), one message
// carries many ranges and has one status. It begins with a header whose size is
// that of the whole payload and whose address field is the number of ranges; the
// ranges follow, then, of a write, the payload, the ranges' bytes one after the
// other. The answer to a read is the status and that payload. A server looks at
// all ranges before it touches the first: it refuses a message as a whole, and
// says behind the status which range was the reason.
const (
	opReadMany  = 0x7c
	opWriteMany = 0x7d

	// rangeSize is what a range takes on the wire: address and length.
	rangeSize = 16
	// maxRanges is the most ranges a message may have.
	maxRanges = 1024
	// culpritSize is the length of what follows the status of a refused message:
	// the index of the range at fault.
	culpritSize = 8
)

// putRange writes range i behind a message's header.
func putRange(head []byte, i int, addr, n uint64) {
	b := head[HeaderSize+i*rangeSize:]
	binary.LittleEndian.PutUint64(b, addr)
	binary.LittleEndian.PutUint64(b[8:], n)
}

// parseRange reads the first range in b.
func parseRange(b []byte) (addr, n uint64) {
	return binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint64(b[8:])
}
