package pagealloc

import (
	"fmt"
	"math"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// kinds makes an allocator of each kind.
func kinds(t testing.TB, first, count uint64) map[string]Allocator {
	t.Helper()
	made := map[string]Allocator{}
	for name, kind := range map[string]Kind{"runs": KindRuns, "fifo": KindFIFO, "sorted": KindSorted} {
		p, err := NewKind(kind, first, count)
		require.NoError(t, err)
		made[name] = p
	}
	return made
}

func TestNewRefuses(t *testing.T) {
	for _, kind := range []Kind{KindRuns, KindFIFO, KindSorted} {
		_, err := NewKind(kind, 5, 0)
		require.ErrorIs(t, err, ErrArgument)
		_, err = NewKind(kind, math.MaxUint64, 2)
		require.ErrorIs(t, err, ErrArgument)
	}
	_, err := NewKind(3, 0, 10)
	require.ErrorIs(t, err, ErrArgument)
	_, err = NewFIFO(0, mostListed+1)
	require.ErrorIs(t, err, ErrArgument)
	p, err := New(0, math.MaxUint64)
	require.NoError(t, err)
	require.Equal(t, []Run{{0, math.MaxUint64}}, alloc(t, p, 1, math.MaxUint64, math.MaxUint64))
}

func TestRequestsThatAreRefused(t *testing.T) {
	for name, p := range kinds(t, 50, 100) {
		t.Run(name, func(t *testing.T) {
			alloc(t, p, 1, 60, 0)
			before := p.Stats()
			refused := []struct {
				call func() error
				is   error
				text string
			}{
				{func() error { _, err := p.Alloc(2, 0, 0); return err }, ErrArgument, "alloc of 0 pages for request 2"},
				{func() error { return p.AllocPages(2, 0, nil) }, ErrArgument, "alloc of 0 pages for request 2"},
				{func() error { _, err := p.Alloc(Anyone, 1, 0); return err }, ErrArgument, "any request"},
				{func() error { _, err := p.Alloc(1, 1, 0); return err }, ErrExists, "alloc of 1 pages for request 1"},
				{func() error { _, err := p.Alloc(2, 41, 0); return err }, ErrExhausted, "alloc of 41 pages for request 2: 40 are free"},
				{func() error { _, err := p.Alloc(2, math.MaxUint64, 0); return err }, ErrExhausted, "40 are free"},
				{func() error { _, err := p.Grow(1, 41); return err }, ErrExhausted, "growth by 41 pages of request 1: 40 are free"},
				{func() error { _, err := p.Grow(1, math.MaxUint64); return err }, ErrExhausted, "request 1"},
				{func() error { _, err := p.Grow(2, 1); return err }, ErrUnknown, "growth by 1 pages of request 2"},
				{func() error { _, err := p.Grow(Anyone, 1); return err }, ErrUnknown, "request holds no pages"},
				{func() error { _, err := p.Release(2); return err }, ErrUnknown, "release of request 2"},
				{func() error { _, err := p.Release(Anyone); return err }, ErrUnknown, "release"},
				{func() error { _, err := p.Runs(nil, 2); return err }, ErrUnknown, "runs of request 2"},
				{func() error { _, err := p.Reserve(2, 1); return err }, ErrUnknown, "room of request 2"},
			}
			for _, test := range refused {
				err := test.call()
				require.ErrorIs(t, err, test.is)
				require.ErrorContains(t, err, test.text)
				var typed *RequestError
				require.ErrorAs(t, err, &typed)
				require.Equal(t, before, p.Stats(), "a refused call changed something")
			}
			got, err := p.Grow(1, 0)
			require.NoError(t, err)
			require.Empty(t, got)
		})
	}
}

func TestFreeRefuses(t *testing.T) {
	tests := map[string]struct {
		request uint64
		runs    []Run
		is      error
		page    uint64
		text    string
	}{
		"free already":            {1, []Run{{60, 1}}, ErrNotAllocated, 60, "free of page 60 of request 1: page is not allocated"},
		"end is free":             {1, []Run{{55, 6}}, ErrNotAllocated, 60, ""},
		"start is free":           {1, []Run{{64, 3}}, ErrNotAllocated, 64, ""},
		"free ones in the middle": {1, []Run{{55, 15}}, ErrNotAllocated, 60, ""},
		"of another request":      {1, []Run{{69, 2}}, ErrHolder, 70, "free of page 70 of request 1: request 2 has it: page belongs to another request"},
		"of no request there is":  {3, []Run{{50, 1}}, ErrHolder, 50, "free of page 50 of request 3: request 1 has it"},
		"twice in the call":       {1, []Run{{50, 2}, {51, 1}}, ErrArgument, 51, "page 51 is listed twice"},
		"empty run":               {1, []Run{{50, 0}}, ErrArgument, 50, "the run from page 50 is empty"},
		"below the pool":          {1, []Run{{49, 2}}, ErrForeign, 49, "free of page 49 of request 1: the pool has pages 50 to 149: page is outside the pool"},
		"above the pool":          {1, []Run{{150, 1}}, ErrForeign, 150, ""},
		"reaching out of it":      {2, []Run{{148, 5}}, ErrForeign, 150, ""},
		"far above":               {1, []Run{{1 << 60, 1}}, ErrForeign, 1 << 60, ""},
		"past the numbers":        {1, []Run{{math.MaxUint64, 1}}, ErrArgument, math.MaxUint64, "passes the last page number"},
		"good one beside bad one": {1, []Run{{50, 2}, {60, 1}}, ErrNotAllocated, 60, ""},
		"whoever, but nobody":     {Anyone, []Run{{50, 11}}, ErrNotAllocated, 60, "free of page 60: page is not allocated"},
	}
	for kind, p := range kinds(t, 50, 100) {
		alloc(t, p, 1, 20, 0) // 50..69
		alloc(t, p, 2, 80, 0) // 70..149
		require.NoError(t, p.Free(1, []Run{{60, 5}}))
		before := p.Stats()
		for name, test := range tests {
			t.Run(kind+", "+name, func(t *testing.T) {
				err := p.Free(test.request, test.runs)
				require.ErrorIs(t, err, test.is)
				require.ErrorContains(t, err, test.text)
				var typed *PageError
				require.ErrorAs(t, err, &typed)
				require.Equal(t, PageError{test.page, test.request, typed.err}, *typed)
				require.Equal(t, before, p.Stats(), "a refused call freed something")
			})
		}
		require.NoError(t, p.Free(1, nil))
		require.NoError(t, p.Free(77, nil))
		err := p.FreePages(1, []uint64{52, 51, 50, 60})
		require.ErrorIs(t, err, ErrNotAllocated)
		require.NoError(t, p.FreePages(1, []uint64{52, 50, 51}))
		require.NoError(t, p.FreePages(Anyone, []uint64{149, 53}))
		runs, err := p.Runs(nil, 1)
		require.NoError(t, err)
		require.Equal(t, []Run{{54, 6}, {65, 5}}, runs)
	}
}

func TestStats(t *testing.T) {
	for name, p := range kinds(t, 0, 64) {
		t.Run(name, func(t *testing.T) {
			s := p.Stats()
			require.Equal(t, Stats{Pages: 64, FreePages: 64, FreeRuns: 1, LongestRun: 64, Histogram: [64]uint64{6: 1}}, s)
			require.Zero(t, s.Fragmentation())
			alloc(t, p, 1, 64, 0)
			s = p.Stats()
			require.Equal(t, Stats{Pages: 64, Requests: 1, AllocatedRuns: 1}, s)
			require.Equal(t, uint64(64), s.AllocatedPages())
			require.Zero(t, s.Fragmentation())
			require.NoError(t, p.Free(1, []Run{{1, 1}, {10, 3}, {20, 8}, {40, 4}}))
			s = p.Stats()
			require.Equal(t, Stats{Pages: 64, FreePages: 16, FreeRuns: 4, LongestRun: 8, Requests: 1, AllocatedRuns: 5,
				Histogram: [64]uint64{0: 1, 1: 1, 2: 1, 3: 1}}, s)
			require.InDelta(t, 0.5, s.Fragmentation(), 1e-9)
			pages, err := p.Release(1)
			require.NoError(t, err)
			require.Equal(t, uint64(48), pages)
			require.Equal(t, uint64(64), p.Stats().FreePages)
			require.Zero(t, p.Stats().Requests)
		})
	}
}

// Goroutines write to what they hold; with the race detector, a page that two hold is found.
func TestConcurrentUse(t *testing.T) {
	const users, pages = 8, 4000
	for name, p := range kinds(t, 0, pages) {
		t.Run(name, func(t *testing.T) {
			memory := make([]int, pages)
			var all sync.WaitGroup
			failed := make(chan error, users)
			for user := range uint64(users) {
				all.Go(func() { failed <- use(p, user, memory) })
			}
			all.Wait()
			for range users {
				require.NoError(t, <-failed)
			}
			s := p.Stats()
			require.Equal(t, uint64(pages), s.FreePages)
			require.Zero(t, s.Requests)
			require.Zero(t, s.ReservedPages)
		})
	}
}

// use allocates, grows and frees, and writes to every page what it is used for.
func use(p Allocator, user uint64, memory []int) error {
	for round := range uint64(60) {
		request, twin := 2*user, 2*user+1
		pages := make([]uint64, 100)
		if err := p.AllocPages(request, 20, pages[:60]); err != nil {
			return err
		}
		if err := p.AllocPages(twin, 0, pages[60:90]); err != nil {
			return err
		}
		if err := p.GrowBatch([]uint64{request, twin}, []uint64{4, 6}, pages[90:]); err != nil {
			return err
		}
		for _, page := range pages {
			memory[page] = int(user)
		}
		p.Stats()
		for _, page := range pages {
			if memory[page] != int(user) {
				return fmt.Errorf("page %d of user %d is also %d's", page, user, memory[page])
			}
		}
		for _, page := range pages {
			memory[page] = -1
		}
		if err := p.FreePages(request, pages[round%60:60]); err != nil {
			return err
		}
		if err := p.Free(twin, []Run{{pages[60], 1}}); err != nil {
			return err
		}
		for _, each := range []uint64{request, twin} {
			if _, err := p.Release(each); err != nil {
				return err
			}
		}
	}
	return nil
}
