// Command capi is libmooncake.so: the functions of mooncake.h on top of core,
// built with -buildmode=c-shared. Every function looks its handle up first,
// turns errors and panics into a status code and a text, and does nothing else.
package main

/*
#cgo CFLAGS: -O2 -Wall
*/
import "C"

func main() {}
