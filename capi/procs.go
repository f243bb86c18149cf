package main

import (
	"os"
	"runtime"
)

// A process that has one core gets two of what Go calls processors. With one the runtime takes
// it away from every thread that is in C for longer than some 20 us, as ours are that post and
// wait, and wakes a thread to watch for that; it must be given back for the thread to go on.
func init() {
	if runtime.GOMAXPROCS(0) == 1 && os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(2)
	}
}
