package main

/*
#define MC_TYPES_ONLY
#include "mooncake.h"
*/
import "C"

import (
	"context"

	"mooncake/core"
)

var segments = newTable[*core.Segment](segmentKind, "segment")

//export mc_segment_open
func mc_segment_open(engine C.mc_engine_t, name *C.char, out *C.mc_segment_t) C.int {
	return guard(func() error {
		e, _, err := engines.get(uint64(engine))
		if err != nil {
			return err
		}
		if err := writable(out, "out"); err != nil {
			return err
		}
		peer, err := text(name, "name")
		if err != nil {
			return err
		}
		s, err := e.OpenSegment(context.Background(), peer)
		if err != nil {
			return err
		}
		h, err := putOwned(segments, s, uint64(engine))
		if err != nil {
			s.Close()
			return err
		}
		*out = C.mc_segment_t(h)
		return nil
	})
}

//export mc_segment_buffer
func mc_segment_buffer(segment C.mc_segment_t, index C.uint64_t, outAddress, outLength *C.uint64_t) C.int {
	return guard(func() error {
		s, _, err := segments.get(uint64(segment))
		if err != nil {
			return err
		}
		if err := writable(outAddress, "out_address"); err != nil {
			return err
		}
		if err := writable(outLength, "out_length"); err != nil {
			return err
		}
		r, err := s.Buffer(uint64(index))
		if err != nil {
			return err
		}
		*outAddress, *outLength = C.uint64_t(r.Addr), C.uint64_t(r.Length)
		return nil
	})
}

//export mc_segment_stale
func mc_segment_stale(segment C.mc_segment_t, out *C.int32_t) C.int {
	return guard(func() error {
		s, _, err := segments.get(uint64(segment))
		if err != nil {
			return err
		}
		if err := writable(out, "out"); err != nil {
			return err
		}
		*out = 0
		if s.Stale() {
			*out = 1
		}
		return nil
	})
}

//export mc_segment_connect
func mc_segment_connect(segment C.mc_segment_t, timeoutMS C.int64_t) C.int {
	return guard(func() error {
		s, _, err := segments.get(uint64(segment))
		if err != nil {
			return err
		}
		ctx := context.Background()
		if timeoutMS >= 0 {
			limited, cancel := context.WithTimeout(ctx, milliseconds(timeoutMS))
			defer cancel()
			ctx = limited
		}
		return s.Connect(ctx)
	})
}

//export mc_segment_close
func mc_segment_close(segment C.mc_segment_t) C.int {
	return guard(func() error {
		s, err := segments.take(uint64(segment))
		if err != nil {
			return err
		}
		return s.Close()
	})
}
