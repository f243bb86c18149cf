package local

import (
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Long slices whose target does not empty its rings go past them, and so do the next
// ones; later the rings are tried again.
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
		release := holdRings(p.server)
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

		p.peer.choice.until.Store(math.MaxInt64)
		_, packed = moved(t, p.peer, write, all).arrived()
		require.Zero(t, packed)
		p.peer.choice.until.Store(0)
		_, packed = moved(t, p.peer, write, all).arrived()
		require.Positive(t, packed)
		// Short ones take the rings all the same: system calls are worse.
		p.peer.choice.until.Store(math.MaxInt64)
		bytes, packed := moved(t, p.peer, write, p.scattered(5000, 512)).arrived()
		require.Equal(t, bytes, packed)
	})
}

func TestPausesGrowUntilTheTargetGoesOn(t *testing.T) {
	var c choice
	for want := firstPause; ; want *= 2 {
		c.pause()
		require.True(t, c.paused())
		require.EqualValues(t, min(want, longPause), c.pauses.Load())
		was := c.until.Load()
		c.pause()
		require.Equal(t, was, c.until.Load(), "one pause at a time")
		c.flowed()
		require.NotZero(t, c.pauses.Load(), "what is left in a ring says nothing")
		c.until.Store(0) // it is over
		if want > longPause {
			break
		}
	}
	c.flowed()
	require.Zero(t, c.pauses.Load())
	c.pause()
	require.EqualValues(t, firstPause, c.pauses.Load())
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
		release := holdRings(p.server)
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
