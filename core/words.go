package core

import (
	"sync"
	"sync/atomic"
	"unsafe"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"
)

// A word is a 32-bit counter outside the Go heap that a waiter in C can sleep on
// with a futex: no Go thread and no channel stand between a completion and the
// thread that waits for it. It goes up when its batch ends. Words are reused by
// later batches and never unmapped, so a waiter that comes late reads a changed
// number, not freed memory.
type word struct {
	p *atomic.Uint32
}

const wordSpacing = 64 // one cache line each

// wordPool gives out words.
type wordPool struct {
	mu   sync.Mutex
	free []word
}

var words wordPool

func (wp *wordPool) get() (word, error) {
	wp.mu.Lock()
	defer wp.mu.Unlock()
	if len(wp.free) == 0 {
		page, err := unix.Mmap(-1, 0, 64<<10, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
		if err != nil {
			return word{}, errors.Wrap(ErrDevice, "map memory to wait on: "+err.Error())
		}
		for at := 0; at < len(page); at += wordSpacing {
			wp.free = append(wp.free, word{(*atomic.Uint32)(unsafe.Pointer(&page[at]))})
		}
	}
	w := wp.free[len(wp.free)-1]
	wp.free = wp.free[:len(wp.free)-1]
	return w, nil
}

func (wp *wordPool) put(w word) {
	wp.mu.Lock()
	wp.free = append(wp.free, w)
	wp.mu.Unlock()
}

// bump changes the word and wakes everyone who sleeps on it.
func (w word) bump() {
	w.p.Add(1)
	const wake = 1 // FUTEX_WAKE, not private: the flag must match the sleeper's, and 0 always works.
	// Waking does not block, so the scheduler need not hear of it.
	unix.RawSyscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(w.p)), wake, 1<<30, 0, 0, 0)
}

func (w word) address() *uint32 { return (*uint32)(unsafe.Pointer(w.p)) }
