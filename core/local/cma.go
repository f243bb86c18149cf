package local

import (
	"unsafe"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"
)

// iovec is the kernel's struct iovec. The addresses are numbers, so that the
// collector never sees them.
type iovec struct{ base, length uint64 }

const (
	// vectorRanges is what the kernel takes in one call.
	vectorRanges = 1024
	// vectorBytes is when a call has enough, which nothing interrupts: 30 to 60 us. With
	// less the lanes share the end of a batch no better, with more they do worse.
	vectorBytes = 256 << 10
)

// crossCopy moves between this process and another one.
func crossCopy(pid int, write bool, local, remote []iovec) (int, error) {
	nr := uintptr(unix.SYS_PROCESS_VM_READV)
	if write {
		nr = unix.SYS_PROCESS_VM_WRITEV
	}
	n, _, e := unix.Syscall6(nr, uintptr(pid), uintptr(unsafe.Pointer(&local[0])), uintptr(len(local)),
		uintptr(unsafe.Pointer(&remote[0])), uintptr(len(remote)), 0)
	if e != 0 {
		return 0, e
	}
	return int(n), nil
}

// readPeer reads a little of another process's memory into a buffer of ours.
func readPeer(pid int, p []byte, addr uint64) (int, error) {
	local := [1]iovec{{uint64(uintptr(unsafe.Pointer(&p[0]))), uint64(len(p))}}
	remote := [1]iovec{{addr, uint64(len(p))}}
	return crossCopy(pid, false, local[:], remote[:])
}

// copyDirect moves slices by system calls, and says how many bytes. It stops early,
// without an error, when po is stopped. Lane l is the caller's.
func (r *Remote) copyDirect(l *lane, po *Posting, slices []Slice) (bytes uint64, err error) {
	for n := range slices {
		l.local[n] = iovec{slices[n].Local, slices[n].Len}
		l.remote[n] = iovec{slices[n].Remote, slices[n].Len}
	}
	hint, total := -1, len(slices)
	for at := 0; at < total && !po.stopped.Load(); {
		ix, err := r.ranges(po.stopped.Load)
		if err == errEnough {
			break // po is stopped
		}
		if err != nil {
			return bytes, err
		}
		epoch := po.epoch.Load()
		for i := at; i < total; i++ {
			var ok bool
			if hint, ok = ix.admits(&slices[i], po.write, epoch, hint); !ok && r.table.closing() {
				return bytes, errClosing
			} else if !ok {
				return bytes, rejected(&slices[i], "not registered since before the batch")
			}
		}
		moved, err := r.guarded(l, po, ix, l.local[at:total], l.remote[at:total])
		if err == errChanged {
			continue
		}
		bytes += uint64(moved)
		at = l.advance(at, total, moved)
		if err == unix.EFAULT {
			return bytes, faultOf(r.other.pid, po.write, slices[at:at+1])
		}
		if err != nil {
			return bytes, r.failed(err)
		}
	}
	return bytes, nil
}

// errChanged: the table has changed since it was read.
var errChanged = errors.New("the table has changed")

// guarded is one system call, made inside the lane's word: the ranges were looked up
// in ix, and if that is still the table, the peer waits for the word.
func (r *Remote) guarded(l *lane, po *Posting, ix *index, local, remote []iovec) (int, error) {
	l.word.enter()
	defer l.word.leave()
	if r.table.generation() != ix.generation {
		return 0, errChanged
	}
	if r.table.closing() {
		return 0, errClosing
	}
	if r.table.fences(r.place) != po.fence {
		return 0, ErrFenced
	}
	// The number is this process's for as long as it has not ended.
	if r.other.dead() {
		return 0, unix.ESRCH
	}
	l.peer.cfg.Messages.Add(1)
	n, err := crossCopy(r.other.pid, po.write, local, remote)
	if err == nil && n == 0 {
		err = unix.EFAULT
	}
	l.word.count(po.write, uint64(n))
	return n, err
}

// advance skips what was moved, and returns the first range that is not done; a
// range that was moved in part is cut.
func (l *lane) advance(at, total, moved int) int {
	for left := uint64(moved); at < total; at++ {
		if left < l.remote[at].length {
			l.remote[at] = iovec{l.remote[at].base + left, l.remote[at].length - left}
			l.local[at] = iovec{l.local[at].base + left, l.local[at].length - left}
			return at
		}
		left -= l.remote[at].length
	}
	return at
}

// faultOf finds out whose memory cannot be accessed: that of this process or of
// process pid, the peer's.
func faultOf(pid int, write bool, slices []Slice) error {
	for i := range slices {
		s := &slices[i]
		if hole(pid, s.Remote, s.Len) {
			return rejected(s, "the peer has nothing mapped there")
		}
		if hole(unix.Getpid(), s.Local, s.Len) {
			return errors.WithMessagef(ErrMemory, "%d bytes at %#x", s.Len, s.Local)
		}
	}
	// Readable on both sides, so one is read-only: a destination.
	s := &slices[0]
	if write {
		return rejected(s, "the peer has it mapped read-only")
	}
	return errors.WithMessagef(ErrMemory, "%d bytes at %#x are mapped read-only", s.Len, s.Local)
}

// hole tells whether a page of a range cannot be read.
func hole(pid int, addr, n uint64) bool {
	var b [1]byte
	page := uint64(unix.Getpagesize())
	for a := addr; a < addr+n; a = a&^(page-1) + page {
		if _, err := readPeer(pid, b[:], a); err == unix.EFAULT {
			return true
		}
	}
	return false
}

// failed words an error of the system call.
func (r *Remote) failed(err error) error {
	switch err {
	case unix.ESRCH:
		return errors.WithMessagef(ErrPeer, "process %d has ended", r.other.pid)
	case unix.EPERM, unix.ENOSYS:
		return errors.WithMessagef(errRights, "process %d: %v", r.other.pid, err)
	case ErrFenced, errClosing:
		return err
	}
	return errors.WithMessagef(ErrDevice, "copy between processes: %v", err)
}

func rejected(s *Slice, why string) error {
	return errors.WithMessagef(ErrRejected, "%d bytes at %#x (%s)", s.Len, s.Remote, why)
}
