package main

/*
#define MC_TYPES_ONLY
#include "mooncake.h"
#include "lasterr.h"
*/
import "C"

import (
	"runtime/debug"
	"unsafe"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"

	"mooncake/core"
)

// statuses maps errors to status codes: the only place that does.
var statuses = []struct {
	err  error
	code C.int
}{
	{errHandle, C.MC_EHANDLE},
	{errForked, C.MC_EFORKED},
	{core.ErrInvalid, C.MC_EINVAL},
	{core.ErrNotFound, C.MC_ENOTFOUND},
	{core.ErrAddress, C.MC_EADDR},
	{core.ErrOverlap, C.MC_EOVERLAP},
	{core.ErrFull, C.MC_EFULL},
	{core.ErrUnsupported, C.MC_EUNSUPPORTED},
	{core.ErrWaitTimeout, C.MC_ETIMEDOUT},
	{core.ErrDeadline, C.MC_EDEADLINE},
	{core.ErrCanceled, C.MC_ECANCELED},
	{core.ErrRestarted, C.MC_ERESTARTED},
	{core.ErrRejected, C.MC_EREJECTED},
	{core.ErrFenced, C.MC_EFENCED},
	{core.ErrPeer, C.MC_EPEER},
	{core.ErrDevice, C.MC_EDEVICE},
	{core.ErrClosed, C.MC_EHANDLE},
	{core.ErrPagesInvalid, C.MC_EINVAL},
	{core.ErrRequestExists, C.MC_EINVAL},
	{core.ErrNoRequest, C.MC_ENOTFOUND},
	{core.ErrPagesFull, C.MC_ENOPAGES},
	{core.ErrPageForeign, C.MC_EPAGE},
	{core.ErrPageFree, C.MC_EPAGE},
	{core.ErrPageOfAnother, C.MC_EPAGE},
}

// statusOf gives the code for an error.
func statusOf(err error) C.int {
	if err == nil {
		return C.MC_OK
	}
	for _, s := range statuses {
		if errors.Is(err, s.err) {
			return s.code
		}
	}
	return C.MC_EINTERNAL
}

// errForked: the caller is a forked child, in which Go's threads do not exist.
var errForked = errors.New("called in a forked child: use spawn, or open the engine after the fork")

// alive is a byte that the kernel zeroes in a forked child.
var alive = func() *byte {
	page, err := unix.Mmap(-1, 0, unix.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err == nil {
		err = unix.Madvise(page, unix.MADV_WIPEONFORK)
	}
	if err != nil {
		// Before Linux 4.14: forked children are not told apart here.
		return func() *byte { b := byte(1); return &b }()
	}
	page[0] = 1
	return &page[0]
}()

// guard runs the body of an exported function: it turns an error or a panic into
// a status code and keeps the text for mc_last_error. An argument that points to
// memory which is not there is the caller's error, not a crash, unless a SIGSEGV
// handler that was installed after the library's takes the fault first.
func guard(body func() error) (code C.int) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		p := recover()
		if p == nil {
			return
		}
		if fault, ok := p.(interface{ Addr() uintptr }); ok {
			code = fail(errors.WithMessagef(core.ErrInvalid, "an argument points to memory that is not accessible (%#x)", fault.Addr()))
			return
		}
		code = fail(errors.Errorf("bug in libmooncake: %v\n%s", p, debug.Stack()))
	}()
	if *alive == 0 {
		return fail(errForked)
	}
	if err := body(); err != nil {
		return fail(err)
	}
	return C.MC_OK
}

// fail keeps the text of an error for the calling thread and gives its code.
func fail(err error) C.int {
	text := err.Error()
	C.mooncake_set_last_error((*C.char)(unsafe.Pointer(unsafe.StringData(text))), C.size_t(len(text)))
	return statusOf(err)
}
