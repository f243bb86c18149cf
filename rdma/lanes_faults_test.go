//go:build cgo

package rdma

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"mooncake/tests/softnic/nic"
)

// newSoftPair is two ends on the software NIC, whose settings a test may change.
func newSoftPair(t *testing.T, size int) (a, b *end) {
	nic.Need(t)
	a, b = newEnd(t, size, 1024), newEnd(t, size, 1024)
	a.mem.fill(1)
	b.mem.fill(2)
	return a, b
}

func (e *end) set(entries ...string) { nic.Set(e.t, e.context.Name(), entries...) }

// leftovers takes what is undone on a broken lane, some at a time.
func (l *testLane) leftovers() (all []Undone) {
	var some [37]Undone
	for n := l.Undone(some[:]); n > 0; n = l.Undone(some[:]) {
		all = append(all, some[:n]...)
	}
	return all
}

func remaining(ticket *Ticket, undone []Undone) (n int) {
	for _, u := range undone {
		if u.Ticket == ticket {
			n++
		}
	}
	return n
}

// A lane that is broken by its owner flushes what is in flight, signalled or not, and
// tells what was not delivered: each piece is either counted in its ticket or undone.
func TestABrokenLaneTellsWhatIsUndone(t *testing.T) {
	a, b := newSoftPair(t, 1<<20)
	l := newLane(a, b, 3, laneConfig)
	a.set("freeze=1")
	ticket := a.port.NewTicket(Write)
	pieces := scattered(a.mem, b.mem, 256, 400, 5)
	taken := l.Feed(ticket, Bulk, pieces, false)
	require.Positive(t, taken)
	_, flying := l.Progress()
	require.Positive(t, flying)
	l.Break()
	a.set("freeze=0")
	a.broke(l)
	require.Equal(t, FailedByCaller, l.Failure().Cause, "nothing failed by itself")
	undone := l.leftovers()
	delivered := int(ticket.Done()) / 256
	require.Equal(t, taken, delivered+len(undone))
	seen := map[uint32]bool{}
	posted := 0
	for _, u := range undone {
		require.Equal(t, ticket, u.Ticket)
		require.False(t, seen[u.Piece.User], "piece %d twice", u.Piece.User)
		seen[u.Piece.User] = true
		if u.Posted {
			posted++
		}
	}
	require.Positive(t, posted)
	require.LessOrEqual(t, posted, 3*laneConfig.Depth*laneConfig.Gather)
	ticket.Stop()
	ticket.Drop(len(undone))
	a.ended(ticket)
	ticket.Free()
	require.Zero(t, l.Feed(a.port.NewTicket(Write), Bulk, pieces[:1], false), "a broken lane takes nothing")
}

// What is undone goes to another lane, and the ticket does not notice.
func TestUndonePiecesGoToAnotherLane(t *testing.T) {
	for _, op := range []Op{Write, Read} {
		a, b := newSoftPair(t, 1<<20)
		first := newLane(a, b, 2, laneConfig)
		ticket := a.port.NewTicket(op)
		pieces := scattered(a.mem, b.mem, 512, 200, 5)
		a.set("freeze=1")
		require.Equal(t, len(pieces), first.Feed(ticket, Bulk, pieces, true))
		first.Break()
		a.set("freeze=0")
		a.broke(first)
		undone := first.leftovers()
		require.NotEmpty(t, undone)
		first.done()
		second := newLane(a, b, 2, laneConfig)
		for rest := undone; len(rest) > 0; {
			n := second.Again(rest)
			if rest = rest[n:]; len(rest) > 0 {
				a.tell("room", func(x PortEvent) bool { return x.Kind == LaneRoom && x.Lane == second.Lane })
			}
		}
		a.ended(ticket)
		require.EqualValues(t, len(pieces)*512, ticket.Done())
		ticket.Free()
		arrived(t, a.mem, b.mem, pieces)
	}
}

// A stopped ticket ends soon: what waits is dropped, what is in flight drains. The
// neighbour's pieces on the same queues are not touched.
func TestStopDropsWhatWaits(t *testing.T) {
	a, b := newSoftPair(t, 4<<20)
	l := newLane(a, b, 2, laneConfig)
	a.set("freeze=1")
	victim, other := a.port.NewTicket(Write), a.port.NewTicket(Write)
	all := scattered(a.mem, b.mem, 512, 400, 5)
	require.Equal(t, 200, l.Feed(victim, Bulk, all[:200], true))
	n := l.Feed(other, Bulk, all[200:], false)
	require.Positive(t, n)
	victim.Stop()
	a.set("freeze=0")
	a.ended(victim)
	require.Less(t, victim.Done(), uint64(200*512))
	victim.Free()
	l.feed(other, Bulk, all[200+n:])
	a.ended(other)
	require.EqualValues(t, 200*512, other.Done())
	other.Free()
	arrived(t, a.mem, b.mem, all[200:])
}

