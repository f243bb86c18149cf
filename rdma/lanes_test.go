//go:build cgo

package rdma

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestLaneMovesBothWays(t *testing.T) {
	for _, op := range []Op{Write, Read} {
		for _, class := range []Class{Bulk, Small} {
			for _, queues := range []int{1, 3} {
				a, b := newEnd(t, 1<<20, 1024), newEnd(t, 1<<20, 1024)
				a.mem.fill(1)
				b.mem.fill(2)
				l := newLane(a, b, queues, laneConfig)
				ticket := a.port.NewTicket(op)
				pieces := scattered(a.mem, b.mem, 256, 1500, 7)
				l.feed(ticket, class, pieces)
				a.ended(ticket)
				require.EqualValues(t, 1500*256, ticket.Done())
				ticket.Free()
				arrived(t, a.mem, b.mem, pieces)
			}
		}
	}
}

// joined are n pieces that touch each other on the remote side, and not on the other.
func joined(local, remote *memory, size, n int, joins Joins) []Piece {
	pieces := make([]Piece, n)
	for i := range pieces {
		pieces[i] = piece(local, remote, 2*i*size, i*size, size)
		if i > 0 {
			pieces[i].Joins = joins
		}
	}
	return pieces
}

func TestPiecesThatJoinShareAWorkRequest(t *testing.T) {
	const n = 240
	for _, op := range []Op{Write, Read} {
		a, b := newEnd(t, 1<<20, 1024), newEnd(t, 1<<20, 1024)
		a.mem.fill(3)
		b.mem.fill(4)
		l := newLane(a, b, 1, laneConfig)
		pieces := joined(a.mem, b.mem, 512, n, JoinsRemote)
		ticket := a.port.NewTicket(op)
		before := a.port.Counters()
		l.feed(ticket, Bulk, pieces)
		a.ended(ticket)
		ticket.Free()
		assert.EqualValues(t, n/laneConfig.Gather, a.port.Counters().WorkRequests-before.WorkRequests)
		a.eventually("the counters", func() bool {
			after := a.port.Counters()
			return after.Pieces-before.Pieces == n && after.Bytes-before.Bytes == n*512
		})
		arrived(t, a.mem, b.mem, pieces)
	}
}

// A request names one remote stretch: pieces that touch only here are one request each.
func TestPiecesThatJoinOnlyHereAreApart(t *testing.T) {
	for _, op := range []Op{Write, Read} {
		a, b := newEnd(t, 1<<20, 1024), newEnd(t, 1<<20, 1024)
		a.mem.fill(3)
		b.mem.fill(4)
		l := newLane(a, b, 1, laneConfig)
		var pieces []Piece
		for i := range 40 {
			p := piece(a.mem, b.mem, i*512, 2*i*512, 512)
			if i > 0 {
				p.Joins = JoinsLocal
			}
			pieces = append(pieces, p)
		}
		ticket := a.port.NewTicket(op)
		before := a.port.Counters()
		l.feed(ticket, Bulk, pieces)
		a.ended(ticket)
		ticket.Free()
		assert.EqualValues(t, len(pieces), a.port.Counters().WorkRequests-before.WorkRequests)
		arrived(t, a.mem, b.mem, pieces)
	}
}

// A request of several pieces has at most GatherBytes; a piece that is longer goes alone.
func TestGatheredRequestsStaySmall(t *testing.T) {
	a, b := newEnd(t, 4<<20, 1024), newEnd(t, 4<<20, 1024)
	a.mem.fill(5)
	l := newLane(a, b, 1, laneConfig)
	size := int(laneConfig.GatherBytes) / 2
	pieces := joined(a.mem, b.mem, size, 8, JoinsRemote)
	long := joined(a.mem, b.mem, 4*size, 4, JoinsRemote)
	for _, list := range [][]Piece{pieces, long} {
		ticket := a.port.NewTicket(Write)
		before := a.port.Counters()
		l.feed(ticket, Bulk, list)
		a.ended(ticket)
		ticket.Free()
		assert.EqualValues(t, 4, a.port.Counters().WorkRequests-before.WorkRequests)
		arrived(t, a.mem, b.mem, list)
	}
}

func TestFewRequestsAreSignalled(t *testing.T) {
	a, b := newEnd(t, 4<<20, 4096), newEnd(t, 4<<20, 4096)
	cfg := laneConfig
	cfg.Depth, cfg.Ring = 256, 4096
	l := newLane(a, b, 1, cfg)
	ticket := a.port.NewTicket(Write)
	before := a.port.Counters()
	l.feed(ticket, Bulk, scattered(a.mem, b.mem, 64, 4000, 3))
	a.ended(ticket)
	ticket.Free()
	after := a.port.Counters()
	require.EqualValues(t, 4000, after.WorkRequests-before.WorkRequests)
	t.Logf("%d completions, %d doorbells", after.Completions-before.Completions, after.Doorbells-before.Doorbells)
	assert.Less(t, after.Completions-before.Completions, uint64(1000))
	assert.Less(t, after.Doorbells-before.Doorbells, uint64(2000))
}

