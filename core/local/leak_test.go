package local

import (
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// holdings counts what the process has: descriptors, shared mappings, goroutines.
func holdings(t testing.TB) [3]int {
	files, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	maps, err := os.ReadFile("/proc/self/maps")
	require.NoError(t, err)
	return [3]int{len(files), strings.Count(string(maps), "memfd:mooncake"), runtime.NumGoroutine()}
}

// Opened, used and closed in any order, nothing is left.
func TestNothingIsLeft(t *testing.T) {
	startTarget(t).server.Close() // what the runtime keeps
	before := holdings(t)
	for _, w := range everyWay {
		for _, serverFirst := range []bool{true, false} {
			t.Run(w.name, func(t *testing.T) {
				for range 3 {
					p := newPair(t, w, 1<<20)
					moved(t, p.peer, true, p.scattered(200, 512))
					if serverFirst {
						p.server.Close()
						p.peer.Close()
					} else {
						p.peer.Close()
						p.server.Close()
					}
				}
			})
		}
	}
	var now [3]int
	for end := time.Now().Add(patience); time.Now().Before(end); runtime.Gosched() {
		if now = holdings(t); now[0] <= before[0] && now[1] <= before[1] && now[2] <= before[2] {
			return
		}
	}
	require.Fail(t, "descriptors, mappings or goroutines are left", "%v before, %v now", before, now)
}
