package local

import (
	"fmt"
	"sync/atomic"
	"unsafe"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"
)

// shm is shared memory: a memfd and its mapping. The mapping starts on a page.
type shm struct {
	mem  []byte
	fd   int    // -1 once it has been given away
	file string // device and inode of what a peer shares, as /proc/<pid>/maps has them
}

const (
	// sealFixed: nobody can make the file smaller, so a mapping of it never faults.
	sealFixed = unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_SEAL
	// sealMine: and nobody but its maker, who has mapped it before, can write.
	sealMine = sealFixed | unix.F_SEAL_FUTURE_WRITE
)

// createShm makes zeroed shared memory. What is not touched takes no memory.
func createShm(name string, size, seals int) (*shm, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING|unix.MFD_NOEXEC_SEAL)
	if err == unix.EINVAL { // Linux before 6.3
		fd, err = unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	}
	if err != nil {
		return nil, errors.Wrap(err, "memfd_create")
	}
	s := &shm{fd: fd}
	if err := unix.Ftruncate(fd, int64(size)); err != nil {
		s.close()
		return nil, errors.Wrapf(err, "size a memfd to %d bytes", size)
	}
	if s.mem, err = unix.Mmap(fd, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		s.close()
		return nil, errors.Wrapf(err, "map %d shared bytes", size)
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals); err != nil {
		s.close()
		return nil, errors.Wrap(err, "seal a memfd")
	}
	return s, nil
}

// mapShm maps what a peer shares, size bytes, after making sure that the peer
// cannot make accesses to it fault. It does not take fd over.
func mapShm(fd, size, seals int, writable bool) (*shm, error) {
	got, err := unix.FcntlInt(uintptr(fd), unix.F_GET_SEALS, 0)
	if err != nil || got&seals != seals {
		return nil, errors.WithMessagef(ErrProtocol, "shared memory with seals %#x, not %#x: %v", got, seals, err)
	}
	var st unix.Stat_t
	var fs unix.Statfs_t
	if unix.Fstat(fd, &st) != nil || st.Size != int64(size) {
		return nil, errors.WithMessagef(ErrProtocol, "shared memory of %d bytes, not %d", st.Size, size)
	}
	// Huge pages can run out at the first access to one.
	if unix.Fstatfs(fd, &fs) != nil || int64(fs.Type) != unix.TMPFS_MAGIC {
		return nil, errors.WithMessagef(ErrProtocol, "shared memory in a file system of type %#x", fs.Type)
	}
	prot := unix.PROT_READ
	if writable {
		prot |= unix.PROT_WRITE
	}
	mem, err := unix.Mmap(fd, 0, size, prot, unix.MAP_SHARED)
	if err != nil {
		return nil, errors.Wrapf(err, "map %d bytes that a peer shares", size)
	}
	file := fmt.Sprintf("%02x:%02x %d", unix.Major(st.Dev), unix.Minor(st.Dev), st.Ino)
	return &shm{mem: mem, fd: -1, file: file}, nil
}

// u64 and u32 view a number of the memory; nothing is read but through atomics,
// since the other side may change it at any time.
func (s *shm) u64(at int) *atomic.Uint64 {
	return (*atomic.Uint64)(unsafe.Pointer(&s.mem[at : at+8][0]))
}
func (s *shm) u32(at int) *atomic.Uint32 {
	return (*atomic.Uint32)(unsafe.Pointer(&s.mem[at : at+4][0]))
}

// addr is where the memory begins, as other processes name it.
func (s *shm) addr() uint64 { return uint64(uintptr(unsafe.Pointer(unsafe.SliceData(s.mem)))) }

// closeFD gives the descriptor back and keeps the mapping.
func (s *shm) closeFD() {
	if s.fd >= 0 {
		unix.Close(s.fd)
		s.fd = -1
	}
}

// close ends the mapping, too: nobody may hold a view of it.
func (s *shm) close() {
	if s == nil {
		return
	}
	s.closeFD()
	if s.mem != nil {
		unix.Munmap(s.mem)
		s.mem = nil
	}
}
