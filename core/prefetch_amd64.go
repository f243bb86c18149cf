package core

// prefetchRead and prefetchWrite ask for the cache lines of n bytes, not 0, from addr
// on. They do not fault, whatever is there.

//go:noescape
func prefetchRead(addr, n uintptr)

//go:noescape
func prefetchWrite(addr, n uintptr)
