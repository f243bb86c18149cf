package pagealloc

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// model is the naive allocator: it has the number of each page's request, and each
// request's pages one by one, and finds everything else by scanning. The rules are
// those of the package comment, told again.
type model struct {
	pages    Run
	holder   []int // by page: index of the request; -1 for a free page
	requests []*modelRequest
}

type modelRequest struct {
	request uint64
	pages   []uint64 // in its order
	room    uint64
	grown   uint64
}

// modelGap is a maximal run of free pages and what of it is set aside.
type modelGap struct {
	Run
	room  uint64
	owner *modelRequest // of the room; nil if there is none
}

func newModel(first, count uint64) *model {
	return &model{pages: Run{first, count}, holder: slices.Repeat([]int{-1}, int(count))}
}

func (m *model) find(request uint64) *modelRequest {
	for _, r := range m.requests {
		if r != nil && r.request == request {
			return r
		}
	}
	return nil
}

func (m *model) at(page uint64) *modelRequest {
	if i := m.holder[page-m.pages.First]; i >= 0 {
		return m.requests[i]
	}
	return nil
}

func (m *model) gaps() []modelGap {
	var gaps []modelGap
	for page := m.pages.First; page < m.pages.End(); page++ {
		switch {
		case m.at(page) != nil:
		case page > m.pages.First && m.at(page-1) == nil:
			gaps[len(gaps)-1].Count++
		default:
			gaps = append(gaps, modelGap{Run: Run{page, 1}})
			if page == m.pages.First {
				break
			}
			if r := m.at(page - 1); r.pages[len(r.pages)-1] == page-1 && r.room > 0 {
				gaps[len(gaps)-1].room, gaps[len(gaps)-1].owner = r.room, r
			}
		}
	}
	return gaps
}

func (m *model) free() (count uint64) {
	for _, g := range m.gaps() {
		count += g.Count
	}
	return count
}

func (m *model) alloc(request, count, room uint64) []Run {
	m.requests = append(m.requests, &modelRequest{request: request})
	return m.place(len(m.requests)-1, count, room)
}

func (m *model) give(index int, run Run) {
	for page := run.First; page < run.End(); page++ {
		m.holder[page-m.pages.First] = index
		m.requests[index].pages = append(m.requests[index].pages, page)
	}
}

// best is the gap of which size is the smallest that is at least least, or else the largest; the lowest of equals.
func best(gaps []modelGap, least uint64, size func(modelGap) uint64) (found modelGap) {
	for _, g := range gaps {
		have, got := size(g), size(found)
		switch {
		case got >= least && have >= least && have < got, got < least && have > got:
			found = g
		}
	}
	return found
}

func (m *model) place(index int, count, room uint64) (taken []Run) {
	r := m.requests[index]
	open := func(g modelGap) uint64 { return g.Count - g.room }
	all := func(g modelGap) uint64 { return g.Count }
	for count > 0 {
		run := Run{Count: count}
		r.room = 0
		if g := best(m.gaps(), count+room, open); open(g) >= count {
			run.First = g.First + g.room
			r.room = min(room, open(g)-count)
		} else if g := best(m.gaps(), count+room, all); g.Count >= count {
			rest := g.Count - count
			r.room = min(room, rest/2)
			run.First = g.First + rest - r.room
			if g.owner != nil {
				g.owner.room = min(g.room, rest-r.room)
			}
		} else {
			run = g.Run
			if g.owner != nil {
				g.owner.room = 0
			}
		}
		m.give(index, run)
		taken = append(taken, run)
		count -= run.Count
	}
	return taken
}

func (m *model) grow(request, count uint64) (taken []Run) {
	r := m.find(request)
	room := max(2, min(r.grown/2, 64))
	r.grown += count
	behind := m.behind(r)
	if n := min(count, behind.Count); n > 0 {
		switch {
		case n == behind.Count:
			r.room = 0
		case n <= r.room:
			r.room -= n
		default:
			r.room = min(room, behind.Count-n)
		}
		taken = append(taken, Run{behind.First, n})
		m.give(slices.Index(m.requests, r), taken[0])
		count -= n
	}
	if count == 0 {
		return taken
	}
	return append(taken, m.place(slices.Index(m.requests, r), count, room)...)
}

// behind is the gap behind r's last page; empty if there is none.
func (m *model) behind(r *modelRequest) modelGap {
	for _, g := range m.gaps() {
		if g.First == r.pages[len(r.pages)-1]+1 {
			return g
		}
	}
	return modelGap{}
}

func (m *model) reserve(request, room uint64) uint64 {
	r := m.find(request)
	r.room = min(room, m.behind(r).Count)
	return r.room
}

