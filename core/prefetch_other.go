//go:build !amd64

package core

// The processor has to find out by itself.
func prefetchRead(addr, n uintptr)  {}
func prefetchWrite(addr, n uintptr) {}
