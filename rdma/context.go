package rdma

// #include "shim.h"
import "C"

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"
)

// Context is an open device. Its methods are safe for concurrent use.
type Context struct {
	life
	name       string
	sysfs      string // the device's directory
	ptr        *C.struct_ibv_context
	attributes Attributes
	closing    *signal // wakes those who wait for events
}

// OpenDevice opens a device by its name. The context must be closed, after everything
// that was made from it. It fails with ErrUnknownDevice, and names those that exist,
// with ErrPermission, ErrNoVerbs or ErrDevice.
func OpenDevice(name string) (*Context, error) {
	list, err := listDevices()
	if err != nil {
		return nil, errors.WithMessage(err, "open device "+name)
	}
	defer list.free()
	at := slices.Index(list.names(), name)
	if at < 0 {
		return nil, unknownDevice(name, list.names())
	}
	return openDevice(name, list.all[at])
}

func openDevice(name string, device *C.struct_ibv_device) (*Context, error) {
	what := "open device " + name
	if device.transport_type != C.IBV_TRANSPORT_IB {
		return nil, errors.WithMessagef(ErrDevice, "%s: it speaks neither InfiniBand nor RoCE", what)
	}
	c := &Context{name: name, sysfs: C.GoString(&device.ibdev_path[0])}
	if err := c.begin(func() string { return name }); err != nil {
		return nil, err
	}
	if errno := syscall.Errno(C.mcv_open(device, &c.ptr)); errno != 0 {
		c.end()
		return nil, openFailed(what, C.GoString(&device.dev_name[0]), errno)
	}
	if err := c.prepare(what); err != nil {
		C.mcv_close(c.ptr)
		c.end()
		return nil, err
	}
	return c, nil
}

func (c *Context) prepare(what string) (err error) {
	if c.attributes, err = queryDevice(c.ptr, what); err != nil {
		return err
	}
	if errno := syscall.Errno(C.mcv_unblock_events(c.ptr)); errno != 0 {
		return fail(what, ErrDevice, errno, "")
	}
	c.closing, err = newSignal()
	return errors.WithMessage(err, what)
}

func unknownDevice(name string, exist []string) error {
	has := "verbs knows none"
	if len(exist) > 0 {
		has = "verbs knows " + strings.Join(exist, ", ")
	}
	// The kernel may have a device whose user space driver is not installed.
	if slices.Contains(list("/", classDir), name) {
		has += ": the kernel has it, so its driver for verbs is missing: install ibverbs-providers"
	}
	return errors.WithMessagef(ErrUnknownDevice, "open device %s: %s", name, has)
}

// openFailed explains; file is the name below /dev/infiniband.
func openFailed(what, file string, errno syscall.Errno) error {
	file = "/dev/infiniband/" + file
	// libibverbs looks for a file that it may not open in other places too, and tells how
	// that search ended: the file is asked itself.
	const readWrite = unix.R_OK | unix.W_OK
	if errno == syscall.ENOENT && unix.Faccessat(unix.AT_FDCWD, file, readWrite, unix.AT_EACCESS) == unix.EACCES {
		errno = syscall.EACCES
	}
	switch errno {
	case syscall.EPERM, syscall.EACCES:
		return fail(what, ErrPermission, errno, fmt.Sprintf(
			"the process may not open %s: add its user to the file's group; in a container, pass --device=/dev/infiniband",
			file))
	case syscall.ENOENT, syscall.ENXIO, syscall.ENODEV:
		return fail(what, ErrPermission, errno, fmt.Sprintf(
			"there is no %s to open: load ib_uverbs; in a container, pass --device=/dev/infiniband", file))
	}
	return fail(what, ErrDevice, errno, "device file "+file)
}

// Name is the device's.
func (c *Context) Name() string { return c.name }

// Attributes are the device's limits, as they were when it was opened.
func (c *Context) Attributes() Attributes { return c.attributes }

// Close closes the device. It fails with ErrInUse, and names what is open, when
// something that was made from the context was not closed. It ends waits for events and
// returns after them. Closing twice is safe.
func (c *Context) Close() error {
	return c.close(c.closing.set, func() error {
		if errno := syscall.Errno(C.mcv_close(c.ptr)); errno != 0 {
			c.closing.clear()
			return fail("close device "+c.name, ErrDevice, errno, "")
		}
		c.closing.close()
		return nil
	})
}

func queryDevice(ptr *C.struct_ibv_context, what string) (Attributes, error) {
	var a C.struct_ibv_device_attr
	if errno := syscall.Errno(C.mcv_query_device(ptr, &a)); errno != 0 {
		return Attributes{}, fail(what+": query its limits", ErrDevice, errno, "")
	}
	return Attributes{
		Firmware: C.GoString(&a.fw_ver[0]),
		Ports:    int(a.phys_port_cnt),
		MaxQP:    int(a.max_qp),
		MaxCQ:    int(a.max_cq),
		MaxCQE:   int(a.max_cqe),
		MaxMR:    int(a.max_mr),
		MaxPD:    int(a.max_pd),
		MaxQPWR:  int(a.max_qp_wr),
		MaxSGE:   int(a.max_sge),
		// A driver that does not tell may be asked for one.
		MaxSGERead:   max(int(a.max_sge_rd), 1),
		MaxQPReads:   int(a.max_qp_init_rd_atom),
		MaxQPReadsIn: int(a.max_qp_rd_atom),
		MaxMRSize:    uint64(a.max_mr_size),
		Atomics:      a.atomic_cap != C.IBV_ATOMIC_NONE,
	}, nil
}

// Port asks the driver for a port's attributes as they are now. n counts from 1.
func (c *Context) Port(n int) (PortAttributes, error) {
	if err := c.use(); err != nil {
		return PortAttributes{}, err
	}
	defer c.leave()
	return c.port(n)
}

func (c *Context) port(n int) (PortAttributes, error) {
	if n < 1 || n > c.attributes.Ports {
		return PortAttributes{}, errors.WithMessagef(ErrUnknownDevice,
			"port %d of %s: it has ports 1 to %d", n, c.name, c.attributes.Ports)
	}
	var a C.struct_ibv_port_attr
	if errno := syscall.Errno(C.mcv_query_port(c.ptr, C.int(n), &a)); errno != 0 {
		return PortAttributes{}, fail(fmt.Sprintf("query port %d of %s", n, c.name), ErrDevice, errno, "")
	}
	layer := LinkInfiniBand // verbs' way to say so is also "unspecified"
	if a.link_layer == C.IBV_LINK_LAYER_ETHERNET {
		layer = LinkEthernet
	}
	return PortAttributes{
		Device:     c.name,
		Number:     n,
		State:      PortState(a.state),
		LinkLayer:  layer,
		ActiveMTU:  mtuBytes(int(a.active_mtu)),
		MaxMessage: uint64(a.max_msg_sz),
		LID:        uint16(a.lid),
		GIDs:       int(a.gid_tbl_len),
		RateGbps:   parseRate(read(c.portDir(n), "rate")),
	}, nil
}

// PCIe is how the device is attached to the host now.
func (c *Context) PCIe() PCIeLink { return readPCIe(filepath.Join(c.sysfs, "device")) }