// Many threads, each with tickets of its own, short and long ones, over one lane: every
// ticket ends once, with all of its bytes.
func TestManyThreadsFeedOneLane(t *testing.T) {
	const threads, rounds, each = 8, 60, 512 << 10
	a, b := newEnd(t, threads*each, 1024), newEnd(t, threads*each, 1024)
	a.mem.fill(9)
	l := newLane(a, b, 3, laneConfig)
	var ends sync.Map // ticket -> chan struct{}
	room := make(chan struct{}, 1)
	stop := make(chan struct{})
	var pump sync.WaitGroup
	pump.Go(func() {
		for {
			select {
			case event := <-a.told:
				switch event.Kind {
				case TicketEnded:
					c, known := ends.LoadAndDelete(event.Ticket)
					if assert.True(t, known, "a ticket ended twice, or unasked") {
						close(c.(chan struct{}))
					}
				case LaneBroken:
					t.Errorf("the lane broke: %+v", l.Failure())
					return
				case LaneRoom:
					select {
					case room <- struct{}{}:
					default:
					}
				}
			case <-stop:
				return
			}
		}
	})
	var wg sync.WaitGroup
	for n := range threads {
		wg.Go(func() {
			for round := range rounds {
				size := 64 << (round % 4)
				pieces := scattered(a.mem, b.mem, size, 1+round*5, uint64(n*1000+round))
				for i := range pieces {
					pieces[i].Local += uint64(n * each)
					pieces[i].Remote += uint64(n * each)
				}
				ticket := a.port.NewTicket(Write)
				ended := make(chan struct{})
				ends.Store(ticket, ended)
				for rest := pieces; ; {
					rest = rest[l.Feed(ticket, Class(round%2), rest, true):]
					if len(rest) == 0 {
						break
					}
					select {
					case <-room:
					case <-time.After(time.Millisecond): // somebody else took the word
					}
					if t.Failed() {
						return
					}
				}
				select {
				case <-ended:
				case <-time.After(patience):
					t.Error("a ticket does not end")
					return
				}
				assert.EqualValues(t, len(pieces)*size, ticket.Done())
				ticket.Free()
				for i, p := range pieces {
					if !assert.Equal(t, a.mem.bytesAt(p.Local, uint64(p.Length)), b.mem.bytesAt(p.Remote, uint64(p.Length)), "thread %d round %d piece %d", n, round, i) {
						return
					}
				}
			}
		})
	}
	wg.Wait()
	close(stop)
	pump.Wait()
}

// However many wait, one of them is told; and then nobody else is.
func TestOneWaiterIsTold(t *testing.T) {
	a, b := newEnd(t, 1<<20, 1024), newEnd(t, 1<<20, 1024)
	a.mem.fill(1)
	l := newLane(a, b, 2, laneConfig)
	for round := range 50 {
		ticket := a.port.NewTicket(Write)
		var told atomic.Int32
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				if ticket.Wait(patience) {
					told.Add(1)
				}
			})
		}
		pieces := scattered(a.mem, b.mem, 128, 1+round*10, uint64(round))
		l.feed(ticket, Bulk, pieces)
		wg.Wait()
		if told.Load() == 0 { // all of them came too late
			a.ended(ticket)
			told.Add(1)
		}
		select {
		case event := <-a.told:
			require.NotEqual(t, TicketEnded, event.Kind, "it was told again")
		default:
		}
		require.EqualValues(t, 1, told.Load(), "round %d", round)
		require.EqualValues(t, len(pieces)*128, ticket.Done())
		ticket.Free()
	}
}

func TestAWaitThatTimesOutChangesNothing(t *testing.T) {
	a, b := newEnd(t, 1<<20, 1024), newEnd(t, 1<<20, 1024)
	l := newLane(a, b, 1, laneConfig)
	ticket := a.port.NewTicket(Write)
	began := time.Now()
	require.False(t, ticket.Wait(20*time.Millisecond))
	require.GreaterOrEqual(t, time.Since(began), 20*time.Millisecond)
	require.False(t, ticket.Wait(0))
	l.feed(ticket, Small, scattered(a.mem, b.mem, 64, 10, 1))
	a.ended(ticket)
	require.False(t, ticket.Wait(0), "it was told already")
	ticket.Free()
}

// A ticket to which nothing was given ends when it is sealed, or stopped.
func TestAnEmptyTicketEnds(t *testing.T) {
	a := newEnd(t, 4096, 64)
	for _, end := range []func(*Ticket){(*Ticket).Seal, (*Ticket).Stop} {
		ticket := a.port.NewTicket(Write)
		end(ticket)
		a.ended(ticket)
		require.Zero(t, ticket.Done())
		ticket.Free()
	}
}

func TestACompletionQueueHoldsTheLanesItCanHold(t *testing.T) {
	a, b := newEnd(t, 4096, 256), newEnd(t, 4096, 256)
	fits := a.cq.Depth() / laneConfig.Depth / 2
	var last *testLane
	for range fits {
		last = newLane(a, b, 2, laneConfig)
	}
	here, _ := pairUp(a, b, 2, laneConfig.Depth)
	_, err := a.port.NewLane(here, laneConfig)
	require.ErrorIs(t, err, ErrFull)
	last.done()
	lane, err := a.port.NewLane(here, laneConfig)
	require.NoError(t, err, "a closed lane leaves room")
	lane.Close()
}

func TestThePortTellsNothingAfterItsEnd(t *testing.T) {
	needDevice(t)
	names, err := DeviceNames()
	require.NoError(t, err)
	c, err := OpenDevice(names[0])
	require.NoError(t, err)
	defer c.Close()
	cq, err := c.NewCQ(64)
	require.NoError(t, err)
	defer cq.Close()
	port, err := NewPort(cq, PortConfig{})
	require.NoError(t, err)
	over := make(chan int)
	go func() { over <- port.Wait(make([]PortEvent, 4)) }()
	port.Close()
	select {
	case n := <-over:
		require.Zero(t, n)
	case <-time.After(patience):
		t.Fatal("the wait does not end")
	}
}
