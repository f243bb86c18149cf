//go:build cgo

package core

import (
	"bytes"
	"log/slog"
	"sync"
	"testing"

	"github.com/pkg/errors"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"mooncake/core/metadata"
	"mooncake/rdma"
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

// However many ranges are registered at once, peers are told of all of them with their keys,
// in one descriptor, and never of some; the same when they go.
func TestRDMARegistrationIsPublishedOnce(t *testing.T) {
	over(t, "rdma")
	e := openEngine(t, "127.0.0.1", testConfig(nil))
	const count = 2000
	memory := newArena(t, count*8192)
	ranges := make([]Range, count)
	for i := range ranges {
		ranges[i] = Range{memory.addr() + uint64(i)*8192, 4096}
	}
	var told []*memories
	publish := e.memory.changed
	e.memory.changed = func(s *memories) {
		told = append(told, s)
		publish(s)
	}
	stop, stopped := make(chan struct{}), make(chan map[int]bool)
	go func() { // a peer that asks again and again
		seen := map[int]bool{}
		for {
			d, err := metadata.DecodeDescriptor(e.describe())
			if assert.NoError(t, err) {
				seen[len(d.Buffers)] = true
			}
			select {
			case <-stop:
				stopped <- seen
				return
			default:
			}
		}
	}()
	ms, err := e.Register(ranges, "*")
	require.NoError(t, err)
	require.Len(t, told, 1)
	require.Len(t, told[0].list, count)
	for _, m := range told[0].list {
		require.NotEmpty(t, m.keys, "the device knows it before peers do")
	}
	d, err := metadata.DecodeDescriptor(e.describe())
	require.NoError(t, err)
	require.Len(t, d.Buffers, count)
	require.NoError(t, DeregisterAll(ms))
	require.Len(t, told, 2)
	require.Empty(t, told[1].list)
	close(stop)
	for n := range <-stopped {
		assert.Contains(t, []int{0, count}, n)
	}
}

// What cannot be given back is told: it is a bug of ours.
func TestRDMAPortThatCannotBeClosedIsLogged(t *testing.T) {
	over(t, "rdma")
	var out bytes.Buffer
	p, err := openRDMAPort(&Config{RDMA: testConfig(nil).RDMA})
	require.NoError(t, err)
	p.log = slog.New(slog.NewTextHandler(&out, nil))
	memory := newArena(t, 4096)
	mr, err := p.pd.Register(memory.addr(), 4096, rdma.AccessLocalWrite)
	require.NoError(t, err)
	p.close()
	for _, object := range []string{`object="protection domain"`, "object=device"} {
		assert.Regexp(t, "level=ERROR .*device="+p.name+" "+object, out.String())
	}
	out.Reset()
	require.NoError(t, mr.Close())
	p.close()
	assert.Empty(t, out.String())
}