// refusal tells whether request may free the pages of runs: nil, or why not, and the page
// that the error has to name: the first one at fault of the first maximal run with such a page,
// and one outside the pool before the others.
func (m *model) refusal(request uint64, runs []Run) (err error, page uint64) {
	named := map[uint64]bool{}
	sorted := slices.SortedFunc(slices.Values(runs), func(a, b Run) int { return cmp.Compare(a.First, b.First) })
	for _, run := range sorted {
		if run.Count == 0 || named[run.First] {
			return ErrArgument, run.First
		}
		for page := run.First; page < run.End(); page++ {
			named[page] = true
		}
	}
	pages := slices.Sorted(maps.Keys(named))
	for start := 0; start < len(pages); {
		end := start + 1
		for end < len(pages) && pages[end] == pages[end-1]+1 {
			end++
		}
		for _, page := range pages[start:end] {
			if page < m.pages.First || page >= m.pages.End() {
				return ErrForeign, page
			}
		}
		for _, page := range pages[start:end] {
			switch r := m.at(page); {
			case r == nil:
				return ErrNotAllocated, page
			case request != Anyone && r.request != request:
				return ErrHolder, page
			}
		}
		start = end
	}
	return nil, 0
}

// give back frees pages that refusal has nothing against, in the order of their numbers.
func (m *model) giveBack(runs []Run) {
	pages := Pages(runs)
	slices.Sort(pages)
	for len(pages) > 0 {
		r := m.at(pages[0])
		// The pages that follow each other in the request as well.
		at := slices.Index(r.pages, pages[0])
		n := 1
		for n < len(pages) && at+n < len(r.pages) && pages[n] == pages[n-1]+1 && r.pages[at+n] == pages[n] {
			n++
		}
		if at+n == len(r.pages) {
			// All of its last run, or the end of that: then they go to the room, if there is one.
			if at == 0 || r.pages[at-1]+1 != pages[0] || r.room == 0 {
				r.room = 0
			} else {
				r.room += uint64(n)
			}
		}
		r.pages = slices.Delete(r.pages, at, at+n)
		for _, page := range pages[:n] {
			m.holder[page-m.pages.First] = -1
		}
		if len(r.pages) == 0 {
			m.requests[slices.Index(m.requests, r)] = nil
		}
		pages = pages[n:]
	}
}

func (m *model) release(request uint64) uint64 {
	r := m.find(request)
	count := len(r.pages)
	m.giveBack(appendPages(nil, r.pages))
	return uint64(count)
}

func (m *model) stats() Stats {
	s := Stats{Pages: m.pages.Count}
	for _, g := range m.gaps() {
		s.FreePages += g.Count
		s.ReservedPages += g.room
		s.FreeRuns++
		s.LongestRun = max(s.LongestRun, g.Count)
		for k := range s.Histogram {
			if g.Count >= 1<<k && g.Count>>k < 2 {
				s.Histogram[k]++
			}
		}
	}
	for _, r := range m.requests {
		if r != nil {
			s.Requests++
			s.AllocatedRuns += uint64(len(appendPages(nil, r.pages)))
		}
	}
	return s
}

// pair is a pool and the model of it. Every step does the same with both, and compares
// what they answer and what they are afterwards.
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

// refused checks that a call failed for this reason, and that its message has the request's number.
func (p *pair) refused(want, err error, request uint64) bool {
	if want == nil {
		require.NoError(p.t, err)
		return false
	}
	require.ErrorIs(p.t, err, want)
	var typed *RequestError
	require.ErrorAs(p.t, err, &typed)
	require.Equal(p.t, request, typed.Request)
	require.ErrorContains(p.t, err, fmt.Sprintf("request %d", request))
	return true
}

func (p *pair) alloc(request, count, room uint64) {
	var want error
	switch {
	case request == Anyone || count == 0:
		want = ErrArgument
	case p.model.find(request) != nil:
		want = ErrExists
	case count > p.model.free():
		want = ErrExhausted
	}
	var runs []Run
	if want == nil {
		runs = p.model.alloc(request, count, room)
	}
	if count%2 == 0 {
		got, err := p.pool.Alloc(request, count, room)
		p.refused(want, err, request)
		require.Equal(p.t, runs, got)
	} else {
		pages := make([]uint64, count)
		err := p.pool.AllocPages(request, room, pages)
		if !p.refused(want, err, request) {
			require.Equal(p.t, Pages(runs), pages)
		}
	}
	p.check()
}

// growth is why a request cannot grow.
func (p *pair) growth(request, count, free uint64) error {
	switch {
	case p.model.find(request) == nil:
		return ErrUnknown
	case count > free:
		return ErrExhausted
	}
	return nil
}

