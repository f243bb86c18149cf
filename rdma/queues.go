package rdma

// #include "shim.h"
import "C"

import (
	"fmt"
	"syscall"
)

// CQ is a completion queue with a completion channel of its own.
type CQ struct {
	life
	context *Context
	ptr     *C.struct_ibv_cq
	channel *C.struct_ibv_comp_channel
	depth   int
}

// NewCQ makes a completion queue of at least depth entries, to be closed before the
// context. It fails with ErrFull, ErrMemlock, ErrDevice or ErrClosed.
func (c *Context) NewCQ(depth int) (*CQ, error) {
	cq := &CQ{context: c}
	if err := cq.begin(func() string { return "CQ of " + c.name }, &c.life); err != nil {
		return nil, err
	}
	if err := cq.make(depth); err != nil {
		cq.end()
		return nil, err
	}
	return cq, nil
}

func (cq *CQ) make(depth int) error {
	c := cq.context
	what := fmt.Sprintf("CQ of %d entries", depth)
	limits := fmt.Sprintf("it holds %d CQs of at most %d entries", c.attributes.MaxCQ, c.attributes.MaxCQE)
	if depth < 1 || depth > c.attributes.MaxCQE {
		return c.makeFailed(what, syscall.EINVAL, limits)
	}
	if errno := syscall.Errno(C.mcv_create_comp_channel(c.ptr, &cq.channel)); errno != 0 {
		return c.makeFailed("completion channel", errno, "look at the limit of open files (ulimit -n)")
	}
	if errno := syscall.Errno(C.mcv_create_cq(c.ptr, C.int(depth), cq.channel, &cq.ptr)); errno != 0 {
		C.mcv_destroy_comp_channel(cq.channel)
		return c.makeFailed(what, errno, limits)
	}
	cq.depth = int(cq.ptr.cqe)
	return nil
}

// Depth is how many entries the device gave, no fewer than were asked for.
func (cq *CQ) Depth() int { return cq.depth }

// Close destroys the queue and its channel. It fails with ErrInUse while queue pairs
// complete here. Every event that was taken from the channel must have been
// acknowledged, or Close blocks. Closing twice is safe.
func (cq *CQ) Close() error {
	return cq.close(nil, func() error {
		if cq.ptr != nil {
			if err := cq.context.destroyed("CQ", syscall.Errno(C.mcv_destroy_cq(cq.ptr))); err != nil {
				return err
			}
			cq.ptr = nil
		}
		return cq.context.destroyed("completion channel", syscall.Errno(C.mcv_destroy_comp_channel(cq.channel)))
	})
}
