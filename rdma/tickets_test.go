//go:build cgo

package rdma

import (
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"
)

func TestLaneMovesBytes(t *testing.T) {
	for name, cfg := range map[string]PortConfig{"sleeping": {}, "spinning": {Spin: 50 * time.Microsecond}} {
		t.Run(name, func(t *testing.T) {
			w := newWire(t, cfg, false)
			lane := w.lane(LaneConfig{GatherBytes: 4096, Ring: 256})
			for _, size := range []int{1, 24, 512, 16384} {
				clear(w.remote)
				pieces := w.pieces(0, min(4000, wireHalf/size), size)
				total := uint64(len(pieces) * size)
				write := w.port.NewTicket(Write)
				w.feed(lane, write, Bulk, pieces)
				require.True(t, write.Wait(soon))
				require.Equal(t, total, write.Done())
				w.requireMoved(pieces)
				require.False(t, write.Wait(0), "told twice")
				write.Free()

				for i := range w.remote[:total] {
					w.remote[i] ^= 0x55
				}
				read := w.port.NewTicket(Read)
				w.feed(lane, read, Bulk, pieces)
				require.True(t, read.Wait(-1))
				require.Equal(t, total, read.Done())
				w.requireMoved(pieces)
				read.Free()
			}
			c := w.port.Counters()
			t.Logf("%+v", c)
			require.Zero(t, c.Errors+c.StrayCompletions+c.RefusedPosts)
			require.Less(t, c.WorkRequests, c.Pieces/2, "gathered")
			require.Less(t, c.Doorbells, c.WorkRequests)
			require.Eventually(t, func() bool {
				retired, inFlight := lane.Progress()
				return retired == w.port.Counters().WorkRequests && inFlight == 0
			}, soon, time.Millisecond)
		})
	}
}

func TestTicketEndIsAnEventIfNobodyWaits(t *testing.T) {
	w := newWire(t, PortConfig{}, false)
	lane := w.lane(LaneConfig{})
	ticket := w.port.NewTicket(Write)
	ticket.Owner = t
	require.Equal(t, 0, lane.Feed(ticket, Small, nil, false))
	require.Equal(t, 8, lane.Feed(ticket, Small, w.pieces(0, 8, 64), false))
	require.False(t, ticket.Wait(time.Millisecond))
	ticket.Seal()
	ticket.Seal()
	require.Same(t, ticket, w.want(TicketEnded).Ticket)
	require.Equal(t, uint64(512), ticket.Done())
	require.False(t, ticket.Wait(-1), "somebody else was told")
	ticket.Free()
	require.Panics(t, func() { w.port.NewTicket(Write).Free() }, "before the end")
}

func TestEmptyTickets(t *testing.T) {
	w := newWire(t, PortConfig{}, false)
	lane := w.lane(LaneConfig{})
	for name, end := range map[string]func(*Ticket){
		"seal": (*Ticket).Seal,
		"stop": (*Ticket).Stop,
		"feed": func(t *Ticket) { lane.Feed(t, Bulk, nil, true) },
	} {
		ticket := w.port.NewTicket(Read)
		end(ticket)
		require.Same(t, ticket, w.want(TicketEnded).Ticket, name)
		ticket.Free()
	}
}

func TestStoppedTicketTakesNothingMore(t *testing.T) {
	w := newWire(t, PortConfig{}, false)
	lane := w.lane(LaneConfig{Ring: 1024})
	pieces := w.pieces(0, 1000, 16)
	ticket := w.port.NewTicket(Write)
	lane.Feed(ticket, Bulk, pieces, false)
	ticket.Expect()
	ticket.Stop()
	require.Equal(t, len(pieces), lane.Feed(ticket, Bulk, pieces, false), "dropped")
	require.True(t, ticket.Wait(soon))
	done := ticket.Done()
	require.LessOrEqual(t, done, uint64(16*len(pieces)))
	ticket.Free()

	again := w.port.NewTicket(Write)
	w.feed(lane, again, Bulk, pieces)
	require.True(t, again.Wait(soon))
	w.requireMoved(pieces)
	require.Zero(t, w.port.Counters().Errors)
	require.Panics(t, func() { lane.Feed(again, Bulk, pieces, false) }, "sealed")
	again.Free()
}

