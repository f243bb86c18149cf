package local

import (
	"runtime"
	"sort"
	"sync/atomic"
	"time"

	"github.com/pkg/errors"
)

// The table is what the target tells every initiator on this host, in shared
// memory that only the target can write:
//
//	0     generation, changed before and after every change, odd meanwhile
//	64    epoch of the last registration
//	72    number of entries
//	80    1 when the target closes
//	4096  for each connection, how often it was fenced off
//	8192  entries of 32 bytes, sorted: start, end, epoch, flags
const (
	tableGeneration = 0
	tableEpoch      = 64
	tableCount      = 72
	tableClosing    = 80
	tableFences     = 4096
	tableEntries    = 8192
	entrySize       = 32
	entryWritable   = 1

	// maxConns is how many connections the table has room for.
	maxConns = (tableEntries - tableFences) / 8
)

func tableSize(entries int) int { return tableEntries + entries*entrySize }

// table is the target's side.
type table struct {
	*shm
	entries int
}

func newTable(entries int) (*table, error) {
	s, err := createShm("mooncake-table", tableSize(entries), sealMine)
	if err != nil {
		return nil, err
	}
	return &table{s, entries}, nil
}

// fence counts the fences of the connection in one place of the table.
func (t *table) fence(place int) *atomic.Uint64 { return t.u64(tableFences + 8*place) }

// publish replaces the entries; ranges are sorted and disjoint. One caller at a time.
// Ranges beyond the table's room are left out: peers see them as not registered.
func (t *table) publish(ranges []Range) {
	generation := t.u64(tableGeneration)
	generation.Add(1)
	n := min(len(ranges), t.entries)
	epoch := t.u64(tableEpoch).Load()
	for i, r := range ranges[:n] {
		at := tableEntries + i*entrySize
		var flags uint64
		if r.Writable {
			flags |= entryWritable
		}
		for k, v := range [...]uint64{r.Start, r.End, r.Epoch, flags} {
			t.u64(at + 8*k).Store(v)
		}
		epoch = max(epoch, r.Epoch)
	}
	t.u64(tableCount).Store(uint64(n))
	t.u64(tableEpoch).Store(epoch)
	generation.Add(1)
}

// index is an initiator's copy of the table at one generation.
type index struct {
	generation uint64
	ranges     []Range
}

// tableView is the initiator's side. Everything in it may be wrong.
type tableView struct {
	*shm
	entries int
}

func (t *tableView) generation() uint64      { return t.u64(tableGeneration).Load() }
func (t *tableView) epoch() uint64           { return t.u64(tableEpoch).Load() }
func (t *tableView) fences(place int) uint64 { return t.u64(tableFences + 8*place).Load() }

func (t *tableView) closing() bool { return t.u64(tableClosing).Load() != 0 }

const (
	// A change takes a few ns an entry. A table that stays in the middle of one for
	// so long belongs to a process that is stopped, or gone.
	readPatience = time.Second
	readPause    = 50 * time.Microsecond
	// mostPause is what a pause counts for at most: when it took longer this process did
	// not run, and it says nothing about the other one.
	mostPause  = 10 * time.Millisecond
	quickLooks = 20 // before the first pause
)

// errEnough: what wanted to know has ended meanwhile. Nothing is wrong with the peer.
var errEnough = errors.New("not needed any more")

// read copies the table. It waits for the end of a change; with errEnough it stops when
// enough says so, but only where there is none to be had.
func (t *tableView) read(enough func() bool) (*index, error) {
	var seen uint64
	var waited time.Duration // in the middle of the change that was seen
	for look := 0; ; look++ {
		before := t.generation()
		if before&1 == 0 {
			ix, err := t.copy(before)
			if t.generation() == before {
				return ix, err
			}
		}
		if before != seen { // it moves
			seen, waited = before, 0
		}
		switch {
		case look < quickLooks:
			runtime.Gosched()
			continue
		case enough():
			return nil, errEnough
		case waited >= readPatience:
			return nil, errors.WithMessage(ErrPeer, "it stopped in the middle of a change of its memory")
		}
		began := time.Now()
		time.Sleep(readPause)
		waited += min(time.Since(began), mostPause)
	}
}

func (t *tableView) copy(generation uint64) (*index, error) {
	n := t.u64(tableCount).Load()
	if n > uint64(t.entries) {
		return nil, errors.WithMessagef(ErrProtocol, "a table of %d entries with room for %d", n, t.entries)
	}
	ix := &index{generation: generation, ranges: make([]Range, n)}
	var last uint64
	for i := range ix.ranges {
		at := tableEntries + i*entrySize
		r := Range{Start: t.u64(at).Load(), End: t.u64(at + 8).Load(), Epoch: t.u64(at + 16).Load(),
			Writable: t.u64(at+24).Load()&entryWritable != 0}
		if r.Start < last || r.End <= r.Start {
			return nil, errors.WithMessagef(ErrProtocol, "entry %d of the table is [%#x, %#x), after one that ends at %#x", i, r.Start, r.End, last)
		}
		last = r.End
		ix.ranges[i] = r
	}
	return ix, nil
}

// seek returns the index of the range that holds addr, or -1. hint is the answer
// to the last question.
func (ix *index) seek(addr uint64, hint int) int {
	if hint >= 0 && hint < len(ix.ranges) && ix.ranges[hint].Start <= addr && addr < ix.ranges[hint].End {
		return hint
	}
	i := sort.Search(len(ix.ranges), func(i int) bool { return ix.ranges[i].End > addr })
	if i < len(ix.ranges) && ix.ranges[i].Start <= addr {
		return i
	}
	return -1
}

// admits tells whether a posting that began at epoch may touch all of a slice's
// remote side: every byte is registered since then, writable for a write. It
// returns where to look for the next one first.
func (ix *index) admits(s *Slice, write bool, epoch uint64, hint int) (next int, ok bool) {
	first := ix.seek(s.Remote, hint)
	if first < 0 {
		return -1, false
	}
	end := s.Remote + s.Len
	for i := first; ; i++ {
		r := &ix.ranges[i]
		if r.Epoch > epoch || (write && !r.Writable) {
			return first, false
		}
		if end <= r.End {
			return first, true
		}
		if i+1 == len(ix.ranges) || ix.ranges[i+1].Start != r.End {
			return first, false
		}
	}
}
