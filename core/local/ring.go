package local

import (
	"sync/atomic"
	"unsafe"
)

// A ring carries messages of many short ranges from an initiator's lane to a
// goroutine of the target, in memory that both can write. It has a fixed number of
// slots; message n is in slot n modulo that number, and both sides count.
//
//	0     1 while the target sleeps
//	64    the initiator sleeps until the target has passed so many messages; 0: it does not
//	4096  slots: a header, a table of ranges, the payload
//
// A slot's state says whose it is. Everything else in it may change under the hands
// of whoever reads it, so it is copied once and checked then.
const (
	ringSleeps = 0
	ringWants  = 64
	ringSlots  = 4096

	maxRings = 8 // of a connection
	// Few enough for the payloads to stay in a cache that both sides share, and enough
	// for one side to run on while the other is off its core.
	slotsPerRing = 32
	maxRanges    = 1024     // in a message
	maxPayload   = 64 << 10 // bytes in a message

	slotState  = 0  // u32, see below
	slotStatus = 4  // u32: how it went
	slotOp     = 8  // u32: 1 for a write
	slotCount  = 12 // u32: ranges
	slotBytes  = 16 // u64: their sum
	slotEpoch  = 24 // u64: of the posting
	slotFence  = 32 // u64: of the posting
	slotFailed = 40 // u32: the range at fault
	slotTable  = 64
	slotData   = 4096 + maxRanges*16
	slotSize   = slotData + maxPayload
	ringSize   = ringSlots + slotsPerRing*slotSize
)

// States of a slot. The initiator takes it from free to posted, and, when the target
// has not begun, back; the target from posted to begun and done, and from back to
// free; the initiator from done to free.
const (
	slotFree uint32 = iota
	slotPosted
	slotBegun
	slotDone
	slotBack
)

// How a message went.
const (
	wentWell uint32 = iota
	wentRejected
	wentFenced
	wentFault
	wentNowhere // the target is closing
)

// ring is one side's view of one ring.
type ring struct {
	*shm
	at int
}

func (r ring) sleeps() *atomic.Uint32 { return r.u32(r.at + ringSleeps) }
func (r ring) wants() *atomic.Uint64  { return r.u64(r.at + ringWants) }

// slot is a view of the slot of message n.
func (r ring) slot(n uint64) slot {
	return slot{r.shm, r.at + ringSlots + int(n%slotsPerRing)*slotSize}
}

type slot struct {
	*shm
	at int
}

func (s slot) state() *atomic.Uint32         { return s.u32(s.at + slotState) }
func (s slot) field32(at int) *atomic.Uint32 { return s.u32(s.at + at) }
func (s slot) field64(at int) *atomic.Uint64 { return s.u64(s.at + at) }

// ranges are the message's ranges: address and length.
func (s slot) ranges() *[maxRanges][2]uint64 {
	return (*[maxRanges][2]uint64)(unsafe.Pointer(&s.mem[s.at+slotTable : s.at+slotData][0]))
}

func (s slot) payload() []byte { return s.mem[s.at+slotData : s.at+slotSize] }
