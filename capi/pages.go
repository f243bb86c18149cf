package main

/*
#define MC_TYPES_ONLY
#include "mooncake.h"
*/
import "C"

import (
	"fmt"
	"unsafe"

	"github.com/pkg/errors"

	"mooncake/core"
)

// pagesRequest is the arguments that say which pages move where.
type pagesRequest struct {
	segment    C.mc_segment_t
	op         C.uint32_t
	groups     *C.mc_page_group_t
	count      C.uint64_t
	deadlineMS C.int64_t
}

func (r pagesRequest) submit(out *C.mc_batch_t, waits bool) (*core.Batch, error) {
	return begin(r.segment, out, func(s *core.Segment) (*core.Batch, error) {
		groups, err := groupsOf(r.groups, r.count)
		if err != nil {
			return nil, err
		}
		return s.SubmitPages(core.Op(r.op), groups, core.Options{Deadline: milliseconds(r.deadlineMS), Waits: waits})
	})
}

// groupsOf views the groups of a request.
func groupsOf(p *C.mc_page_group_t, count C.uint64_t) ([]core.PageGroup, error) {
	given, err := elements[C.mc_page_group_t](unsafe.Pointer(p), uint64(count), "groups", "count")
	if err != nil {
		return nil, err
	}
	groups := make([]core.PageGroup, len(given))
	for i := range given {
		if groups[i], err = groupOf(given[i]); err != nil {
			return nil, errors.WithMessage(err, fmt.Sprintf("group %d", i))
		}
	}
	return groups, nil
}

// groupOf takes a group over, but for its page lists, which are viewed where they are.
func groupOf(g C.mc_page_group_t) (out core.PageGroup, err error) {
	if out.Local, err = pagesOf(g.local_pages, g.local_width, g.page_count, "local"); err != nil {
		return out, err
	}
	if out.Remote, err = pagesOf(g.remote_pages, g.remote_width, g.page_count, "remote"); err != nil {
		return out, err
	}
	layers, err := elements[C.mc_layer_t](unsafe.Pointer(g.layers), uint64(g.layer_count), "layers", "layer_count")
	out.Layers = make([]core.Layer, len(layers))
	for i, l := range layers {
		out.Layers[i] = core.Layer{
			LocalBase: uint64(l.local_base), RemoteBase: uint64(l.remote_base),
			LocalStride: uint64(l.local_stride), RemoteStride: uint64(l.remote_stride), Length: uint64(l.length),
		}
	}
	return out, err
}

func pagesOf(p unsafe.Pointer, width C.uint32_t, count C.uint64_t, side string) (core.PageList, error) {
	switch width {
	case 4:
		pages, err := elements[int32](p, uint64(count), side+"_pages", "page_count")
		return core.Pages32(pages), err
	case 8:
		pages, err := elements[int64](p, uint64(count), side+"_pages", "page_count")
		return core.Pages64(pages), err
	}
	return core.PageList{}, invalid("%s_width is %d: page numbers have 4 or 8 bytes", side, uint32(width))
}

//export mc_submit_pages
func mc_submit_pages(segment C.mc_segment_t, op C.uint32_t, groups *C.mc_page_group_t, count C.uint64_t, deadlineMS C.int64_t, out *C.mc_batch_t) C.int {
	return guard(func() error {
		_, err := pagesRequest{segment, op, groups, count, deadlineMS}.submit(out, false)
		return err
	})
}

// mooncakeTransferPagesBegin is the first half of mc_transfer_pages.
//
//export mooncakeTransferPagesBegin
func mooncakeTransferPagesBegin(segment C.mc_segment_t, op C.uint32_t, groups *C.mc_page_group_t, count C.uint64_t,
	deadlineMS, timeoutMS C.int64_t, status *C.mc_batch_status_t, out *C.mc_batch_t, word **C.uint32_t, running *C.uint32_t) C.int {
	return guard(func() error {
		return transfer(pagesRequest{segment, op, groups, count, deadlineMS}, timeoutMS, status, out, word, running)
	})
}
