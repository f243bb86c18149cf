package main

/*
#define MC_TYPES_ONLY
#include "mooncake.h"
*/
import "C"

import (
	"fmt"
	"unicode/utf8"
	"unsafe"

	"github.com/pkg/errors"

	"mooncake/core"
)

// invalid is an error about an argument.
func invalid(format string, args ...any) error {
	return errors.WithMessage(core.ErrInvalid, fmt.Sprintf(format, args...))
}

// lowest is the first address that can hold anything: below it there are only
// numbers that strayed into a pointer.
const lowest = 4096

// maxCount bounds arrays: more elements than an address space can hold are a
// negative number gone astray.
const maxCount = 1 << 40

// readable refuses a pointer argument to size bytes that cannot be read, naming
// it. Only the first and the last byte are tried.
func readable(p unsafe.Pointer, size uint64, name string) (err error) {
	at := uint64(uintptr(p))
	switch {
	case p == nil:
		return invalid("%s is NULL", name)
	case at < lowest || at+size < at:
		return invalid("%s is %#x, which is no address of %d bytes", name, at, size)
	case size == 0:
		return nil
	}
	defer func() {
		if recover() != nil {
			err = invalid("%s points to %#x, which is not accessible for %d bytes", name, at, size)
		}
	}()
	touched = *(*byte)(p) + *(*byte)(unsafe.Add(p, size-1))
	return nil
}

// touched keeps the compiler from leaving the reads above out.
var touched byte

// writable refuses an out pointer that cannot be written, naming it, before
// anything is done that the result would be lost of. What is there stays.
func writable[T any](p *T, name string) (err error) {
	if err := readable(unsafe.Pointer(p), uint64(unsafe.Sizeof(*p)), name); err != nil {
		return err
	}
	defer func() {
		if recover() != nil {
			err = invalid("%s points to %p, which cannot be written", name, p)
		}
	}()
	b := (*byte)(unsafe.Pointer(p))
	write(b, *b)
	return nil
}

// write is a function of its own so that the compiler does not see that it
// changes nothing.
//
//go:noinline
func write(b *byte, v byte) { *b = v }

// text reads a string argument.
func text(p *C.char, name string) (string, error) {
	if err := readable(unsafe.Pointer(p), 1, name); err != nil {
		return "", err
	}
	s := C.GoString(p)
	if !utf8.ValidString(s) {
		return "", invalid("%s is not UTF-8", name)
	}
	return s, nil
}

// optional reads a string argument that may be NULL.
func optional(p *C.char, name string) (string, error) {
	if p == nil {
		return "", nil
	}
	return text(p, name)
}

// numbers views an array argument of count elements.
func numbers(p *C.uint64_t, count C.uint64_t, name string) ([]uint64, error) {
	return elements[uint64](unsafe.Pointer(p), uint64(count), name, "count")
}

// elements views an array argument of count elements; counted is the name of count.
func elements[T any](p unsafe.Pointer, count uint64, name, counted string) ([]T, error) {
	if count == 0 {
		return nil, nil
	}
	if count > maxCount {
		return nil, invalid("%s is %d", counted, count)
	}
	if err := readable(p, count*uint64(unsafe.Sizeof(*new(T))), name); err != nil {
		return nil, errors.WithMessagef(err, "%s is %d", counted, count)
	}
	return unsafe.Slice((*T)(p), count), nil
}

// results views an array of count handles to be written.
func results(p *C.uint64_t, count C.uint64_t, name string) ([]uint64, error) {
	out, err := numbers(p, count, name)
	for i := range out {
		if i%(lowest/8) == 0 || i == len(out)-1 { // once a page
			if err := writable(&out[i], name); err != nil {
				return nil, err
			}
		}
	}
	return out, err
}

// room refuses a buffer for text that cannot be written; one of capacity 0 may be
// NULL.
func room(out *C.char, capacity C.uint64_t, name string) error {
	if capacity == 0 {
		return nil
	}
	return writable(out, name)
}

// fill copies a text into a caller's buffer, NUL included, and reports its length.
func fill(s string, out *C.char, capacity C.uint64_t, length *C.uint64_t) error {
	if err := writable(length, "out_length"); err != nil {
		return err
	}
	if err := room(out, capacity, "out"); err != nil {
		return err
	}
	*length = C.uint64_t(len(s))
	if uint64(capacity) <= uint64(len(s)) {
		return errors.WithMessagef(core.ErrFull, "capacity is %d, and the text takes %d with its NUL", uint64(capacity), len(s)+1)
	}
	put(s, out)
	return nil
}

// put copies a text that is known to fit, and its NUL.
func put(s string, out *C.char) {
	b := unsafe.Slice((*byte)(unsafe.Pointer(out)), len(s)+1)
	copy(b, s)
	b[len(s)] = 0
}
