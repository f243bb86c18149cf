package main

/*
#define MC_TYPES_ONLY
#include "mooncake.h"
*/
import "C"

import (
	"math"
	"time"

	"mooncake/core"
)

var batches = newTable[*core.Batch](batchKind, "batch")

//export mc_submit
func mc_submit(segment C.mc_segment_t, op C.uint32_t, local, remote, length *C.uint64_t, count C.uint64_t, deadlineMS C.int64_t, out *C.mc_batch_t) C.int {
	return guard(func() error {
		if err := writable(out, "out"); err != nil {
			return err
		}
		*out = 0
		s, engine, err := segments.get(uint64(segment))
		if err != nil {
			return err
		}
		var blocks core.Blocks
		if blocks.Local, err = numbers(local, count, "local"); err != nil {
			return err
		}
		if blocks.Remote, err = numbers(remote, count, "remote"); err != nil {
			return err
		}
		if blocks.Length, err = numbers(length, count, "length"); err != nil {
			return err
		}
		b, err := s.Submit(core.Op(op), blocks, core.Options{Deadline: milliseconds(deadlineMS)})
		if err != nil {
			return err
		}
		h, err := putOwned(batches, b, engine)
		if err != nil {
			b.Close()
			return err
		}
		*out = C.mc_batch_t(h)
		return nil
	})
}

// milliseconds turns a C timeout into a duration without overflow.
func milliseconds(ms C.int64_t) time.Duration {
	return time.Duration(max(-1, min(int64(ms), math.MaxInt64/int64(time.Millisecond)))) * time.Millisecond
}

//export mc_poll
func mc_poll(batch C.mc_batch_t, out *C.mc_batch_status_t) C.int {
	return guard(func() error {
		b, _, err := batches.get(uint64(batch))
		if err != nil {
			return err
		}
		if err := writable(out, "out"); err != nil {
			return err
		}
		*out = cStatus(b.Status())
		return nil
	})
}

func cStatus(s core.Status) C.mc_batch_status_t {
	out := C.mc_batch_status_t{
		state: C.uint32_t(s.State), quiet: C.uint32_t(s.Quiet), error: C.int32_t(statusOf(s.Err)),
		blocks: C.uint64_t(s.Blocks), runs: C.uint64_t(s.Runs),
		bytes: C.uint64_t(s.Bytes), bytes_done: C.uint64_t(s.BytesDone),
		duration_ns: C.uint64_t(s.Duration.Nanoseconds()),
	}
	if s.Unconfirmed {
		out.flags |= C.MC_FLAG_UNCONFIRMED
	}
	return out
}

// mooncakeWaitBegin is the first half of mc_wait: where to sleep, and on which
// value.
//
//export mooncakeWaitBegin
func mooncakeWaitBegin(batch C.mc_batch_t, word **C.uint32_t, running *C.uint32_t) C.int {
	return guard(func() error {
		b, _, err := batches.get(uint64(batch))
		if err != nil {
			return err
		}
		at, value := b.Word()
		*word, *running = (*C.uint32_t)(at), C.uint32_t(value)
		return nil
	})
}

// mooncakeWaitEnd is the second half of mc_wait: what came of the batch.
//
//export mooncakeWaitEnd
func mooncakeWaitEnd(batch C.mc_batch_t, status *C.mc_batch_status_t) C.int {
	return guard(func() error {
		b, _, err := batches.get(uint64(batch))
		if err != nil {
			return err
		}
		if status != nil {
			if err := writable(status, "status"); err != nil {
				return err
			}
			*status = cStatus(b.Status())
		}
		return b.Err()
	})
}

//export mc_cancel
func mc_cancel(batch C.mc_batch_t) C.int {
	return guard(func() error {
		b, _, err := batches.get(uint64(batch))
		if err != nil {
			return err
		}
		b.Cancel()
		return nil
	})
}

//export mc_batch_fd
func mc_batch_fd(batch C.mc_batch_t, out *C.int32_t) C.int {
	return guard(func() error {
		b, _, err := batches.get(uint64(batch))
		if err != nil {
			return err
		}
		if err := writable(out, "out"); err != nil {
			return err
		}
		fd, err := b.FD()
		if err != nil {
			return err
		}
		*out = C.int32_t(fd)
		return nil
	})
}

//export mc_batch_close
func mc_batch_close(batch C.mc_batch_t) C.int {
	return guard(func() error {
		b, err := batches.take(uint64(batch))
		if err != nil {
			return err
		}
		b.Close()
		return nil
	})
}
