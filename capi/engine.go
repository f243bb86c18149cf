package main

/*
#define MC_TYPES_ONLY
#include <stdlib.h>
#include "mooncake.h"
*/
import "C"

import (
	"unsafe"

	"mooncake/core"
)

var engines = newTable[*core.Engine](engineKind, "engine")

// getenv asks the C library: Go's own copy of the environment does not see what
// a host process sets after it started.
func getenv(name string) (string, bool) {
	c := C.CString(name)
	defer C.free(unsafe.Pointer(c))
	v := C.getenv(c)
	if v == nil {
		return "", false
	}
	return C.GoString(v), true
}

//export mc_local_topology
func mc_local_topology(devices *C.char, out *C.char, capacity C.uint64_t, outLength *C.uint64_t) C.int {
	return guard(func() error {
		filter, err := optional(devices, "devices")
		if err != nil {
			return err
		}
		topology, err := core.LocalTopology(filter)
		if err != nil {
			return err
		}
		return fill(topology, out, capacity, outLength)
	})
}

//export mc_rdma_ports
func mc_rdma_ports(devices *C.char, out *C.char, capacity C.uint64_t, outLength *C.uint64_t) C.int {
	return guard(func() error {
		filter, err := optional(devices, "devices")
		if err != nil {
			return err
		}
		cfg := core.ConfigFromEnv(getenv)
		cfg.Devices = filter
		ports, err := core.RDMAPorts(cfg)
		if err != nil {
			return err
		}
		return fill(ports, out, capacity, outLength)
	})
}

//export mc_engine_open
func mc_engine_open(name *C.char, options *C.mc_engine_options_t, out *C.mc_engine_t) C.int {
	return guard(func() error {
		if err := writable(out, "out"); err != nil {
			return err
		}
		host, err := text(name, "name")
		if err != nil {
			return err
		}
		cfg := core.ConfigFromEnv(getenv)
		if err := applyOptions(&cfg, options); err != nil {
			return err
		}
		e, err := core.Open(host, cfg)
		if err != nil {
			return err
		}
		*out = C.mc_engine_t(engines.put(e, 0))
		return nil
	})
}

// applyOptions adds what the caller wants to what the environment says.
func applyOptions(cfg *core.Config, o *C.mc_engine_options_t) (err error) {
	if o == nil {
		return nil
	}
	if err := readable(unsafe.Pointer(o), C.sizeof_mc_engine_options_t, "options"); err != nil {
		return err
	}
	if uint64(o.struct_size) != C.sizeof_mc_engine_options_t {
		return invalid("options.struct_size is %d, not sizeof(mc_engine_options_t), %d", uint64(o.struct_size), C.sizeof_mc_engine_options_t)
	}
	if o.reserved != 0 {
		return invalid("options.reserved is %d, not 0", uint32(o.reserved))
	}
	if o.rpc_port > 65535 {
		return invalid("options.rpc_port is %d, above 65535", uint32(o.rpc_port))
	}
	cfg.RPCPort = uint16(o.rpc_port)
	if cfg.Metadata, err = optional(o.metadata, "options.metadata"); err != nil {
		return err
	}
	if cfg.Protocol, err = optional(o.protocol, "options.protocol"); err != nil {
		return err
	}
	cfg.Devices, err = optional(o.devices, "options.devices")
	return err
}

//export mc_engine_close
func mc_engine_close(engine C.mc_engine_t) C.int {
	return guard(func() error {
		e, err := takeEngine(uint64(engine))
		if err != nil {
			return err
		}
		err = e.Close()
		for _, b := range batches.takeOwned(uint64(engine)) {
			b.Close()
		}
		segments.takeOwned(uint64(engine))
		memories.takeOwned(uint64(engine))
		return err
	})
}

//export mc_engine_rpc_port
func mc_engine_rpc_port(engine C.mc_engine_t, out *C.uint16_t) C.int {
	return guard(func() error {
		e, _, err := engines.get(uint64(engine))
		if err != nil {
			return err
		}
		if err := writable(out, "out"); err != nil {
			return err
		}
		*out = C.uint16_t(e.Port())
		return nil
	})
}

//export mc_engine_session
func mc_engine_session(engine C.mc_engine_t, out *C.char, capacity C.uint64_t, outLength *C.uint64_t) C.int {
	return guard(func() error {
		e, _, err := engines.get(uint64(engine))
		if err != nil {
			return err
		}
		return fill(e.Name(), out, capacity, outLength)
	})
}

//export mc_engine_stats
func mc_engine_stats(engine C.mc_engine_t, out *C.mc_engine_stats_t) C.int {
	return guard(func() error {
		e, _, err := engines.get(uint64(engine))
		if err != nil {
			return err
		}
		if err := writable(out, "out"); err != nil {
			return err
		}
		s := e.Stats()
		*out = C.mc_engine_stats_t{
			batches: C.uint64_t(s.Batches), batches_failed: C.uint64_t(s.BatchesFailed),
			blocks: C.uint64_t(s.Blocks), runs: C.uint64_t(s.Runs),
			bytes_written: C.uint64_t(s.BytesWritten), bytes_read: C.uint64_t(s.BytesRead),
			served_written: C.uint64_t(s.ServedWritten), served_read: C.uint64_t(s.ServedRead),
			served_rejected:    C.uint64_t(s.ServedRejected),
			connections_opened: C.uint64_t(s.ConnectionsOpened), retries: C.uint64_t(s.Retries),
			batches_self: C.uint64_t(s.BatchesSelf), bytes_self: C.uint64_t(s.BytesSelf),
			batches_local: C.uint64_t(s.BatchesLocal), bytes_local: C.uint64_t(s.BytesLocal),
			bytes_packed: C.uint64_t(s.BytesPacked), local_refused: C.uint64_t(s.LocalRefused),
			memories: C.uint64_t(s.Memories), batches_open: C.uint64_t(s.BatchesOpen),
			connections: C.uint64_t(s.Connections), peers_local: C.uint64_t(s.PeersLocal),
			messages: C.uint64_t(s.Messages), batch_ns: C.uint64_t(s.BatchTime),
			batches_rdma: C.uint64_t(s.BatchesRDMA), bytes_rdma: C.uint64_t(s.BytesRDMA),
		}
		return nil
	})
}