// A wrong key kills the queue pair: the failure names the piece, and another lane delivers
// what this one did not.
func TestBrokenLaneTellsWhatIsUndone(t *testing.T) {
	w := newWire(t, PortConfig{}, false)
	lane := w.lane(LaneConfig{}, w.qps(1)...)
	pieces := w.pieces(0, 200, 64)
	for i := range pieces {
		pieces[i].Joins = 0
	}
	pieces[150].RKey ^= 0x5a5a00
	ticket := w.port.NewTicket(Write)
	ticket.Expect()
	require.Equal(t, len(pieces), lane.Feed(ticket, Bulk, pieces, true))
	require.Same(t, lane, w.want(LaneBroken).Lane)

	failure := lane.Failure()
	t.Logf("%+v", failure)
	require.Equal(t, FailedCompletion, failure.Cause)
	require.False(t, failure.Local)
	require.Equal(t, 10, failure.Status, "remote access error")
	require.NotEmpty(t, failure.StatusText)
	require.NotZero(t, failure.QP)
	require.Equal(t, pieces[150], failure.Piece)
	require.Same(t, ticket, failure.Ticket)
	require.Zero(t, lane.Feed(ticket, Bulk, pieces, false), "nothing is taken")
	require.Equal(t, uint64(150*64), ticket.Done())

	undone := make([]Undone, 1000)
	n := lane.Undone(undone[:7])
	require.Equal(t, 7, n)
	n += lane.Undone(undone[7:])
	require.Zero(t, lane.Undone(undone[n:]))
	require.Equal(t, 50, n)
	for i, u := range undone[:n] {
		require.Same(t, ticket, u.Ticket)
		require.Equal(t, uint32(150+i), u.Piece.User)
		undone[i].Piece.RKey = w.mr.RKey()
	}
	require.True(t, undone[0].Posted)

	other := w.lane(LaneConfig{}, w.qps(3)...)
	ticket.Drop(1)
	require.Equal(t, n-1, other.Again(undone[1:n]))
	require.True(t, ticket.Wait(soon))
	require.Equal(t, uint64(199*64), ticket.Done())
	w.requireMoved(append(pieces[:150:150], pieces[151:]...))
	ticket.Free()
	require.Zero(t, other.Failure())
}

func TestBreak(t *testing.T) {
	w := newWire(t, PortConfig{}, false)
	lane := w.lane(LaneConfig{})
	ticket := w.port.NewTicket(Write)
	taken := lane.Feed(ticket, Bulk, w.pieces(0, 200, 1024), true)
	lane.Break()
	lane.Break()
	require.Same(t, lane, w.want(LaneBroken).Lane)
	require.Equal(t, FailedByCaller, lane.Failure().Cause)
	require.True(t, lane.Failure().Local)
	undone := make([]Undone, 1000)
	n := lane.Undone(undone)
	require.Equal(t, uint64(taken-n)*1024, ticket.Done())
	if n > 0 {
		ticket.Drop(n)
	}
	ticket.Stop()
	require.Same(t, ticket, w.want(TicketEnded).Ticket)
	ticket.Free()
}

// The queue pairs are destroyed before their flushes were seen.
func TestAbandon(t *testing.T) {
	w := newWire(t, PortConfig{}, false)
	qps := w.qps(2)
	lane := w.lane(LaneConfig{}, qps...)
	ticket := w.port.NewTicket(Write)
	lane.Feed(ticket, Bulk, w.pieces(0, 200, 1024), false)
	lane.Break()
	for _, qp := range qps {
		require.NoError(t, qp.Close())
	}
	lane.Abandon()
	require.Same(t, lane, w.want(LaneBroken).Lane)
	ticket.Drop(lane.Undone(make([]Undone, 1000)))
	ticket.Seal()
	require.Same(t, ticket, w.want(TicketEnded).Ticket)
	ticket.Free()
}

func TestTooLongPieceBreaksTheLane(t *testing.T) {
	w := newWire(t, PortConfig{}, false)
	lane := w.lane(LaneConfig{})
	ticket := w.port.NewTicket(Write)
	pieces := w.pieces(0, 3, 8)
	pieces[2].Length = LongestPiece + 1
	require.Equal(t, 2, lane.Feed(ticket, Bulk, pieces, true))
	w.want(LaneBroken)
	failure := lane.Failure()
	require.Equal(t, FailedPiece, failure.Cause)
	require.Equal(t, int(syscall.EMSGSIZE), failure.Status)
	require.Equal(t, pieces[2], failure.Piece)
	ticket.Drop(lane.Undone(make([]Undone, 10)))
	ticket.Stop()
	w.want(TicketEnded)
	ticket.Free()
}

