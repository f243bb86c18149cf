package main

/*
#define MC_TYPES_ONLY
#include "mooncake.h"
*/
import "C"

import (
	"context"

	"github.com/pkg/errors"

	"mooncake/core"
)

// askPeer runs a call that concerns a named peer, within a time limit.
func askPeer(engine C.mc_engine_t, peer *C.char, timeoutMS C.int64_t, ask func(ctx context.Context, e *core.Engine, peer string) error) C.int {
	return guard(func() error {
		e, _, err := engines.get(uint64(engine))
		if err != nil {
			return err
		}
		name, err := text(peer, "peer")
		if err != nil {
			return err
		}
		if timeoutMS <= 0 {
			return invalid("timeout_ms is %d, and must be above 0", int64(timeoutMS))
		}
		ctx, cancel := context.WithTimeout(context.Background(), milliseconds(timeoutMS))
		defer cancel()
		return ask(ctx, e, name)
	})
}

//export mc_probe
func mc_probe(engine C.mc_engine_t, peer *C.char, timeoutMS C.int64_t) C.int {
	return askPeer(engine, peer, timeoutMS, func(ctx context.Context, e *core.Engine, name string) error {
		return e.Probe(ctx, name)
	})
}

//export mc_fence
func mc_fence(engine C.mc_engine_t, peer *C.char, timeoutMS C.int64_t) C.int {
	return askPeer(engine, peer, timeoutMS, func(ctx context.Context, e *core.Engine, name string) error {
		return e.Fence(ctx, name)
	})
}

// notifyTimeoutMS bounds a notification: upstream's handshake server serves one
// connection at a time, and a silent client holds it up for 5 s.
const notifyTimeoutMS = 15000

//export mc_notify_send
func mc_notify_send(engine C.mc_engine_t, peer, name, message *C.char) C.int {
	return askPeer(engine, peer, notifyTimeoutMS, func(ctx context.Context, e *core.Engine, to string) error {
		n, err := text(name, "name")
		if err != nil {
			return err
		}
		m, err := text(message, "message")
		if err != nil {
			return err
		}
		return e.Notify(ctx, to, n, m)
	})
}

//export mc_notify_take
func mc_notify_take(engine C.mc_engine_t, name *C.char, nameCapacity C.uint64_t, outNameLength *C.uint64_t,
	message *C.char, messageCapacity C.uint64_t, outMessageLength *C.uint64_t) C.int {
	return guard(func() error {
		e, _, err := engines.get(uint64(engine))
		if err != nil {
			return err
		}
		if err := writable(outNameLength, "out_name_length"); err != nil {
			return err
		}
		if err := writable(outMessageLength, "out_message_length"); err != nil {
			return err
		}
		if err := room(name, nameCapacity, "name"); err != nil {
			return err
		}
		if err := room(message, messageCapacity, "message"); err != nil {
			return err
		}
		n, m, present, taken := e.TakeNotification(func(n, m string) bool {
			return uint64(nameCapacity) > uint64(len(n)) && uint64(messageCapacity) > uint64(len(m))
		})
		if !present {
			return errors.WithMessage(core.ErrNotFound, "no notification")
		}
		*outNameLength, *outMessageLength = C.uint64_t(len(n)), C.uint64_t(len(m))
		if !taken {
			return errors.WithMessagef(core.ErrFull, "name needs %d bytes and message %d, capacities are %d and %d",
				len(n)+1, len(m)+1, uint64(nameCapacity), uint64(messageCapacity))
		}
		put(n, name)
		put(m, message)
		return nil
	})
}
