//go:build cgo

package core

import (
	"testing"
	"time"

	"github.com/pkg/errors"
	"github.com/stretchr/testify/require"
)

// newTarget is an engine of this process, and another process as its peer, whose memory
// this process sees. Both are on the software NIC.
func newTarget(t *testing.T, size int) (*pair, *soakTarget) {
	overSoftNIC(t)
	target := newSoakTarget(t, size)
	p := &pair{memA: newArena(t, size), memB: target.arena}
	cfg := testConfig(map[string]string{"MC_HANDSHAKE_CONNECT_TIMEOUT": "2"})
	cfg.patience = 300 * time.Millisecond
	p.a = openEngine(t, "127.0.0.1", cfg)
	p.regA = register(t, p.a, p.memA)
	p.seg = openSegment(t, p.a, target.name)
	return p, target
}

// blocks are like those of scatter, into the target's memory.
func (s *soakTarget) blocks(p *pair, size int, from, to []int) Blocks {
	_, addr := s.at()
	b := scatter(p.memA, p.memB, size, from, to)
	for i := range b.Remote {
		b.Remote[i] += addr - p.memB.addr()
	}
	return b
}

// underWay is like that of a pair.
func (s *soakTarget) underWay(t *testing.T, p *pair, op Op) *Batch {
	slots := evenSlots(len(p.memA)/512, 1)
	b, err := p.seg.Submit(op, s.blocks(p, 512, slots, slots), Options{})
	require.NoError(t, err)
	t.Cleanup(b.Close)
	eventually(t, "the first bytes", func() bool { return b.Status().BytesDone > 0 })
	return b
}

// isAny tells whether err is one of some errors.
func isAny(err error, kinds ...error) bool {
	for _, kind := range kinds {
		if errors.Is(err, kind) {
			return true
		}
	}
	return false
}
