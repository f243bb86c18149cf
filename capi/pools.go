package main

/*
#define MC_TYPES_ONLY
#include "mooncake.h"
*/
import "C"

import (
	"math"
	"unsafe"

	"github.com/pkg/errors"

	"mooncake/core"
)

var pools = newTable[core.Pages](pagesKind, "page pool")

//export mc_pages_create
func mc_pages_create(first, count C.uint64_t, kind, flags C.uint32_t, out *C.mc_pages_t) C.int {
	return guard(func() error {
		if err := writable(out, "out"); err != nil {
			return err
		}
		if flags != 0 {
			return invalid("flags is %#x, and must be 0", uint32(flags))
		}
		if kind > C.MC_PAGES_SORTED {
			return invalid("kind is %d, and must be MC_PAGES_RUNS, MC_PAGES_FIFO or MC_PAGES_SORTED", uint32(kind))
		}
		if first > math.MaxInt64 || count > math.MaxInt64-first {
			return invalid("first is %d and count is %d: page numbers must be below 2^63", uint64(first), uint64(count))
		}
		// The kinds have the same numbers.
		pool, err := core.NewPages(core.PagesKind(kind), uint64(first), uint64(count))
		if err != nil {
			return err
		}
		*out = C.mc_pages_t(pools.put(pool, 0))
		return nil
	})
}

//export mc_pages_destroy
func mc_pages_destroy(pool C.mc_pages_t) C.int {
	return guard(func() error {
		_, err := pools.take(uint64(pool))
		return err
	})
}

//export mc_pages_alloc
func mc_pages_alloc(pool C.mc_pages_t, request, count, room C.uint64_t, pages *C.int64_t, capacity C.uint64_t) C.int {
	return guard(func() error {
		p, _, err := pools.get(uint64(pool))
		if err != nil {
			return err
		}
		if capacity == 0 {
			_, err = p.Alloc(uint64(request), uint64(count), uint64(room))
			return err
		}
		out, err := pageNumbers(pages, count, capacity)
		if err != nil {
			return err
		}
		return p.AllocPages(uint64(request), uint64(room), out)
	})
}

//export mc_pages_grow
func mc_pages_grow(pool C.mc_pages_t, request, count C.uint64_t, pages *C.int64_t, capacity C.uint64_t) C.int {
	return guard(func() error {
		p, _, err := pools.get(uint64(pool))
		if err != nil {
			return err
		}
		if capacity == 0 {
			_, err = p.Grow(uint64(request), uint64(count))
			return err
		}
		out, err := pageNumbers(pages, count, capacity)
		if err != nil {
			return err
		}
		return p.GrowBatch([]uint64{uint64(request)}, []uint64{uint64(count)}, out)
	})
}

// pageNumbers views the first count elements of an array that page numbers are to be written to.
func pageNumbers(pages *C.int64_t, count, capacity C.uint64_t) ([]uint64, error) {
	if capacity < count {
		return nil, errors.WithMessagef(core.ErrFull, "capacity is %d, for the numbers of %d pages", uint64(capacity), uint64(count))
	}
	return results((*C.uint64_t)(unsafe.Pointer(pages)), count, "pages")
}

//export mc_pages_grow_batch
func mc_pages_grow_batch(pool C.mc_pages_t, requests, counts *C.uint64_t, count C.uint64_t,
	pages *C.int64_t, capacity C.uint64_t, outCount *C.uint64_t) C.int {
	return guard(func() error {
		p, _, err := pools.get(uint64(pool))
		if err != nil {
			return err
		}
		if err := writable(outCount, "out_count"); err != nil {
			return err
		}
		names, err := numbers(requests, count, "requests")
		if err != nil {
			return err
		}
		total := count
		var each []uint64
		if counts != nil {
			if each, err = numbers(counts, count, "counts"); err != nil {
				return err
			}
			if total, err = sum(each); err != nil {
				return err
			}
		}
		*outCount = total
		out, err := pageNumbers(pages, total, capacity)
		if err != nil {
			return err
		}
		return p.GrowBatch(names, each, out)
	})
}

