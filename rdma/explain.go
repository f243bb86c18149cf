package rdma

import (
	"fmt"
	"os"
	"strings"
	"syscall"
)

// refusal is a registration that failed.
type refusal struct {
	at      AddrRange
	access  Access
	errno   syscall.Errno
	limits  Attributes
	maps    string // text of /proc/self/maps
	locked  lockedMemory
	virtual bool // at is not memory of this process: it is a dma-buf
}

// look adds what the kernel says about the process now.
func (r refusal) look() refusal {
	if !r.virtual {
		text, _ := os.ReadFile("/proc/self/maps")
		r.maps = string(text)
	}
	r.locked = readLockedMemory()
	return r
}

// explain finds the reason, as a sentinel and a text with the remedy.
func (r refusal) explain() (kind error, text string) {
	if r.at.Length > r.limits.MaxMRSize && r.limits.MaxMRSize > 0 {
		return ErrMemory, fmt.Sprintf("one MR of this device has at most %d bytes", r.limits.MaxMRSize)
	}
	if r.virtual {
		return r.explainDMABuf()
	}
	if text := faultIn(strings.NewReader(r.maps), r.at, r.access); text != "" && r.maps != "" {
		return ErrMemory, text
	}
	return r.explainCommon("the memory looks sound; the driver refused it")
}

func (r refusal) explainDMABuf() (kind error, text string) {
	switch r.errno {
	case syscall.EOPNOTSUPP, syscall.ENOSYS, syscall.ENOTTY:
		return ErrMemory, "libibverbs, the kernel or the driver is too old for dma-bufs (rdma-core 34, Linux 5.12)"
	case syscall.EBADF:
		return ErrMemory, "the file descriptor is not that of a dma-buf"
	}
	return r.explainCommon("the dma-buf may be shorter, or its owner keeps this device out")
}

func (r refusal) explainCommon(otherwise string) (kind error, text string) {
	switch r.errno {
	case syscall.ENOMEM, syscall.EAGAIN, syscall.EPERM:
		if !r.locked.allows(r.at.Length) {
			return ErrMemlock, r.locked.remedy(r.at.Length)
		}
	}
	switch r.errno {
	case syscall.EIO, syscall.ENODEV: // not for want of anything of the memory's
		return ErrDevice, "the device is lost: look at dmesg, and open the engine again when it is back"
	case syscall.ENOMEM, syscall.ENOSPC:
		return ErrFull, fmt.Sprintf("the device holds %d MRs, or the kernel is out of memory", r.limits.MaxMR)
	}
	return ErrMemory, otherwise
}
