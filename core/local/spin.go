package local

import (
	"runtime"
	"time"
)

// hot is how long one side looks for the other's next step before it sleeps: as long
// as that takes to fill a slot or to empty it. To wake a sleeper up costs more, in
// time for both and in system calls.
const hot = 25 * time.Microsecond

// spin looks for a condition until it holds or the time is over. With one processor
// nobody else can bring it about meanwhile.
func spin(most time.Duration, ok func() bool) bool {
	if runtime.GOMAXPROCS(0) < 2 {
		return ok()
	}
	for began := time.Now(); ; {
		for range 8 {
			if ok() {
				return true
			}
			runtime.Gosched()
		}
		if time.Since(began) > most {
			return false
		}
	}
}
