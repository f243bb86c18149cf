package local

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Long slices whose target does not empty its rings go past them.
func TestAStalledTargetIsReachedPastItsRings(t *testing.T) {
	each(t, []way{remoteWay("best", Best)}, func(t *testing.T, w way, write bool) {
		const n, size = 1024, 32 << 10
		p := newPair(t, w, 2*n*size)
		from := p.near
		if !write {
			from = p.far
		}
		from.fill(3)
		all := p.scattered(n, size)
		release := holdRings(t, p.server)
		src, _ := post(p.peer, write, all)
		// What is in a ring, or about to be, waits for the target.
		const waiting = maxRings * (slotsPerRing*maxPayload + 2*vectorBytes)
		eventually(t, "the rest", func() bool { bytes, _ := src.arrived(); return bytes+waiting >= n*size })
		release()
		src.well(t)
		same(t, all)
		_, packed := src.arrived()
		require.Positive(t, packed)
		require.LessOrEqual(t, packed, uint64(waiting))
	})
}

// Postings of long slices go the way that was faster, but for one now and then; those of
// short ones through rings in any case.
func TestTheFasterWayIsChosen(t *testing.T) {
	p := newPair(t, remoteWay("best", Best), 8<<20)
	long, short := p.scattered(128, 16<<10), p.scattered(5000, 512)
	for _, rings := range []bool{true, false} {
		packed := 0
		for i := range 3 * exploreEvery {
			p.peer.mu.Lock()
			// The time that it takes here does not count.
			p.peer.choice = choice{made: exploreFirst + i}
			p.peer.choice.took(true, 1000, 1000)
			p.peer.choice.took(false, 1000, map[bool]time.Duration{true: 1000, false: 700}[rings])
			p.peer.mu.Unlock()
			_, through := moved(t, p.peer, true, long).arrived()
			if through > 0 { // all, unless the target was too slow for a moment
				packed++
			}
			if i%16 == 0 {
				bytes, through := moved(t, p.peer, true, short).arrived()
				require.Equal(t, bytes, through)
			}
		}
		if rings {
			packed = 3*exploreEvery - packed
		}
		require.InDelta(t, 3, packed, 1, "explored")
	}
}

func TestTheBestOfTheLastPacesCounts(t *testing.T) {
	var c choice
	for i := range exploreFirst {
		require.Equal(t, i%2 == 0, c.rings(), "both in turn")
		c.took(i%2 == 0, 1000, time.Duration(2000+i))
	}
	require.True(t, c.rings(), "alike")
	c.took(false, 1000, 1000)
	require.False(t, c.rings(), "system calls were faster once")
	for range lastPaces {
		require.False(t, c.rings())
		c.took(false, 1000, 9000)
	}
	require.True(t, c.rings(), "and have not been since")
	for range lastPaces {
		c.took(true, 1000, 90_000)
	}
	require.False(t, c.rings())
	for c.made%exploreEvery != exploreEvery-1 {
		c.rings()
	}
	require.True(t, c.rings(), "tried again")
	c.took(true, 1000, 1000)
	require.True(t, c.rings())
}

// A thread that will wait moves the slices itself, in pieces as they come, and returns;
// what it moves is what others would have moved.
func TestDrivenPostings(t *testing.T) {
	each(t, everyWay, func(t *testing.T, w way, write bool) {
		p := newPair(t, w, 48<<20)
		for _, c := range []struct{ n, size int }{{1, 4096}, {300, 100}, {5000, 512}, {700, 32 << 10}} {
			from := p.near
			if !write {
				from = p.far
			}
			from.fill(byte(c.n))
			all := p.scattered(c.n, c.size)
			src := newSource(all)
			po := p.peer.Post(write, src)
			po.Driven = true
			for range 10 {
				src.publish(c.n / 10)
				po.Kick()
			}
			src.publish(-1)
			po.Seal()
			src.well(t)
			same(t, all)
		}
	})
}

// A driver comes back from a target that does not go on, and others may stop what it drives.
func TestADriverReturnsFromATargetThatStands(t *testing.T) {
	each(t, []way{remoteWay("packed", PackedOnly)}, func(t *testing.T, w way, write bool) {
		p := newPair(t, w, 32<<20)
		release := holdRings(t, p.server)
		src := newSource(p.scattered(16<<10, 1024)).publish(-1)
		po := p.peer.Post(write, src)
		po.Driven = true
		began := time.Now()
		po.Seal()
		require.Less(t, time.Since(began), patience)
		po.Stop(errStop)
		require.ErrorIs(t, src.end(t).Err, errStop)
		release()
		moved(t, p.peer, write, p.scattered(5000, 512))
	})
}

// A driver serves other postings in turn: theirs do not wait for the end of its own.
func TestADriverServesOthers(t *testing.T) {
	p := newPair(t, remoteWay("packed", PackedOnly), 64<<20)
	small := make(chan *source)
	go func() {
		defer close(small)
		for range 50 {
			src, _ := post(p.peer, true, one(p.near.addr()+60<<20, p.far.addr()+60<<20, 512))
			src.well(t)
		}
	}()
	for range 10 {
		src := newSource(p.scattered(14<<10, 2048)).publish(-1)
		po := p.peer.Post(true, src)
		po.Driven = true
		po.Seal()
		src.well(t)
	}
	<-small
}

// A driver may leave slices that wait for room when the ring has become empty meanwhile: no
// peer will strike the bell then, so the lane's goroutine has to be woken at once.
func TestALaneWithRoomIsNotArmed(t *testing.T) {
	p := newPair(t, remoteWay("packed", PackedOnly), 1<<20)
	l := p.peer.lanes[0]
	l.turn.Lock()
	defer l.turn.Unlock()
	require.False(t, l.pack.arm(0), "there is nothing to do")
	l.pack.po = new(Posting)
	require.True(t, l.pack.arm(0), "there is something to pack, and room for it")
	l.pack.po = nil
}
