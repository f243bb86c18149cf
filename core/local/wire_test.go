package local

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestMessagesOfTheHandshake(t *testing.T) {
	h := &hello{target: Instance{1}, from: Instance{2}, name: "host:1", rings: 3, direct: true}
	got, err := decodeHello(h.encode())
	require.NoError(t, err)
	require.Equal(t, h, got)
	w := &welcome{instance: Instance{3}, place: 5, entries: 7, rings: 2, direct: true, nonceAt: 1 << 40, nonce: [16]byte{9}}
	back, err := decodeWelcome(w.encode())
	require.NoError(t, err)
	require.Equal(t, w, back)
	r := ready{direct: true, secret: [16]byte{4}}
	said, err := decodeReady(append(r.encode(), "a later version's"...))
	require.NoError(t, err)
	require.Equal(t, r, said)
	for _, whole := range [][]byte{h.encode(), w.encode(), r.encode()} {
		for n := range whole {
			_, err1 := decodeHello(whole[:n])
			_, err2 := decodeWelcome(whole[:n])
			_, err3 := decodeReady(whole[:n])
			for _, err := range []error{err1, err2} {
				require.ErrorIs(t, err, ErrProtocol)
			}
			if n < len(r.encode()) {
				require.ErrorIs(t, err3, ErrProtocol)
			}
		}
	}
	other := h.encode()
	other[4] = Version + 1
	_, err = decodeHello(other)
	require.ErrorContains(t, err, "version")
}

func FuzzHandshake(f *testing.F) {
	f.Add((&hello{name: "x", rings: 1}).encode())
	f.Add((&welcome{entries: 1, rings: 1, refusal: "no"}).encode())
	f.Add(ready{direct: true}.encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		if h, err := decodeHello(b); err == nil {
			require.LessOrEqual(t, len(h.name), maxName)
		}
		if w, err := decodeWelcome(b); err == nil {
			require.Less(t, w.place, maxConns)
			require.LessOrEqual(t, w.entries, maxEntries)
			require.LessOrEqual(t, w.rings, maxRings)
		}
		decodeReady(b)
		rightsOf(b)
	})
}

// fuzzedTable is a view of a table whose bytes anybody may have written.
func fuzzedTable(b []byte) *tableView {
	const entries = 8
	mem := make([]byte, tableSize(entries))
	copy(mem[:tableFences], b)
	if len(b) > tableFences {
		copy(mem[tableEntries:], b[tableFences:])
	}
	return &tableView{&shm{mem: mem, fd: -1}, entries}
}

// A table is refused, or sorted, disjoint, and within its room.
func FuzzTable(f *testing.F) {
	x := &table{&shm{mem: make([]byte, tableSize(8))}, 8}
	x.publish([]Range{{4096, 8192, 1, true}, {8192, 8193, 2, false}})
	f.Add(append(x.mem[:tableFences:tableFences], x.mem[tableEntries:]...))
	f.Fuzz(func(t *testing.T, b []byte) {
		view := fuzzedTable(b)
		ix, err := view.read(func() bool { return true })
		if err != nil {
			return
		}
		require.LessOrEqual(t, len(ix.ranges), view.entries)
		var last uint64
		for _, r := range ix.ranges {
			require.LessOrEqual(t, last, r.Start)
			require.Less(t, r.Start, r.End)
			last = r.End
		}
		s := Slice{Remote: view.epoch(), Len: 10}
		if _, ok := ix.admits(&s, true, ^uint64(0), 3); ok {
			require.GreaterOrEqual(t, ix.seek(s.Remote, -1), 0)
		}
	})
}

func TestTable(t *testing.T) {
	x, err := newTable(3)
	require.NoError(t, err)
	defer x.close()
	view := &tableView{x.shm, 3}
	x.publish([]Range{{10, 20, 1, true}, {20, 30, 4, true}, {50, 60, 2, false}, {70, 80, 9, true}})
	ix, err := view.read(func() bool { return true })
	require.NoError(t, err)
	require.Len(t, ix.ranges, 3, "no more than there is room for")
	require.EqualValues(t, 4, view.epoch())
	for _, c := range []struct {
		at, n, epoch uint64
		write, ok    bool
	}{
		{10, 10, 1, true, true}, {10, 11, 1, true, false}, {10, 20, 4, true, true}, {10, 21, 9, true, false},
		{9, 2, 9, true, false}, {30, 1, 9, true, false}, {50, 10, 2, false, true}, {50, 10, 2, true, false}, {59, 1, 1, false, false},
	} {
		for hint := -1; hint < 4; hint++ {
			_, ok := ix.admits(&Slice{Remote: c.at, Len: c.n}, c.write, c.epoch, hint)
			require.Equal(t, c.ok, ok, "%+v", c)
		}
	}
	require.Equal(t, ix.generation, view.generation())
	x.publish(nil)
	require.NotEqual(t, ix.generation, view.generation())
	x.u64(tableGeneration).Add(1) // in the middle of a change, for ever
	_, err = view.read(func() bool { return true })
	require.ErrorIs(t, err, errEnough)
	require.NotErrorIs(t, err, ErrPeer, "the reader had no patience")
	_, err = view.read(func() bool { return false })
	require.ErrorIs(t, err, ErrPeer)
}

// A reader that was held up itself does not take the target for one that has stopped.
func TestTableReadByOneThatWasAway(t *testing.T) {
	x, err := newTable(3)
	require.NoError(t, err)
	defer x.close()
	view := &tableView{x.shm, 3}
	x.publish([]Range{{10, 20, 1, true}})
	generation := x.u64(tableGeneration)
	for name, end := range map[string]func(look int) bool{
		"the change ends meanwhile": func(look int) bool { return look == 1 },
		"and soon after":            func(look int) bool { return look == 10 },
	} {
		generation.Add(1)
		looks := 0
		ix, err := view.read(func() bool {
			if looks++; looks == 1 {
				time.Sleep(readPatience + 100*time.Millisecond)
			}
			if end(looks) {
				generation.Add(1)
			}
			return false
		})
		require.NoError(t, err, name)
		require.Len(t, ix.ranges, 1)
	}
}

// A target whose table changes all the time goes on, however long that takes.
func TestTableThatKeepsChanging(t *testing.T) {
	x, err := newTable(3)
	require.NoError(t, err)
	defer x.close()
	view := &tableView{x.shm, 3}
	generation := x.u64(tableGeneration)
	generation.Add(1)
	began := time.Now()
	_, err = view.read(func() bool {
		if time.Since(began) < 2*readPatience {
			generation.Add(2) // the next change, and in the middle of it again
		} else if generation.Load()&1 == 1 {
			generation.Add(1)
		}
		return false
	})
	require.NoError(t, err)
}
