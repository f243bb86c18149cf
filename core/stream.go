package core

import "math"

// Ranges of streamRange bytes and more are stored past the caches where streamMessage
// bytes or more are copied at once: the batch they are part of hardly fits in there, and
// the line that a store goes to need not be read before. See docs/decisions.md.
const (
	streamRange   = 4 << 10
	streamMessage = 32 << 10
)

// streamFrom is the length from which ranges of a copy of so many bytes are streamed.
func streamFrom(bytes uint64) uint64 {
	if canStream && bytes >= streamMessage {
		return streamRange
	}
	return math.MaxUint64
}

const (
	streamAlign = 32
	streamBlock = 128
)

// copyRange copies n bytes of this process's memory, in chunks. It faults where the
// memory is not accessible.
func copyRange(dst, src, n uint64, stream bool) {
	for n > 0 {
		k := min(n, copyChunk)
		if stream {
			streamCopy(dst, src, k)
		} else {
			copy(hostBytes(dst, int(k)), hostBytes(src, int(k)))
		}
		dst, src, n = dst+k, src+k, n-k
	}
}

// streamCopy copies the ends that are not aligned in the usual way.
func streamCopy(dst, src, n uint64) {
	head := min(-dst%streamAlign, n)
	copy(hostBytes(dst, int(head)), hostBytes(src, int(head)))
	dst, src, n = dst+head, src+head, n-head
	if body := n &^ (streamBlock - 1); body > 0 {
		streamBlocks(uintptr(dst), uintptr(src), uintptr(body))
		dst, src, n = dst+body, src+body, n-body
	}
	copy(hostBytes(dst, int(n)), hostBytes(src, int(n)))
}
