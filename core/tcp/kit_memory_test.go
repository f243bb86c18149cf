package tcp

import (
	"bytes"
	"math/rand/v2"
	"runtime/debug"
	"sync"
	"testing"
	"unsafe"

	"github.com/pkg/errors"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// arena is memory outside the Go heap, as a caller's is.
type arena []byte

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
func (a arena) fill(seed uint64) {
	rand.NewChaCha8([32]byte{byte(seed)}).Read(a)
}

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

func (host) Direct() bool { return true }

func (host) Store(addr uint64, p []byte) (err error) {
	defer faultToError(debug.SetPanicOnFault(true), &err)
	copy(hostBytes(addr, len(p)), p)
	return nil
}

func (host) Load(p []byte, addr uint64) (err error) {
	defer faultToError(debug.SetPanicOnFault(true), &err)
	copy(p, hostBytes(addr, len(p)))
	return nil
}

func (h host) Scatter(addr, length []uint64, p []byte) error {
	for i := range addr {
		if err := h.Store(addr[i], p[:length[i]]); err != nil {
			return err
		}
		p = p[length[i]:]
	}
	return nil
}

func (h host) Gather(p []byte, addr, length []uint64) error {
	for i := range addr {
		if err := h.Load(p[:length[i]], addr[i]); err != nil {
			return err
		}
		p = p[length[i]:]
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

// device is memory that system calls cannot reach: a Go slice behind addresses of
// its own.
type device struct {
	base uint64
	mu   sync.Mutex // guards b
	b    []byte
}

func newDevice(size int) *device { return &device{base: 0xde00_0000_0000_0000, b: make([]byte, size)} }

func (d *device) Direct() bool { return false }

func (d *device) at(addr uint64, n int) ([]byte, error) {
	if off := addr - d.base; addr >= d.base && off+uint64(n) <= uint64(len(d.b)) {
		return d.b[off : off+uint64(n)], nil
	}
	return nil, errors.Errorf("%d bytes at %#x are not device memory", n, addr)
}

func (d *device) Store(addr uint64, p []byte) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	b, err := d.at(addr, len(p))
	copy(b, p)
	return err
}

func (d *device) Scatter(addr, length []uint64, p []byte) error {
	for i := range addr {
		if err := d.Store(addr[i], p[:length[i]]); err != nil {
			return err
		}
		p = p[length[i]:]
	}
	return nil
}

func (d *device) Gather(p []byte, addr, length []uint64) error {
	for i := range addr {
		if err := d.Load(p[:length[i]], addr[i]); err != nil {
			return err
		}
		p = p[length[i]:]
	}
	return nil
}

func (d *device) Load(p []byte, addr uint64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	b, err := d.at(addr, len(p))
	copy(p, b)
	return err
}

// region is registered memory that counts its pins.
type region struct {
	Mover
	start, end uint64
	readOnly   bool

	mu    sync.Mutex // guards what follows
	pins  int
	ever  int // pins ever given
	gone  bool
	empty sync.Cond
}

func newRegion(m Mover, start, end uint64) *region {
	r := &region{Mover: m, start: start, end: end}
	r.empty.L = &r.mu
	return r
}

func (r *region) Bounds() (uint64, uint64) { return r.start, r.end }
func (r *region) Writable() bool           { return !r.readOnly }

func (r *region) Pin() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.gone {
		return false
	}
	r.pins++
	r.ever++
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

// deregister refuses further pins and waits for those that are held.
func (r *region) deregister() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.gone = true
	for r.pins > 0 {
		r.empty.Wait()
	}
}

// total tells how many pins were ever given.
func (r *region) total() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ever
}

func (r *region) held() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.pins
}

// table is a Memory.
type table struct {
	mu      sync.RWMutex
	regions []*region
}

func (m *table) add(r *region) *region {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.regions = append(m.regions, r)
	return r
}

func (m *table) Find(addr uint64) Region {
	m.mu.RLock()
	defer m.mu.RUnlock()
	for _, r := range m.regions {
		r.mu.Lock()
		gone := r.gone
		r.mu.Unlock()
		if !gone && addr >= r.start && addr < r.end {
			return r
		}
	}
	return nil
}