// An error of any kind breaks the lane; what came before it is counted, and what is in
// flight behind it comes back.
func TestAnErrorIsToldWithItsPiece(t *testing.T) {
	for status := 1; status <= 21; status++ {
		if status == 5 {
			continue // a flush without a reason is no first error
		}
		for _, at := range []int{1, 7, 100} {
			a, b := newSoftPair(t, 1<<20)
			l := newLane(a, b, 1, laneConfig)
			a.set(nic.Fail(at, status)...)
			ticket := a.port.NewTicket(Write)
			pieces := scattered(a.mem, b.mem, 512, 120, 5)
			require.Equal(t, len(pieces), l.Feed(ticket, Bulk, pieces, true))
			a.broke(l)
			why := l.Failure()
			assert.Equal(t, status, why.Status, why.StatusText)
			assert.NotEmpty(t, why.StatusText)
			assert.Equal(t, pieces[at-1], why.Piece)
			assert.Equal(t, ticket, why.Ticket)
			undone := l.leftovers()
			delivered := int(ticket.Done()) / 512
			assert.Equal(t, len(pieces), delivered+len(undone))
			assert.Less(t, delivered, at)
			arrived(t, a.mem, b.mem, pieces[:delivered])
			for i, u := range undone {
				require.Equal(t, pieces[delivered+i].User, u.Piece.User, "in order")
			}
			ticket.Drop(len(undone))
			a.ended(ticket)
			ticket.Free()
			l.done()
			a.set("fail_at=0")
		}
	}
}

func TestAWrongKeyIsNamed(t *testing.T) {
	a, b := newSoftPair(t, 1<<20)
	l := newLane(a, b, 2, laneConfig)
	pieces := scattered(a.mem, b.mem, 512, 50, 5)
	pieces[20].RKey ^= 0x5a5a
	ticket := a.port.NewTicket(Write)
	require.Equal(t, len(pieces), l.Feed(ticket, Small, pieces, true))
	a.broke(l)
	why := l.Failure()
	assert.Equal(t, 10, why.Status, why.StatusText) // IBV_WC_REM_ACCESS_ERR
	assert.Equal(t, pieces[20], why.Piece)
	ticket.Drop(len(l.leftovers()))
	a.ended(ticket)
	ticket.Free()
}

// Requests come back even when the queue pairs are destroyed under the lane.
func TestAnAbandonedLaneEnds(t *testing.T) {
	a, b := newSoftPair(t, 1<<20)
	l := newLane(a, b, 2, laneConfig)
	a.set("freeze=1")
	ticket := a.port.NewTicket(Write)
	pieces := scattered(a.mem, b.mem, 512, 150, 5)
	require.Equal(t, len(pieces), l.Feed(ticket, Bulk, pieces, true))
	l.Break()
	for _, qp := range l.here {
		require.NoError(t, qp.Close())
	}
	l.Abandon()
	a.broke(l)
	undone := l.leftovers()
	require.Equal(t, len(pieces), int(ticket.Done())/512+len(undone))
	ticket.Drop(len(undone))
	a.ended(ticket)
	ticket.Free()
}

// A send queue that holds fewer requests than the lane thinks refuses the rest of a
// chain, and with it the signal.
func TestWhatASendQueueRefusesIsPostedAgain(t *testing.T) {
	a, b := newSoftPair(t, 4<<20)
	here, there := pairUp(a, b, 1, 8)
	cfg := laneConfig
	cfg.Depth = 200
	l := a.laneOn(here, there, cfg)
	for _, op := range []Op{Write, Read} {
		ticket := a.port.NewTicket(op)
		pieces := scattered(a.mem, b.mem, 256, 3000, 5)
		l.feed(ticket, Bulk, pieces)
		a.ended(ticket)
		require.EqualValues(t, len(pieces)*256, ticket.Done())
		ticket.Free()
		arrived(t, a.mem, b.mem, pieces)
	}
	t.Logf("%+v", a.port.Counters())
}

// When the rings are full the feeder is told as soon as there is room again.
func TestAFullLaneTellsOfRoom(t *testing.T) {
	a, b := newSoftPair(t, 4<<20)
	l := newLane(a, b, 2, laneConfig)
	a.set("freeze=1")
	pieces := scattered(a.mem, b.mem, 256, 2000, 5)
	ticket := a.port.NewTicket(Write)
	n := l.Feed(ticket, Bulk, pieces, true)
	require.Less(t, n, len(pieces))
	require.Zero(t, l.Feed(ticket, Bulk, pieces[n:n+1], false))
	select {
	case event := <-a.told:
		t.Fatalf("told of %+v with full rings", event)
	case <-time.After(20 * time.Millisecond):
	}
	a.set("freeze=0")
	a.tell("room", func(x PortEvent) bool { return x.Kind == LaneRoom && x.Lane == l.Lane })
	l.feed(ticket, Bulk, pieces[n:])
	a.ended(ticket)
	require.EqualValues(t, len(pieces)*256, ticket.Done())
	ticket.Free()
	arrived(t, a.mem, b.mem, pieces)
}

// Lanes break and are replaced while several threads feed them: no piece is lost, none
// counted twice.
func TestLanesThatBreakLoseNothing(t *testing.T) {
	a, b := newSoftPair(t, 1<<20)
	for round := range 40 {
		l := newLane(a, b, 3, laneConfig)
		ticket := a.port.NewTicket(Write)
		pieces := scattered(a.mem, b.mem, 256, 600, uint64(round))
		fed := make(chan int)
		go func() {
			n := 0
			for n < len(pieces) {
				k := l.Feed(ticket, Class(round%2), pieces[n:min(n+50, len(pieces))], false)
				if n += k; k == 0 {
					break // full, or broken
				}
			}
			fed <- n
		}()
		if round%3 == 0 {
			time.Sleep(time.Duration(round) * 20 * time.Microsecond)
		}
		l.Break()
		n := <-fed
		a.broke(l)
		undone := l.leftovers()
		require.Equal(t, n, int(ticket.Done())/256+len(undone), "round %d", round)
		ticket.Stop()
		ticket.Drop(len(undone))
		a.ended(ticket)
		ticket.Free()
		l.done()
	}
}
