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

// submitter is the arguments of a call that starts a batch.
type submitter interface {
	// submit starts it and gives out its handle. waits: the calling thread waits for the
	// end, in Receive.
	submit(out *C.mc_batch_t, waits bool) (*core.Batch, error)
}

// request is the arguments that say which blocks move where.
type request struct {
	segment               C.mc_segment_t
	op                    C.uint32_t
	local, remote, length *C.uint64_t
	count                 C.uint64_t
	deadlineMS            C.int64_t
}

func (r request) submit(out *C.mc_batch_t, waits bool) (*core.Batch, error) {
	return begin(r.segment, out, func(s *core.Segment) (*core.Batch, error) {
		blocks, err := blocksOf(r.local, r.remote, r.length, r.count)
		if err != nil {
			return nil, err
		}
		return s.Submit(core.Op(r.op), blocks, core.Options{Deadline: milliseconds(r.deadlineMS), Waits: waits})
	})
}

// begin gives out a handle for a batch that start makes.
func begin(segment C.mc_segment_t, out *C.mc_batch_t, start func(*core.Segment) (*core.Batch, error)) (*core.Batch, error) {
	if err := writable(out, "out"); err != nil {
		return nil, err
	}
	*out = 0
	s, engine, err := segments.get(uint64(segment))
	if err != nil {
		return nil, err
	}
	b, err := start(s)
	if err != nil {
		return nil, err
	}
	h, err := putOwned(batches, b, engine)
	if err != nil {
		b.Close()
		return nil, err
	}
	*out = C.mc_batch_t(h)
	return b, nil
}

// blocksOf views the three arrays of a request.
func blocksOf(local, remote, length *C.uint64_t, count C.uint64_t) (blocks core.Blocks, err error) {
	if blocks.Local, err = numbers(local, count, "local"); err != nil {
		return blocks, err
	}
	if blocks.Remote, err = numbers(remote, count, "remote"); err != nil {
		return blocks, err
	}
	blocks.Length, err = numbers(length, count, "length")
	return blocks, err
}

//export mc_submit
func mc_submit(segment C.mc_segment_t, op C.uint32_t, local, remote, length *C.uint64_t, count C.uint64_t, deadlineMS C.int64_t, out *C.mc_batch_t) C.int {
	return guard(func() error {
		_, err := request{segment, op, local, remote, length, count, deadlineMS}.submit(out, false)
		return err
	})
}

// receiveFrom is the timeout in milliseconds from which the thread of a blocking call may
// do some of the work itself, for about as long at most.
const receiveFrom = 100

// mooncakeTransferBegin is the first half of mc_transfer: a batch, and where to sleep;
// or, if it has ended already, all of it, and word is NULL.
//
//export mooncakeTransferBegin
func mooncakeTransferBegin(segment C.mc_segment_t, op C.uint32_t, local, remote, length *C.uint64_t, count C.uint64_t,
	deadlineMS, timeoutMS C.int64_t, status *C.mc_batch_status_t, out *C.mc_batch_t, word **C.uint32_t, running *C.uint32_t) C.int {
	return guard(func() error {
		return transfer(request{segment, op, local, remote, length, count, deadlineMS}, timeoutMS, status, out, word, running)
	})
}

// transfer starts a batch that a caller waits for at once.
func transfer(r submitter, timeoutMS C.int64_t, status *C.mc_batch_status_t, out *C.mc_batch_t, word **C.uint32_t, running *C.uint32_t) error {
	if status != nil {
		if err := writable(status, "status"); err != nil {
			return err
		}
		*status = C.mc_batch_status_t{}
	}
	waits := timeoutMS < 0 || timeoutMS >= receiveFrom
	b, err := r.submit(out, waits)
	if err != nil {
		return err
	}
	if waits {
		b.Receive()
	}
	if s := b.Status(); s.State != core.Running {
		return outcome(b, s, status, out)
	}
	at, value := b.Word()
	*word, *running = (*C.uint32_t)(at), C.uint32_t(value)
	return nil
}

// mooncakeTransferEnd is the second half of mc_transfer: what came of the batch,
// which is closed if it has ended.
//
//export mooncakeTransferEnd
func mooncakeTransferEnd(status *C.mc_batch_status_t, out *C.mc_batch_t) C.int {
	return guard(func() error {
		b, _, err := batches.get(uint64(*out))
		if err != nil {
			*out = 0
			return err
		}
		return outcome(b, b.Status(), status, out)
	})
}

// outcome tells what came of a batch, which is closed if it has ended.
func outcome(b *core.Batch, s core.Status, status *C.mc_batch_status_t, out *C.mc_batch_t) error {
	if status != nil {
		*status = cStatus(s)
	}
	if s.State == core.Running {
		return core.ErrWaitTimeout
	}
	batches.take(uint64(*out)) // or the engine's close does that just now
	*out = 0
	b.Close()
	return s.Err
}

//export mc_batch_open
func mc_batch_open(segment C.mc_segment_t, op C.uint32_t, deadlineMS C.int64_t, out *C.mc_batch_t) C.int {
	return guard(func() error {
		_, err := begin(segment, out, func(s *core.Segment) (*core.Batch, error) {
			return s.Open(core.Op(op), core.Options{Deadline: milliseconds(deadlineMS)})
		})
		return err
	})
}

//export mc_batch_add
func mc_batch_add(batch C.mc_batch_t, local, remote, length *C.uint64_t, count C.uint64_t) C.int {
	return guard(func() error {
		b, _, err := batches.get(uint64(batch))
		if err != nil {
			return err
		}
		blocks, err := blocksOf(local, remote, length, count)
		if err != nil {
			return err
		}
		return b.Add(blocks)
	})
}

//export mc_batch_seal
func mc_batch_seal(batch C.mc_batch_t) C.int {
	return guard(func() error {
		b, _, err := batches.get(uint64(batch))
		if err != nil {
			return err
		}
		b.Seal()
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
		duration_ns:  C.uint64_t(s.Duration.Nanoseconds()),
		joined_local: C.uint64_t(s.JoinedLocal), joined_remote: C.uint64_t(s.JoinedRemote),
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
