package pagealloc

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// model is the naive allocator: one bool per page, everything found by scanning.
type model struct {
	first uint64
	free  []bool
}

func newModel(first, count uint64) *model {
	m := &model{first, make([]bool, count)}
	for i := range m.free {
		m.free[i] = true
	}
	return m
}

func (m *model) runs() []Run {
	var runs []Run
	for i, free := range m.free {
		switch {
		case !free:
		case i > 0 && m.free[i-1]:
			runs[len(runs)-1].Count++
		default:
			runs = append(runs, Run{m.first + uint64(i), 1})
		}
	}
	return runs
}

func (m *model) stats() Stats {
	stats := Stats{Pages: uint64(len(m.free))}
	for _, run := range m.runs() {
		stats.FreePages += run.Count
		stats.FreeRuns++
		stats.LongestRun = max(stats.LongestRun, run.Count)
	}
	return stats
}

func (m *model) set(run Run, free bool) {
	for page := run.First; page < run.End(); page++ {
		m.free[page-m.first] = free
	}
}

// alloc answers nil when it must fail.
func (m *model) alloc(count uint64) []Run {
	if count == 0 || count > m.stats().FreePages {
		return nil
	}
	var taken []Run
	for count > 0 {
		var best, longest Run
		for _, run := range m.runs() {
			if run.Count >= count && (best.Count == 0 || run.Count < best.Count) {
				best = run
			}
			if run.Count > longest.Count {
				longest = run
			}
		}
		if best.Count == 0 {
			best = longest
		}
		best.Count = min(best.Count, count)
		m.set(best, false)
		taken = append(taken, best)
		count -= best.Count
	}
	return taken
}

// mayFree tells whether every page of run is allocated, in range and named once.
func (m *model) mayFree(runs []Run) bool {
	seen := map[uint64]bool{}
	for _, run := range runs {
		if run.Count == 0 || run.First < m.first || run.End() > m.first+uint64(len(m.free)) {
			return false
		}
		for page := run.First; page < run.End(); page++ {
			if m.free[page-m.first] || seen[page] {
				return false
			}
			seen[page] = true
		}
	}
	return true
}

// pair is a pool and the model of it; every step must leave them equal.
type pair struct {
	t     *testing.T
	pool  *Pool
	model *model
}

func newPair(t *testing.T, first, count uint64) *pair {
	pool, err := New(first, count)
	require.NoError(t, err)
	return &pair{t, pool, newModel(first, count)}
}

func (p *pair) alloc(count uint64) []Run {
	want := p.model.alloc(count)
	got, err := p.pool.Alloc(count)
	require.Equal(p.t, want == nil, err != nil, "alloc of %d: %v", count, err)
	require.Equal(p.t, want, got)
	p.check()
	return got
}

func (p *pair) release(runs []Run) {
	may := p.model.mayFree(runs)
	err := p.pool.Free(runs)
	require.Equal(p.t, may, err == nil, "free of %v: %v", runs, err)
	if may {
		for _, run := range runs {
			p.model.set(run, true)
		}
	}
	p.check()
}

func (p *pair) check() {
	var runs []Run
	walk(p.pool.byAddress.root, func(run Run) { runs = append(runs, run) })
	require.Equal(p.t, p.model.runs(), runs)
	var bySize []Run
	walk(p.pool.bySize.root, func(run Run) { bySize = append(bySize, run) })
	require.True(p.t, slices.IsSortedFunc(bySize, func(a, b Run) int {
		if p.pool.bySize.less(a, b) {
			return -1
		}
		return 1
	}))
	require.ElementsMatch(p.t, runs, bySize)
	require.Equal(p.t, p.model.stats(), p.pool.Stats())
}

func walk(n *node, visit func(Run)) {
	if n != nil {
		walk(n.left, visit)
		visit(n.run)
		walk(n.right, visit)
	}
}

func TestPoolEqualsModel(t *testing.T) {
	for seed := uint64(0); seed < 20; seed++ {
		rng := rand.New(rand.NewPCG(seed, 1))
		p := newPair(t, rng.Uint64N(1000), 1+rng.Uint64N(200))
		var held [][]Run
		for range 200 {
			if len(held) == 0 || rng.IntN(2) == 0 {
				if runs := p.alloc(rng.Uint64N(30)); runs != nil {
					held = append(held, runs)
				}
				continue
			}
			i := rng.IntN(len(held))
			p.release(held[i])
			held = slices.Delete(held, i, i+1)
		}
		for _, runs := range held {
			p.release(runs)
		}
		require.LessOrEqual(t, p.pool.Stats().FreeRuns, uint64(1))
	}
}

// FuzzPool reads two bytes a step: what to do, and with how many pages, or which.
func FuzzPool(f *testing.F) {
	f.Add([]byte{0, 10, 0, 20, 1, 3, 2, 0, 0, 40})
	f.Add([]byte{0, 64, 1, 0, 1, 0, 3, 60, 0, 255})
	f.Fuzz(func(t *testing.T, steps []byte) {
		p := newPair(t, 100, 64)
		for ; len(steps) >= 2; steps = steps[2:] {
			count, page := uint64(steps[1]), 90+uint64(steps[1])%90
			switch steps[0] % 4 {
			case 0:
				p.alloc(count)
			case 1:
				p.release([]Run{{page, 1}})
			case 2:
				p.release([]Run{{page, uint64(steps[0]) / 4}})
			case 3:
				p.release([]Run{{page, 2}, {page + uint64(steps[0])/64, 2}})
			}
		}
	})
}

// The trees must stay shallow whatever the order, or the promise of O(log n) fails.
func TestTreesStayShallow(t *testing.T) {
	const pages = 1 << 16
	p, err := New(0, pages)
	require.NoError(t, err)
	_, err = p.Alloc(pages)
	require.NoError(t, err)
	for page := uint64(0); page < pages; page += 2 {
		require.NoError(t, p.Free([]Run{{page, 1}}))
	}
	require.Equal(t, uint64(pages/2), p.Stats().FreeRuns)
	// A treap of 32768 nodes is some 35 deep; a list would be 32768.
	require.Less(t, depth(p.byAddress.root), 80)
	require.Less(t, depth(p.bySize.root), 80)
}

func depth(n *node) int {
	if n == nil {
		return 0
	}
	return 1 + max(depth(n.left), depth(n.right))
}
