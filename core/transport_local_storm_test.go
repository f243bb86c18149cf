package core

import (
	"context"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
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

// Segments that are opened, used and closed by many at once all go the best way, and
// leave nothing behind; nor does an engine that closes among them.
func TestSegmentsComeAndGo(t *testing.T) {
	for _, way := range ways[1:] {
		t.Run(way, func(t *testing.T) {
			over(t, way)
			openEngine(t, "127.0.0.1", testConfig(nil)).Close() // what the runtime keeps
			before := holdings(t)
			p := newPair(t, 1<<20, nil)
			p.seg.Close()
			var wg sync.WaitGroup
			for n := range 8 {
				wg.Add(1)
				go func() {
					defer wg.Done()
					for range 40 {
						seg, err := p.a.OpenSegment(context.Background(), p.b.Name())
						if !assert.NoError(t, err) {
							return
						}
						assert.NoError(t, move(t, seg, Op(n&1), scatter(p.memA, p.memB, 4096, []int{n}, []int{n})))
						assert.NoError(t, seg.Close())
					}
				}()
			}
			wg.Wait()
			require.Zero(t, p.a.Stats().LocalRefused, "peers reached over tcp instead")
			eventually(t, "connections to end", func() bool { return p.b.Stats().Connections == 0 })
			b := underWay(t, &pair{a: p.a, b: p.b, memA: p.memA, memB: p.memB, seg: openSegment(t, p.a, p.b.Name())}, Write)
			p.a.Close()
			p.b.Close()
			b.Close()
			var now [3]int
			for end := time.Now().Add(deadline); time.Now().Before(end); runtime.Gosched() {
				if now = holdings(t); now[0] <= before[0] && now[1] <= before[1] && now[2] <= before[2] {
					return
				}
			}
			require.Fail(t, "descriptors, mappings or goroutines are left", "%v before, %v now", before, now)
		})
	}
}