// sum adds up how many pages a batch wants.
func sum(counts []uint64) (total C.uint64_t, err error) {
	for i, n := range counts {
		if n > math.MaxInt64-uint64(total) {
			return 0, errors.WithMessagef(core.ErrPagesFull, "counts[%d] is %d", i, n)
		}
		total += C.uint64_t(n)
	}
	return total, nil
}

//export mc_pages_reserve
func mc_pages_reserve(pool C.mc_pages_t, request, room C.uint64_t, outRoom *C.uint64_t) C.int {
	return guard(func() error {
		p, _, err := pools.get(uint64(pool))
		if err != nil {
			return err
		}
		return counted(outRoom, "out_room", func() (uint64, error) {
			return p.Reserve(uint64(request), uint64(room))
		})
	})
}

// counted writes what a call answers to an out pointer that may be NULL.
func counted(out *C.uint64_t, name string, call func() (uint64, error)) error {
	if out != nil {
		if err := writable(out, name); err != nil {
			return err
		}
	}
	n, err := call()
	if err == nil && out != nil {
		*out = C.uint64_t(n)
	}
	return err
}

//export mc_pages_free
func mc_pages_free(pool C.mc_pages_t, request C.uint64_t, pages *C.int64_t, count C.uint64_t) C.int {
	return guard(func() error {
		p, _, err := pools.get(uint64(pool))
		if err != nil {
			return err
		}
		list, err := numbers((*C.uint64_t)(unsafe.Pointer(pages)), count, "pages")
		if err != nil {
			return err
		}
		for _, page := range list {
			if int64(page) < 0 {
				return errors.WithMessagef(core.ErrPageForeign, "free of page %d", int64(page))
			}
		}
		return p.FreePages(uint64(request), list)
	})
}

//export mc_pages_release
func mc_pages_release(pool C.mc_pages_t, request C.uint64_t, outCount *C.uint64_t) C.int {
	return guard(func() error {
		p, _, err := pools.get(uint64(pool))
		if err != nil {
			return err
		}
		return counted(outCount, "out_count", func() (uint64, error) { return p.Release(uint64(request)) })
	})
}

//export mc_pages_runs
func mc_pages_runs(pool C.mc_pages_t, request C.uint64_t, runs *C.uint64_t, capacity C.uint64_t, outCount *C.uint64_t) C.int {
	return guard(func() error {
		p, _, err := pools.get(uint64(pool))
		if err != nil {
			return err
		}
		if err := writable(outCount, "out_count"); err != nil {
			return err
		}
		list, err := p.Runs(nil, uint64(request))
		if err != nil {
			return err
		}
		*outCount = C.uint64_t(len(list))
		if uint64(capacity) < uint64(len(list)) {
			return errors.WithMessagef(core.ErrFull, "capacity is %d, and request %d has %d runs", uint64(capacity), uint64(request), len(list))
		}
		out, err := results(runs, C.uint64_t(2*len(list)), "runs")
		if err != nil {
			return err
		}
		for i, run := range list {
			out[2*i], out[2*i+1] = run.First, run.Count
		}
		return nil
	})
}

//export mc_pages_stats
func mc_pages_stats(pool C.mc_pages_t, out *C.mc_pages_stats_t) C.int {
	return guard(func() error {
		p, _, err := pools.get(uint64(pool))
		if err != nil {
			return err
		}
		if err := writable(out, "out"); err != nil {
			return err
		}
		s := p.Stats()
		c := C.mc_pages_stats_t{
			pages: C.uint64_t(s.Pages), pages_free: C.uint64_t(s.FreePages),
			pages_reserved: C.uint64_t(s.ReservedPages), pages_allocated: C.uint64_t(s.AllocatedPages()),
			requests: C.uint64_t(s.Requests), runs_allocated: C.uint64_t(s.AllocatedRuns),
			runs_free: C.uint64_t(s.FreeRuns), longest_free: C.uint64_t(s.LongestRun),
			fragmentation: C.double(s.Fragmentation()),
		}
		for k, n := range s.Histogram {
			c.histogram[k] = C.uint64_t(n)
		}
		*out = c
		return nil
	})
}