func TestReadBackFollowsTheWrites(t *testing.T) {
	w := newWire(t, PortConfig{}, false)
	scratch := uint64(uintptr(unsafe.Pointer(&w.local[wireHalf-1])))
	lane := w.lane(LaneConfig{ReadBack: ReadBack{scratch, w.mr.LKey()}, GatherBytes: 4096}, w.qps(3)...)
	pieces := w.pieces(0, 64, 64)
	last := pieces[63].Local + 63 - uint64(uintptr(unsafe.Pointer(&w.local[0])))
	w.local[last], w.local[wireHalf-1] = 0x41, 0
	ticket := w.port.NewTicket(Write)
	w.feed(lane, ticket, Small, pieces)
	require.True(t, ticket.Wait(soon))
	require.Equal(t, uint64(64*64), ticket.Done(), "the read-back has no bytes")
	w.requireMoved(pieces)
	require.Equal(t, byte(0x41), w.local[wireHalf-1], "the last byte came back")
	require.Equal(t, uint64(65), w.port.Counters().Pieces)
	ticket.Free()
}

func TestCQHoldsTheDepthsOfAllLanes(t *testing.T) {
	w := newWire(t, PortConfig{}, true)
	per := w.cq.Depth() / wireDepth
	qps := w.qps(2)
	var lanes []*Lane
	for len(lanes) < 100 {
		lane, err := w.port.NewLane(qps, LaneConfig{Depth: wireDepth})
		if err != nil {
			require.ErrorIs(t, err, ErrFull)
			t.Log(err)
			break
		}
		lanes = append(lanes, lane)
	}
	require.Len(t, lanes, per/2)
	require.ErrorIs(t, w.port.Close(), ErrInUse)
	require.NoError(t, lanes[0].Close())
	again, err := w.port.NewLane(qps, LaneConfig{Depth: wireDepth})
	require.NoError(t, err)
	for _, lane := range append(lanes, again) {
		require.NoError(t, lane.Close())
	}
	_, err = w.port.NewLane(nil, LaneConfig{})
	require.Error(t, err)
	_, err = w.port.NewLane(qps, LaneConfig{Ring: 100})
	require.ErrorContains(t, err, "power of two")
}

func TestInterruptEndsWait(t *testing.T) {
	w := newWire(t, PortConfig{}, true)
	w.port.Interrupt()
	require.Zero(t, w.port.Wait(make([]PortEvent, 1)))
	ended := make(chan int)
	go func() { ended <- w.port.Wait(make([]PortEvent, 1)) }()
	awaitUsers(t, &w.port.life, 1)
	w.port.Interrupt()
	require.Zero(t, <-ended)
}

func TestFeedingAllocatesNothing(t *testing.T) {
	w := newWire(t, PortConfig{}, true)
	lane := w.lane(LaneConfig{})
	pieces := w.pieces(0, 32, 64)
	out := make([]PortEvent, 8)
	require.Zero(t, testing.AllocsPerRun(200, func() {
		ticket := w.port.NewTicket(Write)
		ticket.Expect()
		for at := 0; at < len(pieces); {
			n := lane.Feed(ticket, Bulk, pieces[at:], true)
			if at += n; at < len(pieces) {
				w.port.Wait(out)
			}
		}
		if !ticket.Wait(soon) {
			panic("no end")
		}
		ticket.Free()
	}))
}

func processTime(t *testing.T) time.Duration {
	var usage syscall.Rusage
	require.NoError(t, syscall.Getrusage(syscall.RUSAGE_SELF, &usage))
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// The polling thread sleeps, also after it had work and also where it may spin.
func TestIdlePortCostsNothing(t *testing.T) {
	w := newWire(t, PortConfig{Spin: 100 * time.Microsecond}, true)
	lane := w.lane(LaneConfig{})
	ticket := w.port.NewTicket(Write)
	ticket.Expect()
	require.Equal(t, 32, lane.Feed(ticket, Bulk, w.pieces(0, 32, 64), true))
	require.True(t, ticket.Wait(soon))
	ticket.Free()
	const window = 300 * time.Millisecond
	require.Eventually(t, func() bool {
		wakeups, used := w.port.Counters().Wakeups, processTime(t)
		time.Sleep(window) // what is measured
		return w.port.Counters().Wakeups == wakeups && processTime(t)-used < window/100
	}, soon, window)
}
