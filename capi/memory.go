package main

/*
#define MC_TYPES_ONLY
#include "mooncake.h"
*/
import "C"

import (
	"unsafe"

	"mooncake/core"
)

var memories = newTable[*core.Memory](memoryKind, "memory")

//export mc_register
func mc_register(engine C.mc_engine_t, address, length C.uint64_t, location *C.char, out *C.mc_memory_t) C.int {
	return guard(func() error {
		if err := writable(out, "out"); err != nil {
			return err
		}
		return register(engine, []core.Range{{Addr: uint64(address), Length: uint64(length)}}, location,
			unsafe.Slice((*uint64)(out), 1))
	})
}

//export mc_register_batch
func mc_register_batch(engine C.mc_engine_t, addresses, lengths *C.uint64_t, count C.uint64_t, location *C.char, out *C.mc_memory_t) C.int {
	return guard(func() error {
		a, err := numbers(addresses, count, "addresses")
		if err != nil {
			return err
		}
		l, err := numbers(lengths, count, "lengths")
		if err != nil {
			return err
		}
		handles, err := results((*C.uint64_t)(out), count, "out")
		if err != nil {
			return err
		}
		var ranges []core.Range
		for i := range a {
			ranges = append(ranges, core.Range{Addr: a[i], Length: l[i]})
		}
		return register(engine, ranges, location, handles)
	})
}

// register registers ranges and writes a handle for each.
func register(engine C.mc_engine_t, ranges []core.Range, location *C.char, handles []uint64) error {
	e, _, err := engines.get(uint64(engine))
	if err != nil {
		return err
	}
	where, err := optional(location, "location")
	if err != nil {
		return err
	}
	if where == "" {
		where = "*"
	}
	ms, err := e.Register(ranges, where)
	if err != nil {
		return err
	}
	for i, m := range ms {
		if handles[i], err = putOwned(memories, m, uint64(engine)); err != nil {
			return err // the engine was closed, and its memories with it
		}
	}
	return nil
}

//export mc_deregister
func mc_deregister(memory C.mc_memory_t) C.int {
	return guard(func() error {
		m, err := memories.take(uint64(memory))
		if err != nil {
			return err
		}
		return m.Deregister()
	})
}

//export mc_deregister_batch
func mc_deregister_batch(handles *C.mc_memory_t, count C.uint64_t) C.int {
	return guard(func() error {
		list, err := numbers((*C.uint64_t)(handles), count, "memories")
		if err != nil {
			return err
		}
		var ms []*core.Memory
		var bad error
		for _, h := range list {
			m, err := memories.take(h)
			if err != nil {
				bad = err
				continue
			}
			ms = append(ms, m)
		}
		if err := core.DeregisterAll(ms); err != nil {
			return err
		}
		return bad
	})
}
