package core

import (
	"runtime/debug"
	"unsafe"

	"github.com/pkg/errors"
)

// mover moves bytes between Go buffers and a caller's memory. All movement of
// bytes by our own code goes through one; memory of another kind (a GPU's) gets
// another mover, and nothing else changes.
type mover interface {
	Direct() bool
	Store(addr uint64, p []byte) error
	Load(p []byte, addr uint64) error
	Scatter(addr, length []uint64, p []byte) error
	Gather(p []byte, addr, length []uint64) error
}

// errFault: a caller's memory could not be accessed.
var errFault = errors.New("memory not accessible")

// copyChunk bounds one copy: the collector cannot stop a goroutine inside it,
// and a copy of 1 GiB was seen to hold everybody up for 306 ms.
const copyChunk = 256 << 10

// hostMover moves ordinary memory of this process.
type hostMover struct{}

// Direct: system calls may name the address; they answer EFAULT for a hole.
func (hostMover) Direct() bool { return true }

func (hostMover) Store(addr uint64, p []byte) (err error) {
	defer faultToError(debug.SetPanicOnFault(true), addr, &err)
	for len(p) > 0 {
		n := copy(hostBytes(addr, min(len(p), copyChunk)), p)
		p = p[n:]
		addr += uint64(n)
	}
	return nil
}

func (hostMover) Load(p []byte, addr uint64) (err error) {
	defer faultToError(debug.SetPanicOnFault(true), addr, &err)
	for len(p) > 0 {
		n := copy(p, hostBytes(addr, min(len(p), copyChunk)))
		p = p[n:]
		addr += uint64(n)
	}
	return nil
}

// Scatter and Gather take faults once for all ranges: for short ones that costs as
// much as the copy. The caller keeps p short, so that no copy is long. What is
// copied next is asked for before it is needed, since ranges are where no cache
// and no processor expects them.
func (hostMover) Scatter(addr, length []uint64, p []byte) (err error) {
	var i int
	defer faultAmong(debug.SetPanicOnFault(true), addr, &i, &err)
	from := streamFrom(uint64(len(p)))
	for i = range addr {
		if next := i + prefetchRanges; next < len(addr) && length[next] < from {
			prefetchWrite(uintptr(addr[next]), uintptr(min(length[next], prefetchBytes)))
		}
		n := length[i]
		if n >= from {
			streamCopy(addr[i], bytesAt(p[:n]), n)
		} else {
			copy(hostBytes(addr[i], int(n)), p)
		}
		p = p[n:]
	}
	return nil
}

func (hostMover) Gather(p []byte, addr, length []uint64) (err error) {
	var i int
	defer faultAmong(debug.SetPanicOnFault(true), addr, &i, &err)
	for i = range addr {
		if next := i + prefetchRanges; next < len(addr) {
			prefetchRead(uintptr(addr[next]), uintptr(min(length[next], prefetchBytes)))
		}
		p = p[copy(p, hostBytes(addr[i], int(length[i]))):]
	}
	return nil
}

// Copy copies between ranges of this process, length[i] bytes from src[i] to dst[i].
func (hostMover) Copy(dst, src, length []uint64) (err error) {
	var i int
	defer faultAmong(debug.SetPanicOnFault(true), dst, &i, &err)
	var bytes uint64
	for _, n := range length {
		bytes += n
	}
	from := streamFrom(bytes)
	for i = range dst {
		if next := i + prefetchRanges; next < len(dst) {
			prefetchRead(uintptr(src[next]), uintptr(min(length[next], prefetchBytes)))
			if length[next] < from {
				prefetchWrite(uintptr(dst[next]), uintptr(min(length[next], prefetchBytes)))
			}
		}
		copyRange(dst[i], src[i], length[i], length[i] >= from)
	}
	return nil
}

// faultToError turns the panic of an access to unmapped memory into an error, and
// restores what SetPanicOnFault was before.
func faultToError(before bool, addr uint64, err *error) {
	debug.SetPanicOnFault(before)
	if p := recover(); p != nil {
		*err = faultError(p, addr)
	}
}

// faultAmong does the same for a list of ranges, of which i was being copied.
func faultAmong(before bool, addr []uint64, i *int, err *error) {
	debug.SetPanicOnFault(before)
	if p := recover(); p != nil {
		*err = faultError(p, addr[*i])
	}
}

// faultError is the error for a fault; other panics go on.
func faultError(p any, addr uint64) error {
	fault, ok := p.(interface{ Addr() uintptr })
	if !ok {
		panic(p)
	}
	return errors.WithMessagef(errFault, "%#x, while copying from or to %#x", fault.Addr(), addr)
}

// bytesAt is where p lies, which its caller keeps alive.
func bytesAt(p []byte) uint64 { return uint64(uintptr(unsafe.Pointer(unsafe.SliceData(p)))) }

// hostBytes views a caller's memory as bytes, for the time of one copy. The
// address is a number everywhere else, so that the collector never sees it.
func hostBytes(addr uint64, n int) []byte {
	return unsafe.Slice((*byte)(*(*unsafe.Pointer)(unsafe.Pointer(&addr))), n)
}
