/*
 * Does not compile when mooncake.h and the functions that Go exports disagree: a
 * second declaration of a function must have the types of the first. Built with
 * -fsyntax-only; libmooncake.h is what `go build -buildmode=c-shared` writes.
 * Functions that capi implements in C are not in it: their .c files include
 * mooncake.h, so the compiler has compared them already.
 *
 * (Not in capi: cgo compiles every .c file there.)
 */
#include <complex.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* cgo's prototypes cannot spell const. System headers come before this. */
#define const
#include "mooncake.h"

#include "libmooncake.h"
