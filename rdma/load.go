package rdma

// #cgo CFLAGS: -Wall -Wextra
// #cgo LDFLAGS: -ldl -lpthread
// #include "shim.h"
import "C"

import (
	"syscall"
	"unsafe"

	"github.com/pkg/errors"
)

// The pure files have verbs' numbers; a difference does not compile.
var _ = [1]struct{}{}[0|
	int(AccessLocalWrite)^C.IBV_ACCESS_LOCAL_WRITE|
	int(AccessRemoteWrite)^C.IBV_ACCESS_REMOTE_WRITE|
	int(AccessRemoteRead)^C.IBV_ACCESS_REMOTE_READ|
	int(AccessRemoteAtomic)^C.IBV_ACCESS_REMOTE_ATOMIC|
	int(AccessRelaxedOrdering)^C.IBV_ACCESS_RELAXED_ORDERING|
	int(PortActiveDefer)^C.IBV_PORT_ACTIVE_DEFER|
	int(QPError)^C.IBV_QPS_ERR]

// Load loads libibverbs, the first time it is called; everything else here that needs
// the library calls it. It fails with ErrNoVerbs, always in the same way: a library
// that is installed later is found by a new process.
func Load() error {
	if text := C.mcv_load(); text != nil {
		return errors.WithMessagef(ErrNoVerbs,
			"%s: install libibverbs1 and ibverbs-providers (Debian, Ubuntu), or libibverbs and rdma-core (Fedora, RHEL)",
			C.GoString(text))
	}
	return nil
}

// DeviceNames lists the devices that verbs can open, in verbs' order. A host without
// any has none: that is no error. It fails with ErrNoVerbs or ErrDevice.
func DeviceNames() ([]string, error) {
	list, err := listDevices()
	if err != nil {
		return nil, err
	}
	defer list.free()
	return list.names(), nil
}

// hasDMABuf tells whether the library, once loaded, registers dma-bufs.
func hasDMABuf() bool { return C.mcv_has_dmabuf() != 0 }

// deviceList is verbs' list of devices.
type deviceList struct {
	ptr **C.struct_ibv_device
	all []*C.struct_ibv_device
}

func listDevices() (*deviceList, error) {
	if err := Load(); err != nil {
		return nil, err
	}
	var list deviceList
	var count C.int
	// ENOSYS is verbs' way to say that the kernel has no RDMA.
	switch errno := syscall.Errno(C.mcv_devices(&list.ptr, &count)); errno {
	case 0:
		list.all = unsafe.Slice(list.ptr, count)
	case syscall.ENOSYS, syscall.ENOENT:
	default:
		return nil, fail("list RDMA devices", ErrDevice, errno, "")
	}
	return &list, nil
}

func (l *deviceList) free() {
	if l.ptr != nil {
		C.mcv_free_devices(l.ptr)
	}
}

func (l *deviceList) names() []string {
	names := make([]string, 0, len(l.all))
	for _, device := range l.all {
		names = append(names, C.GoString(&device.name[0]))
	}
	return names
}

// StatusText is verbs' text for the status of a completion.
func StatusText(status int) string {
	if Load() != nil {
		return ""
	}
	return C.GoString(C.mcv_status_text(C.int(status)))
}
