//go:build cgo

package rdma

import (
	"fmt"
	"syscall"

	"github.com/pkg/errors"
)

// makeFailed is the error of making an object. limits says what the device has room for.
// Queues live in pinned memory, so the limit of that may be the reason as well.
func (c *Context) makeFailed(object string, errno syscall.Errno, limits string) error {
	what := fmt.Sprintf("make a %s on %s", object, c.name)
	switch errno {
	case syscall.ENOMEM, syscall.EAGAIN:
		const queue = 64 << 10 // at least
		if locked := readLockedMemory(); !locked.allows(queue) {
			return fail(what, ErrMemlock, errno, locked.remedy(queue))
		}
		return fail(what, ErrFull, errno, limits)
	case syscall.ENOSPC, syscall.EINVAL, syscall.EMFILE, syscall.ENFILE:
		return fail(what, ErrFull, errno, limits)
	}
	return fail(what, ErrDevice, errno, "")
}

// destroyed is nil when it went well.
func (c *Context) destroyed(object string, errno syscall.Errno) error {
	if errno == 0 {
		return nil
	}
	return fail(fmt.Sprintf("destroy %s of %s", object, c.name), ErrDevice, errno, "")
}

// registerFailed explains by what the process looks like now.
func (pd *PD) registerFailed(r refusal) error {
	object := "memory"
	if r.virtual {
		object = "dma-buf"
	}
	r.limits = pd.context.attributes
	kind, remedy := r.look().explain()
	return fail(fmt.Sprintf("register %s %s (%s) on %s", object, r.at, r.access, pd.context.name), kind, r.errno, remedy)
}

// checkRange refuses what no memory is.
func (pd *PD) checkRange(at AddrRange) error {
	if at.Length == 0 {
		return errors.WithMessagef(ErrMemory, "register memory %s on %s: it is empty", at, pd.context.name)
	}
	if at.Addr+at.Length < at.Addr {
		return errors.WithMessagef(ErrMemory, "register memory %s on %s: it is past the last address", at, pd.context.name)
	}
	return nil
}
