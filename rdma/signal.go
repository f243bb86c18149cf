package rdma

import (
	"github.com/pkg/errors"
	"golang.org/x/sys/unix"
)

// signal is something that poll(2) can wait for: once set it stays set.
type signal struct{ fd int }

func newSignal() (*signal, error) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, errors.Wrap(err, "eventfd (look at the limit of open files, ulimit -n)")
	}
	return &signal{fd}, nil
}

// set may be called any number of times. It cannot fail but for a full counter, which
// is set.
func (s *signal) set() { _, _ = unix.Write(s.fd, []byte{1, 0, 0, 0, 0, 0, 0, 0}) }

// clear undoes set.
func (s *signal) clear() { _, _ = unix.Read(s.fd, make([]byte, 8)) }

// close is for the last user.
func (s *signal) close() { _ = unix.Close(s.fd) }
