package rdma

// #include "shim.h"
import "C"

import (
	"fmt"
	"syscall"
)

// PD is a protection domain: queue pairs reach the memory of their own.
type PD struct {
	life
	context *Context
	ptr     *C.struct_ibv_pd
}

// NewPD makes a protection domain, to be closed before the context. It fails with
// ErrFull, ErrDevice or ErrClosed.
func (c *Context) NewPD() (*PD, error) {
	pd := &PD{context: c}
	if err := pd.begin(func() string { return "PD of " + c.name }, &c.life); err != nil {
		return nil, err
	}
	if errno := syscall.Errno(C.mcv_alloc_pd(c.ptr, &pd.ptr)); errno != 0 {
		pd.end()
		return nil, c.makeFailed("PD", errno, fmt.Sprintf("it holds %d", c.attributes.MaxPD))
	}
	return pd, nil
}

// Close destroys the domain. It fails with ErrInUse while it has queue pairs or
// memory. Closing twice is safe.
func (pd *PD) Close() error {
	return pd.close(nil, func() error {
		return pd.context.destroyed("PD", syscall.Errno(C.mcv_dealloc_pd(pd.ptr)))
	})
}

// MR is registered memory. The memory stays the caller's: it must be there until the MR
// was closed, or the device reads and writes what has its place then.
type MR struct {
	life
	pd   *PD
	at   AddrRange
	ptr  *C.struct_ibv_mr
	lkey uint32
	rkey uint32
}

// Register registers host memory, which need not have been touched yet. It fails with
// ErrMemlock, ErrMemory (the text says what is wrong with the memory), ErrFull or
// ErrClosed.
func (pd *PD) Register(addr, length uint64, access Access) (*MR, error) {
	access = known(access)
	return pd.register(AddrRange{addr, length}, func() (mr *C.struct_ibv_mr, errno C.int) {
		errno = C.mcv_reg_mr(pd.ptr, C.uint64_t(addr), C.uint64_t(length), C.unsigned(access), &mr)
		return mr, errno
	}, refusal{access: access})
}

// RegisterDMABuf registers length bytes of a dma-buf, from offset, which must be a
// multiple of the page size. Work requests address the first byte as iova. fd stays
// the caller's and may be closed afterwards. It fails like Register.
func (pd *PD) RegisterDMABuf(fd int, offset, length, iova uint64, access Access) (*MR, error) {
	access = known(access)
	return pd.register(AddrRange{iova, length}, func() (mr *C.struct_ibv_mr, errno C.int) {
		errno = C.mcv_reg_dmabuf_mr(pd.ptr, C.uint64_t(offset), C.uint64_t(length), C.uint64_t(iova),
			C.int(fd), C.int(access), &mr)
		return mr, errno
	}, refusal{access: access, virtual: true})
}

// known leaves out what the library does not know.
func known(access Access) Access {
	if C.mcv_has_relaxed_ordering() == 0 {
		access &^= AccessRelaxedOrdering
	}
	return access
}

// register makes an MR by make; refused is what is known about it should that fail.
func (pd *PD) register(at AddrRange, make func() (*C.struct_ibv_mr, C.int), refused refusal) (*MR, error) {
	if err := pd.checkRange(at); err != nil {
		return nil, err
	}
	mr := &MR{pd: pd, at: at}
	label := func() string { return fmt.Sprintf("MR %s of %s", at, pd.context.name) }
	if err := mr.begin(label, &pd.life); err != nil {
		return nil, err
	}
	ptr, errno := make()
	if errno != 0 {
		mr.end()
		refused.at, refused.errno = at, syscall.Errno(errno)
		return nil, pd.registerFailed(refused)
	}
	mr.ptr = ptr
	mr.lkey, mr.rkey = uint32(mr.ptr.lkey), uint32(mr.ptr.rkey)
	return mr, nil
}

// LKey is for work requests of this side.
func (mr *MR) LKey() uint32 { return mr.lkey }

// RKey is for work requests of peers.
func (mr *MR) RKey() uint32 { return mr.rkey }

// Range is the memory, of a dma-buf as work requests address it.
func (mr *MR) Range() AddrRange { return mr.at }

// Close deregisters the memory: the device touches it no more. Closing twice is safe.
func (mr *MR) Close() error {
	return mr.close(nil, func() error {
		return mr.pd.context.destroyed(fmt.Sprintf("MR %s", mr.at), syscall.Errno(C.mcv_dereg_mr(mr.ptr)))
	})
}
