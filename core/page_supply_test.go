package core

import (
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// heldPath is a transport whose lanes take nothing until they are told to.
type heldPath struct {
	path
	posted *heldPosting
}

func (p *heldPath) post(op Op, w *work) posting {
	p.posted = &heldPosting{instantPosting: instantPosting{work: w}}
	return p.posted
}
func (p *heldPath) broken() bool { return false }

type heldPosting struct {
	instantPosting
	pushed []uint64 // for every push, the blocks of the batch by then
	sealed bool
}

func (p *heldPosting) push() { p.pushed = append(p.pushed, p.work.batch.blocks.Load()) }
func (p *heldPosting) seal() { p.sealed = true }

// held puts a pair's first engine on a heldPath.
func held(t testing.TB, p *pair) *heldPath {
	peer := p.seg.process
	real, path := peer.path, &heldPath{}
	peer.path = path
	peer.reached.Store(true)
	t.Cleanup(func() { peer.path = real })
	return path
}

// shuffledGroup is n pages of a pool in an order of their own on both sides, and layers.
func shuffledGroup(p *pair, n, layers, size int) PageGroup {
	g := ladder(p, n, layers, size)
	r := rand.New(rand.NewPCG(2, 2))
	local, remote := make([]int32, n), make([]int32, n)
	for i, j := range r.Perm(n) {
		local[i] = int32(j)
	}
	for i, j := range r.Perm(n) {
		remote[i] = int32(j)
	}
	g.Local, g.Remote = Pages32(local), Pages32(remote)
	return g
}

// What waits of a posted group is its pages and its layers, however many blocks they mean.
func TestAGroupThatWaitsIsNotExpanded(t *testing.T) {
	const n, layers = 4096, 160
	p := newPair(t, n*layers, nil)
	path := held(t, p)
	b, err := p.seg.SubmitPages(Write, []PageGroup{shuffledGroup(p, n, layers, 1)}, Options{})
	require.NoError(t, err)
	w := path.posted.work
	assert.EqualValues(t, n*layers, b.Status().Blocks)
	assert.EqualValues(t, n*layers, w.left.Load())
	assert.True(t, path.posted.sealed)
	assert.Empty(t, w.list, "runs are made when they are wanted")
	require.Len(t, w.pages.pieces, 1)
	assert.LessOrEqual(t, len(w.pages.pieces[0].runs.slabs), n/slabRuns)
	ahead, _ := w.waiting()
	var dst [64]slice
	var bytes, slices uint64
	for k := w.next(dst[:], 1<<40); k > 0; k = w.next(dst[:], 1<<40) {
		require.LessOrEqual(t, len(w.list), 1)
		for _, s := range dst[:k] {
			bytes += s.length
			slices++
		}
	}
	assert.EqualValues(t, n*layers, bytes)
	assert.Equal(t, slices, b.Status().Runs)
	assert.Equal(t, slices, ahead, "a transport chooses its way by it")
	ahead, _ = w.waiting()
	assert.Zero(t, ahead)
	assert.Empty(t, w.pages.pieces, "its memory went back")
	w.batch.progressed(bytes)
	w.batch.finish(ending{quiet: true})
	require.NoError(t, b.Wait(deadline))
	b.Close()
}

// The first slice of a long list leaves while most of it has not been read.
func TestTheFirstPageLeavesBeforeTheLastIsRead(t *testing.T) {
	p := newPair(t, 10*checkedTogether, nil)
	path := held(t, p)
	b, err := p.seg.SubmitPages(Write, []PageGroup{shuffledGroup(p, 5*checkedTogether, 2, 1)}, Options{})
	require.NoError(t, err)
	require.Len(t, path.posted.pushed, 4)
	assert.EqualValues(t, 2*checkedTogether, path.posted.pushed[0])
	path.posted.work.batch.finish(ending{err: ErrCanceled, quiet: true})
	assert.Empty(t, path.posted.work.pages.pieces, "its memory went back")
	b.Close()
}

// Layers leave in their order.
func TestPagesLeaveLayerByLayer(t *testing.T) {
	p := newPair(t, 1<<16, nil)
	path := held(t, p)
	g := shuffledGroup(p, 100, 3, 64)
	b, err := p.seg.SubmitPages(Write, []PageGroup{g, ladder(p, 10, 1, 16)}, Options{})
	require.NoError(t, err)
	list := blockList([]PageGroup{g})
	dst := make([]slice, 500)
	n := path.posted.work.next(dst, 1<<40)
	i := 0
	for _, s := range dst[:n-1] {
		require.Equal(t, list.Local[i], s.local)
		for ; s.length > 0; i++ {
			s.length -= list.Length[i]
		}
	}
	assert.Equal(t, len(list.Length), i)
	assert.EqualValues(t, 160, dst[n-1].length, "then the next group")
	path.posted.work.batch.finish(ending{err: ErrCanceled, quiet: true})
	b.Close()
}

// Nothing is allocated for a page or for a block.
func TestPageGroupsAllocateNothingPerBlock(t *testing.T) {
	const n, layers = 16384, 64
	p := newPair(t, n*layers, nil)
	peer := p.seg.process
	real := peer.path
	peer.path = instantPath{}
	defer func() { peer.path = real }()
	peer.reached.Store(true)
	groups := []PageGroup{shuffledGroup(p, n, layers, 1)}
	pass := func() {
		_, err := movePages(t, p.seg, Write, groups...)
		require.NoError(t, err)
	}
	pass()
	perPass := testing.AllocsPerRun(5, pass)
	// The collector, and the race detector, take slabs out of the pool.
	assert.Less(t, perPass/n/layers, 0.002, "allocations per block")
	t.Logf("%.0f allocations", perPass)
}

func BenchmarkPages(b *testing.B) {
	const n, layers = 4096, 160
	p := newPair(b, 2*n*layers, nil)
	peer := p.seg.process
	real := peer.path
	peer.reached.Store(true)
	defer func() { peer.path = real }()
	slices := shuffledGroup(p, n, layers, 1)
	for i := range slices.Layers {
		slices.Layers[i].LocalStride, slices.Layers[i].RemoteStride = 2, 2
	}
	groups := map[string]PageGroup{"runs": ladder(p, n, layers, 1), "shuffled": shuffledGroup(p, n, layers, 1), "slices": slices}
	for name, g := range groups {
		submit := func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				batch, err := p.seg.SubmitPages(Write, []PageGroup{g}, Options{})
				require.NoError(b, err)
				if held, ok := peer.path.(*heldPath); ok {
					held.posted.work.batch.finish(ending{err: ErrCanceled, quiet: true})
				}
				batch.Close()
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n/layers, "ns/block")
		}
		b.Run(name+"/submit", func(b *testing.B) { peer.path = &heldPath{}; submit(b) })
		b.Run(name+"/all", func(b *testing.B) { peer.path = instantPath{}; submit(b) })
	}
}
