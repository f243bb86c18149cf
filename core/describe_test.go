package core

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Peers hear of memory when it is open to them on every transport, and not before: a
// batch that came earlier would be refused.
func TestPeersHearOfMemoryWhenItIsOpenToThem(t *testing.T) {
	for _, way := range ways {
		t.Run(way, func(t *testing.T) {
			over(t, way)
			p := newPair(t, 8192, nil)
			more := newArena(t, 4096)
			register(t, p.b, newArena(t, 4096)) // what peers are told has to be made anew
			publish, reached, gate := p.b.memory.changed, make(chan struct{}), make(chan struct{})
			p.b.memory.changed = func(s *memories) {
				close(reached)
				<-gate
				publish(s)
			}
			registered := make(chan error, 1)
			go func() {
				_, err := p.b.Register([]Range{{more.addr(), 4096}}, "*")
				registered <- err
			}()
			<-reached
			blocks := scatter(p.memA, more, 4096, []int{0}, []int{0})
			err := move(t, p.seg, Write, blocks)
			assert.ErrorIs(t, err, ErrAddress, "not known yet")
			close(gate)
			require.NoError(t, <-registered)
			p.b.memory.changed = publish
			require.NoError(t, move(t, p.seg, Write, blocks))
		})
	}
}
