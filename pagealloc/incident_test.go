package pagealloc

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/pkg/errors"
	"github.com/stretchr/testify/require"
)

// incident is the load of the incident. In each of three passes over one pool, 1000 requests with
// prompts of 200 to 2000 tokens wait in a queue. The first one begins when fewer than
// 256 run and the pool has pages for its prompt. In every step of decoding each request that
// runs gets one token, in the order in which they began, and a page when its last one is full; it ends after output/2 to
// output tokens (all of them equally likely) and gives its pages back. The next pass begins when the last request has ended.
type incident struct {
	pool     Allocator
	pageSize uint64 // tokens of a page
	output   uint64
	room     uint64 // pages that a request asks to be set aside
	rng      *rand.Rand
	begun    uint64 // requests, in all passes
	running  []decoding
	batch    struct{ requests, pages []uint64 } // what one step of decoding asks for
	ended    uint64                             // requests
	runs     uint64                             // that they had in the end
	scratch  []Run
}

const (
	incidentTokens   = 400_000 // of the pool
	incidentRequests = 1000
	incidentRunning  = 256
	incidentPasses   = 3
)

// decoding is a request that runs.
type decoding struct {
	request       uint64
	tokens, pages uint64
	left          uint64 // tokens until it ends
}

func newIncident(pool Allocator, pageSize, output, room uint64) *incident {
	return &incident{pool: pool, pageSize: pageSize, output: output, room: room, rng: rand.New(rand.NewPCG(1, 1))}
}

// newIncidentPool makes the pool that an incident needs.
func newIncidentPool(t testing.TB, kind Kind, pageSize uint64) Allocator {
	p, err := NewKind(kind, 0, incidentTokens/pageSize)
	require.NoError(t, err)
	return p
}

// pass runs one pass and returns the mean run: the tokens that the pages of all prompts hold, divided by
// the runs that those pages are in when their requests begin. These are the pages that prefill sends
// its result to, and so many pieces it has to be cut into, at least.
func (in *incident) pass(t testing.TB) float64 {
	waiting := make([]uint64, incidentRequests)
	for i := range waiting {
		waiting[i] = 200 + in.rng.Uint64N(1801)
	}
	pages, runs := uint64(0), 0
	for len(waiting) > 0 || len(in.running) > 0 {
		for len(waiting) > 0 && len(in.running) < incidentRunning {
			count, got := in.begin(t, waiting[0])
			if got == 0 {
				break
			}
			pages, runs, waiting = pages+count, runs+got, waiting[1:]
		}
		in.step(t)
	}
	return float64(pages*in.pageSize) / float64(runs)
}

// begin gives a prompt its pages; 0 runs when there are too few.
func (in *incident) begin(t testing.TB, tokens uint64) (pages uint64, runs int) {
	pages = (tokens + in.pageSize - 1) / in.pageSize
	got, err := in.pool.Alloc(in.begun, pages, in.room)
	if errors.Is(err, ErrExhausted) {
		return pages, 0
	}
	require.NoError(t, err)
	least := in.output / 2
	in.running = append(in.running, decoding{
		request: in.begun, tokens: tokens, pages: pages,
		left: least + in.rng.Uint64N(in.output-least+1),
	})
	in.begun++
	return pages, len(got)
}

// step decodes one token of every request that runs.
func (in *incident) step(t testing.TB) {
	in.batch.requests = in.batch.requests[:0]
	for i := range in.running {
		r := &in.running[i]
		r.tokens++
		r.left--
		if r.tokens > r.pages*in.pageSize {
			r.pages++
			in.batch.requests = append(in.batch.requests, r.request)
		}
	}
	if n := len(in.batch.requests); n > len(in.batch.pages) {
		in.batch.pages = make([]uint64, 2*n)
	}
	require.NoError(t, in.pool.GrowBatch(in.batch.requests, nil, in.batch.pages))
	kept := in.running[:0]
	for _, r := range in.running {
		if r.left > 0 {
			kept = append(kept, r)
			continue
		}
		in.end(t, r.request)
	}
	in.running = kept
}

func (in *incident) end(t testing.TB, request uint64) {
	var err error
	in.scratch, err = in.pool.Runs(in.scratch[:0], request)
	require.NoError(t, err)
	in.runs += uint64(len(in.scratch))
	in.ended++
	_, err = in.pool.Release(request)
	require.NoError(t, err)
}

// passes runs all of them.
func (in *incident) passes(t testing.TB) (means [incidentPasses]float64) {
	for i := range means {
		means[i] = in.pass(t)
	}
	return means
}

// TestIncident holds the pools to the figures of the design; with -v it prints the table.
func TestIncident(t *testing.T) {
	outputs := []uint64{5, 512}
	t.Log("mean run of a prompt's pages when its request begins, in tokens, in passes 1 / 2 / 3")
	t.Log("| page size | pool | 5 output tokens | 512 output tokens |")
	t.Log("|---|---|---|---|")
	for _, pageSize := range []uint64{1, 16, 64} {
		for _, pool := range []struct {
			name string
			kind Kind
		}{{"fifo", KindFIFO}, {"sorted", KindSorted}, {"runs", KindRuns}} {
			var cells []string
			for _, output := range outputs {
				means := newIncident(newIncidentPool(t, pool.kind, pageSize), pageSize, output, 0).passes(t)
				holdToDesign(t, pool.kind, pageSize, output, means)
				cells = append(cells, fmt.Sprintf("%.1f / %.1f / %.1f", means[0], means[1], means[2]))
			}
			t.Logf("| %d | %s | %s | %s |", pageSize, pool.name, cells[0], cells[1])
		}
	}
}

func holdToDesign(t *testing.T, kind Kind, pageSize, output uint64, means [incidentPasses]float64) {
	switch {
	case kind == KindRuns:
		for _, mean := range means {
			require.GreaterOrEqual(t, mean, 1000.0, "page size %d, %d output tokens: %v", pageSize, output, means)
		}
	case kind == KindFIFO && pageSize == 1 && output == 512:
		for i, want := range []float64{3.7, 1.4, 1.1} {
			require.InDelta(t, want, means[i], 0.15*want, "the incident is not reproduced: %v", means)
		}
	case kind == KindFIFO && pageSize == 1 && output == 5:
		for i, want := range []float64{220, 64, 38} {
			require.InDelta(t, want, means[i], 0.15*want, "the incident is not reproduced: %v", means)
		}
	}
}

// Whatever room requests ask for, prompts keep long runs, and what requests grow by, 384 tokens on
// average, does not fall apart either.
func TestIncidentWithRoom(t *testing.T) {
	for room, most := range map[uint64]float64{0: 12, 256: 4, 512: 4, 100_000: 6} {
		in := newIncident(newIncidentPool(t, KindRuns, 1), 1, 512, room)
		means := in.passes(t)
		atEnd := float64(in.runs) / float64(in.ended)
		t.Logf("room %d: mean run %.0f / %.0f / %.0f, %.1f runs when a request ends", room, means[0], means[1], means[2], atEnd)
		for _, mean := range means {
			require.GreaterOrEqual(t, mean, 500.0, "room %d: %v", room, means)
		}
		require.Less(t, atEnd, most, "room %d", room)
	}
}
