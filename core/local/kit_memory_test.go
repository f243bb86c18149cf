package local

import (
	"bytes"
	"math/rand/v2"
	"runtime/debug"
	"slices"
	"sync"
	"testing"
	"unsafe"

	"github.com/pkg/errors"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// arena is memory outside the Go heap, as a caller's is.
type arena []byte

func mapArena(size int) (arena, error) {
	return unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
}

func newArena(t testing.TB, size int) arena {
	// A margin on both sides: two arenas that adjoin would be one range, once both are
	// registered.
	const page = 4096
	inside := (size + page - 1) / page * page
	b, err := unix.Mmap(-1, 0, inside+2*page, unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	require.NoError(t, err)
	t.Cleanup(func() { unix.Munmap(b) })
	require.NoError(t, unix.Mprotect(b[page:page+inside], unix.PROT_READ|unix.PROT_WRITE))
	return b[page : page+size : page+size]
}

func (a arena) addr() uint64 { return uint64(uintptr(unsafe.Pointer(unsafe.SliceData(a)))) }
func (a arena) end() uint64  { return a.addr() + uint64(len(a)) }

// fill writes bytes that seed decides.
func (a arena) fill(seed byte) { rand.NewChaCha8([32]byte{seed}).Read(a) }

// poison makes every byte b.
func (a arena) poison(b byte) {
	a[0] = b
	for n := 1; n < len(a); n *= 2 {
		copy(a[n:], a[:n])
	}
}

// all tells whether every byte is b.
func (a arena) all(b byte) bool {
	return len(a) == 0 || (a[0] == b && bytes.Equal(a[1:], a[:len(a)-1]))
}

// host moves ordinary memory of this process.
type host struct{}

func (host) Scatter(addr, length []uint64, p []byte) (err error) {
	defer faultToError(debug.SetPanicOnFault(true), &err)
	for i := range addr {
		p = p[copy(hostBytes(addr[i], int(length[i])), p):]
	}
	return nil
}

func (host) Gather(p []byte, addr, length []uint64) (err error) {
	defer faultToError(debug.SetPanicOnFault(true), &err)
	for i := range addr {
		p = p[copy(p, hostBytes(addr[i], int(length[i]))):]
	}
	return nil
}

func copyRanges(dst, src, length []uint64) (err error) {
	defer faultToError(debug.SetPanicOnFault(true), &err)
	for i := range dst {
		copy(hostBytes(dst[i], int(length[i])), hostBytes(src[i], int(length[i])))
	}
	return nil
}

func faultToError(before bool, err *error) {
	debug.SetPanicOnFault(before)
	if p := recover(); p != nil {
		*err = errors.Errorf("%v", p)
	}
}

func hostBytes(addr uint64, n int) []byte {
	return unsafe.Slice((*byte)(*(*unsafe.Pointer)(unsafe.Pointer(&addr))), n)
}

// region is registered memory that counts its pins.
type region struct {
	host
	Range

	mu    sync.Mutex // guards what follows
	pins  int
	gone  bool
	empty sync.Cond
}

func (r *region) Bounds() (uint64, uint64) { return r.Start, r.End }
func (r *region) Writable() bool           { return r.Range.Writable }
func (r *region) Epoch() uint64            { return r.Range.Epoch }

func (r *region) Pin() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.gone {
		return false
	}
	r.pins++
	return true
}

func (r *region) Unpin() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.pins--; r.pins < 0 {
		panic("unpinned more often than pinned")
	}
	r.empty.Broadcast()
}

// target is a server with memory.
type target struct {
	server *Server

	mu      sync.Mutex // guards what follows
	regions []*region
	epoch   uint64
}

func (x *target) Find(addr uint64) Region {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, r := range x.regions {
		if addr >= r.Start && addr < r.End {
			return r
		}
	}
	return nil
}

// register makes [start, end) known to peers.
func (x *target) register(start, end uint64, writable bool) *region {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.epoch++
	r := &region{Range: Range{start, end, x.epoch, writable}}
	r.empty.L = &r.mu
	x.regions = append(x.regions, r)
	slices.SortFunc(x.regions, func(a, b *region) int { return int(int64(a.Start - b.Start)) })
	x.publish()
	return r
}

func (x *target) publish() {
	var ranges []Range
	for _, r := range x.regions {
		ranges = append(ranges, r.Range)
	}
	x.server.Publish(ranges)
}

// deregister returns when nobody touches the region.
func (x *target) deregister(r *region) {
	x.mu.Lock()
	x.regions = slices.DeleteFunc(x.regions, func(other *region) bool { return other == r })
	x.publish()
	x.mu.Unlock()
	x.server.Settle()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.gone = true
	for r.pins > 0 {
		r.empty.Wait()
	}
}

// newHole is addresses with nothing mapped there.
func newHole(t testing.TB, size int) arena {
	b, err := unix.Mmap(-1, 0, size, unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	require.NoError(t, err)
	t.Cleanup(func() { unix.Munmap(b) })
	return b
}
