package core

import (
	"context"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A connection that is wanted before the first batch is there when the call returns,
// once; where there is nothing to connect the call does nothing.
func TestConnectBeforeTheFirstBatch(t *testing.T) {
	for _, way := range ways {
		t.Run(way, func(t *testing.T) {
			over(t, way)
			p := newPair(t, 1<<20, nil)
			var all sync.WaitGroup
			for range 8 {
				all.Go(func() { assert.NoError(t, p.seg.Connect(context.Background())) })
			}
			all.Wait()
			opened := p.a.Stats().ConnectionsOpened
			if way == "rdma" {
				require.EqualValues(t, 1, opened)
			}
			require.NoError(t, move(t, p.seg, Write, repeated(p, 10)))
			if way == "rdma" {
				assert.EqualValues(t, 1, p.a.Stats().ConnectionsOpened)
			}
			assert.NoError(t, p.seg.Connect(context.Background()))
		})
	}
}

// What keeps a connection from being made is the error that the first batch would have.
func TestConnectFails(t *testing.T) {
	for _, way := range []string{"tcp", "rdma"} {
		t.Run(way, func(t *testing.T) {
			over(t, way)
			p := newPair(t, 1<<20, nil)
			p.b.Close()
			p.seg.process.suspect.Store(true) // as after an attempt that failed
			require.ErrorIs(t, p.seg.Connect(context.Background()), ErrPeer)
			require.NoError(t, p.seg.Close())
			require.ErrorIs(t, p.seg.Connect(context.Background()), ErrClosed)
		})
	}
}
