//go:build cgo

package core

import (
	"sync"
	"testing"

	"github.com/pkg/errors"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// An engine that closes while others register and deregister memory leaves nothing of it
// with the device, and gives the device back.
func TestRDMARegistrationWhileTheEngineCloses(t *testing.T) {
	over(t, "rdma")
	before := rdmaObjects()
	memory := newArena(t, 8<<20)
	for range 8 {
		e, err := Open("127.0.0.1", testConfig(nil))
		require.NoError(t, err)
		var ready, wg sync.WaitGroup
		for i := range 4 {
			mine := memory.region(i*2<<20, 1<<20)
			ready.Add(1)
			wg.Go(func() {
				for first := true; ; first = false {
					ms, err := e.Register([]Range{{mine.addr(), uint64(len(mine))}}, "*")
					if first {
						ready.Done()
					}
					if err == nil {
						err = ms[0].Deregister()
					}
					if err != nil {
						assert.True(t, errors.Is(err, ErrClosed), "%v", err)
						return
					}
				}
			})
		}
		ready.Wait()
		require.NoError(t, e.Close())
		wg.Wait()
		require.Equal(t, before, rdmaObjects())
	}
}
