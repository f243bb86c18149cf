package core

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// instantPath is a transport that moves nothing: what is pushed is done.
type instantPath struct{ path }

func (instantPath) post(op Op, w *work) posting { return &instantPosting{work: w} }
func (instantPath) broken() bool                { return false }

type instantPosting struct {
	work    *work
	scratch [64]slice
}

func (p *instantPosting) push() {
	for n := p.work.next(p.scratch[:], 1<<40); n > 0; n = p.work.next(p.scratch[:], 1<<40) {
		var bytes uint64
		for _, s := range p.scratch[:n] {
			bytes += s.length
		}
		p.work.batch.progressed(bytes)
	}
}

func (p *instantPosting) seal() {
	p.push()
	p.work.batch.finish(ending{quiet: true})
}

func (p *instantPosting) quiesce(error) {}

// What the engine itself costs: Submit, the end and Close, with a transport that does
// nothing.
func BenchmarkSubmit(b *testing.B) {
	p := newPair(b, 1<<20, nil)
	peer := p.seg.process
	real := peer.path
	peer.path = instantPath{}
	peer.reached.Store(true)
	defer func() { peer.path = real }()
	for name, count := range map[string]int{"1": 1, "64": 64, "4096": 4096, "100000": 100_000} {
		b.Run(name, func(b *testing.B) {
			blocks := repeated(p, count)
			b.ReportAllocs()
			for b.Loop() {
				batch, err := p.seg.Submit(Write, blocks, Options{})
				require.NoError(b, err)
				batch.Close()
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(count), "ns/block")
		})
	}
}