func (p *pair) grow(request, count uint64) {
	want := p.growth(request, count, p.model.free())
	got, err := p.pool.Grow(request, count)
	if !p.refused(want, err, request) {
		require.Equal(p.t, p.model.grow(request, count), got)
	}
	p.check()
}

func (p *pair) growBatch(requests, counts []uint64) {
	pages := slices.Repeat([]uint64{math.MaxUint64}, 600)
	free := p.model.free()
	for i, request := range requests {
		if want := p.growth(request, countOf(counts, i), free); want != nil {
			p.refused(want, p.pool.GrowBatch(requests, counts, pages), request)
			p.check()
			return
		}
		free -= countOf(counts, i)
	}
	require.NoError(p.t, p.pool.GrowBatch(requests, counts, pages))
	for i, request := range requests {
		want := Pages(p.model.grow(request, countOf(counts, i)))
		require.Equal(p.t, want, pages[:len(want)], "request %d", request)
		pages = pages[len(want):]
	}
	if len(pages) > 0 {
		require.Equal(p.t, uint64(math.MaxUint64), pages[0], "something was written behind the last page")
	}
	p.check()
}

func (p *pair) reserve(request, room uint64) {
	got, err := p.pool.Reserve(request, room)
	if !p.refused(p.growth(request, 0, 0), err, request) {
		require.Equal(p.t, p.model.reserve(request, room), got)
	}
	p.check()
}

func (p *pair) free(request uint64, runs ...Run) {
	want, page := p.model.refusal(request, runs)
	err := p.pool.Free(request, runs)
	if want == nil {
		require.NoError(p.t, err)
		p.model.giveBack(runs)
	} else {
		require.ErrorIs(p.t, err, want)
		var typed *PageError
		require.ErrorAs(p.t, err, &typed)
		require.Equal(p.t, page, typed.Page)
		require.Equal(p.t, request, typed.Request)
		require.ErrorContains(p.t, err, fmt.Sprintf("page %d", page))
	}
	p.check()
}

func (p *pair) release(request uint64) {
	got, err := p.pool.Release(request)
	if !p.refused(p.growth(request, 0, 0), err, request) {
		require.Equal(p.t, p.model.release(request), got)
	}
	p.check()
}

// check compares the two, and the pool's own records with each other.
func (p *pair) check() {
	var gaps []modelGap
	count := 0
	for s := p.pool.arena.spans[none].next; s != none; s = p.pool.arena.spans[s].next {
		if span := p.pool.arena.spans[s]; span.holder == isGap {
			gaps = append(gaps, modelGap{Run: span.Run, room: span.room})
		}
		count++
	}
	want := p.model.gaps()
	for i := range want {
		want[i].owner = nil
	}
	require.Equal(p.t, want, gaps)
	require.Equal(p.t, p.model.stats(), p.pool.Stats())
	for _, r := range p.model.requests {
		if r != nil {
			runs, err := p.pool.Runs(nil, r.request)
			require.NoError(p.t, err)
			require.Equal(p.t, appendPages(nil, r.pages), runs)
		}
	}
	invariants(p.t, p.pool, count)
}

// invariants checks that every span is in the trees that it should be in, in order; Stats has
// been called just before, so byCount knows every gap.
func invariants(t *testing.T, p *Pool, spans int) {
	gaps, open, held := 0, 0, 0
	for s := p.arena.spans[none].next; s != none; s = p.arena.spans[s].next {
		switch span := &p.arena.spans[s]; {
		case span.holder > isGap:
			held++
		default:
			require.Equal(t, span.Count, span.filed)
			require.LessOrEqual(t, span.room, span.Count)
			gaps++
			if span.open() > 0 {
				open++
			}
		}
	}
	require.Equal(t, spans, gaps+held)
	for _, tr := range []struct {
		tree *tree
		size int
	}{{&p.byAddress, held}, {&p.byOpen, open}, {&p.byCount, gaps}} {
		var keys [][2]uint64
		walk(tr.tree, tr.tree.root, func(s *span) { keys = append(keys, [2]uint64{tr.tree.key(s), s.First}) })
		require.Len(t, keys, tr.size)
		require.True(t, slices.IsSortedFunc(keys, func(a, b [2]uint64) int { return slices.Compare(a[:], b[:]) }))
	}
	unused := 0
	for s := p.arena.unused; s != none; s = p.arena.spans[s].next {
		unused++
	}
	require.Equal(t, len(p.arena.spans)-1, spans+unused, "spans were lost")
}

func walk(tr *tree, n int32, visit func(*span)) {
	if n != none {
		walk(tr, *tr.left(n), visit)
		visit(&tr.spans[n])
		walk(tr, *tr.right(n), visit)
	}
}
