package rdma

import (
	"fmt"
	"syscall"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"
)

// What can be wrong with the hardware or the way it is set up. The text of an error
// names the object and says what to do; compare with errors.Is. An error that came
// from the system is also its syscall.Errno.
var (
	// ErrNoVerbs: libibverbs is not installed, or too old.
	ErrNoVerbs = errors.New("libibverbs cannot be loaded")
	// ErrPermission: the device's file cannot be opened.
	ErrPermission = errors.New("no access to the RDMA device")
	// ErrNoGID: the port has no usable address.
	ErrNoGID = errors.New("no usable GID")
	// ErrPortDown: the port exists and carries no data.
	ErrPortDown = errors.New("RDMA port is not active")
	// ErrMemlock: the limit of locked memory is too low.
	ErrMemlock = errors.New("limit of locked memory reached")
	// ErrMemory: the memory cannot be registered.
	ErrMemory = errors.New("memory cannot be registered")
	// ErrFull: the device has no room for another object, or one of that size.
	ErrFull = errors.New("device limit reached")
	// ErrDevice: the device, or its driver, failed.
	ErrDevice = errors.New("RDMA device failed")
	// ErrInUse: an object cannot be closed before those that it names.
	ErrInUse = errors.New("still in use")
	// ErrClosed: the object was closed.
	ErrClosed = errors.New("RDMA object is closed")
	// ErrStopped: a wait ended because its caller stopped it.
	ErrStopped = errors.New("wait stopped")
)

// failure is what the system said, and what that means here.
type failure struct {
	what   string // what was tried, on what
	kind   error  // one of the sentinels
	errno  syscall.Errno
	remedy string // or more facts; may be empty
}

func (f *failure) Error() string {
	text := fmt.Sprintf("%s: %v: %v (%s)", f.what, f.kind, f.errno, errnoName(f.errno))
	if f.remedy != "" {
		text += ": " + f.remedy
	}
	return text
}

func (f *failure) Unwrap() []error { return []error{f.kind, f.errno} }

// fail is the error of a call into verbs, with the stack of where it entered.
func fail(what string, kind error, errno syscall.Errno, remedy string) error {
	return errors.WithStack(&failure{what, kind, errno, remedy})
}

// errnoName is the name that searching for help needs, such as "ENOMEM".
func errnoName(errno syscall.Errno) string {
	if name := unix.ErrnoName(errno); name != "" {
		return name
	}
	return fmt.Sprintf("errno %d", int(errno))
}
