package pagealloc

import (
	"fmt"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"
)

// The size of the pool that the costs are about: 10,000,000 tokens at page size 1.
const large = 10_000_000

// steady is a pool at work: a batch of requests that run, with 1000 pages each, and others that
// hold most of the rest and do nothing.
type steady struct {
	pool     Allocator
	requests []uint64
	pages    []uint64
	next     uint64
}

func newSteady(t testing.TB, kind Kind, pages uint64, running int) *steady {
	p, err := NewKind(kind, 0, pages)
	require.NoError(t, err)
	s := &steady{pool: p, pages: make([]uint64, running)}
	resting := pages - pages/20 - uint64(running)*1100
	for s.next = uint64(running); resting > 2000; s.next++ {
		count := 200 + s.next*7919%1801
		alloc(t, p, s.next, count, 0)
		resting -= count
	}
	for request := range uint64(running) {
		alloc(t, p, request, 1000, 0)
		s.requests = append(s.requests, request)
	}
	return s
}

// step is one step of decoding.
func (s *steady) step(t testing.TB) {
	if err := s.pool.GrowBatch(s.requests, nil, s.pages); err != nil {
		t.Fatal(err)
	}
}

// renew ends the request at place i and begins another one.
func (s *steady) renew(t testing.TB, i int, prompt []uint64) {
	if _, err := s.pool.Release(s.requests[i]); err != nil {
		t.Fatal(err)
	}
	s.next++
	s.requests[i] = s.next
	if err := s.pool.AllocPages(s.next, 0, prompt); err != nil {
		t.Fatal(err)
	}
}

func TestSteadyStateAllocatesNothing(t *testing.T) {
	s := newSteady(t, KindRuns, 400_000, 256)
	prompt := make([]uint64, 500)
	runs := make([]Run, 0, 100)
	i := 0
	round := func() {
		s.step(t)
		i = (i + 1) % len(s.requests)
		s.renew(t, i, prompt)
		s.step(t)
		s.pool.Stats()
		if err := s.pool.FreePages(s.requests[i], s.pages[i:i+1]); err != nil {
			t.Fatal(err)
		}
		var err error
		if runs, err = s.pool.Runs(runs[:0], s.requests[i]); err != nil {
			t.Fatal(err)
		}
		if _, err = s.pool.Reserve(s.requests[i], 16); err != nil {
			t.Fatal(err)
		}
	}
	for range 2000 {
		round() // until everything has been there once
	}
	require.Zero(t, testing.AllocsPerRun(1000, round))
	require.Zero(t, testing.AllocsPerRun(200, func() { s.step(t); s.pool.Stats() }))
}

// Nothing is kept for each page: ten million of them, in requests of a thousand, and a batch that grows in
// the midst of them.
func TestLargePoolsAreSmall(t *testing.T) {
	used := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := used()
	s := newSteady(t, KindRuns, large, 256)
	for range 500 {
		s.step(t)
	}
	stats := s.pool.Stats()
	require.Greater(t, stats.Requests, uint64(7_000))
	require.Greater(t, stats.AllocatedPages(), uint64(large*8/10))
	bytes := used() - before
	t.Logf("%d pages, %d requests, %d runs: %d bytes", stats.Pages, stats.Requests, stats.AllocatedRuns+stats.FreeRuns, bytes)
	require.Less(t, bytes, uint64(8<<20))
	runtime.KeepAlive(s)
}

func benchmarkKinds(b *testing.B, run func(b *testing.B, s *steady)) {
	for _, size := range []uint64{400_000, large} {
		for _, pool := range []struct {
			name string
			kind Kind
		}{{"runs", KindRuns}, {"fifo", KindFIFO}, {"sorted", KindSorted}} {
			b.Run(fmt.Sprintf("%s/%d", pool.name, size), func(b *testing.B) {
				s := newSteady(b, pool.kind, size, 256)
				b.ReportAllocs()
				b.ResetTimer()
				run(b, s)
			})
		}
	}
}

// BenchmarkStep is a step of decoding of 256 requests, a page each. Every 16384 pages the requests are replaced, outside
// the time.
func BenchmarkStep(b *testing.B) {
	prompt := make([]uint64, 1000)
	benchmarkKinds(b, func(b *testing.B, s *steady) {
		for n := 1; b.Loop(); n++ {
			s.step(b)
			if n%64 == 0 {
				b.StopTimer()
				for i := range s.requests {
					s.renew(b, i, prompt)
				}
				b.StartTimer()
			}
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(len(s.requests)), "ns/page")
	})
}

// BenchmarkRequest is a prompt of 1000 pages that comes and goes while others run, with all
// numbers written out.
func BenchmarkRequest(b *testing.B) {
	prompt := make([]uint64, 1000)
	benchmarkKinds(b, func(b *testing.B, s *steady) {
		for n := 0; b.Loop(); n++ {
			s.renew(b, n%len(s.requests), prompt)
		}
	})
}

// BenchmarkFree takes a page out of a request and puts it back at its end.
func BenchmarkFree(b *testing.B) {
	benchmarkKinds(b, func(b *testing.B, s *steady) {
		page := s.pages[:1]
		for n := 0; b.Loop(); n++ {
			i := n % len(s.requests)
			if err := s.pool.GrowBatch(s.requests[i:i+1], nil, page); err != nil {
				b.Fatal(err)
			}
			if err := s.pool.FreePages(s.requests[i], page); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkIncident is all three passes of the incident.
func BenchmarkIncident(b *testing.B) {
	for _, pool := range []struct {
		name string
		kind Kind
	}{{"runs", KindRuns}, {"fifo", KindFIFO}, {"sorted", KindSorted}} {
		for _, pageSize := range []uint64{1, 16, 64} {
			b.Run(fmt.Sprintf("%s/%d", pool.name, pageSize), func(b *testing.B) {
				var means [incidentPasses]float64
				for b.Loop() {
					means = newIncident(newIncidentPool(b, pool.kind, pageSize), pageSize, 512, 0).passes(b)
				}
				for i, mean := range means {
					b.ReportMetric(mean, fmt.Sprintf("tokens/run-%d", i+1))
				}
			})
		}
	}
}
