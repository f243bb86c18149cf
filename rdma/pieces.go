package rdma

import "time"

// Op is the direction of a ticket's pieces.
type Op int

const (
	Write Op = iota // local memory to the peer's
	Read            // the peer's memory to local
)

// Class says which queue pairs of a lane pieces go to when it has several: the last one
// is for small calls, so that these do not wait behind a large one; the others are for bulk
// writes, and the last but one for bulk reads, too. Of two, the last has all reads.
type Class int

const (
	Bulk Class = iota
	Small
)

// Piece is a stretch of memory that is contiguous here and at the peer. Length is in
// bytes, at most LongestPiece.
type Piece struct {
	Local        uint64
	Length, LKey uint32
	Remote       uint64
	RKey         uint32
	// Joins says how the piece goes on from the one before it in the same slice. Pieces
	// that go on at the peer may become one work request, pieces that go on at both ends
	// one stretch of it. It has to be true; leaving it out only costs speed.
	Joins Joins
	User  uint32 // the caller's; comes back in Failure and Undone
	_     uint32
}

// Run is a piece without keys: where it lies, Area, says which it gets.
type Run struct {
	Local, Remote, Length uint64
	Area                  int32 // index; becomes the piece's User
	Joins                 uint8 // as in Piece
}

// Area is memory here and at the peer that has one key each: a run that lies in both ranges
// gets these. Sizes are in bytes.
type Area struct {
	Local, LocalSize, Remote, RemoteSize uint64
	LKey, RKey                           uint32
}

// Joins is a set of bits.
type Joins uint32

const (
	JoinsLocal  Joins = 1 << iota // begins where the piece before ends, in local memory
	JoinsRemote                   // and in the peer's memory
)

// LongestPiece is what every device takes in one work request, in bytes.
const LongestPiece = 1 << 30

// PortConfig is for NewPort.
type PortConfig struct {
	// Spin is how long the polling thread, and a caller that waits for a ticket, look for
	// completions before they sleep. 0, for machines whose cores are busy: never.
	Spin time.Duration
}

// LaneConfig is for NewLane. What is 0 gets a value that suits the queue pairs.
type LaneConfig struct {
	Depth int // work requests in flight of each queue pair, at most its SendDepth
	// Gather and Scatter are how many stretches of local memory a WRITE and a READ may
	// have, at most MaxSGE of the queue pairs.
	Gather, Scatter int
	ReadDepth       int // READs in flight of each queue pair
	// GatherBytes is how long a work request of several pieces may become. A longer piece
	// goes alone.
	GatherBytes uint64
	Ring        int // pieces that wait or are in flight, of each queue pair; a power of two
	// Inline is up to how many bytes a WRITE carries its data itself. The CPU must be able
	// to read such memory.
	Inline   int
	ReadBack ReadBack
}

// ReadBack is one byte of registered memory that nobody looks at. With one, the last byte
// that each queue pair wrote for a ticket is read back into it when the ticket is sealed,
// and the ticket ends after that: needed where the peer's memory is registered with relaxed
// ordering. A ticket whose lane breaks loses this for what that lane had delivered.
type ReadBack struct {
	Local uint64 // 0: off
	LKey  uint32
}

// PortCounters count since the port was opened.
type PortCounters struct {
	WorkRequests, Doorbells, Completions uint64
	Bytes, Pieces                        uint64 // delivered
	Wakeups                              uint64 // of the polling thread
	PartialPosts, RefusedPosts           uint64
	StrayCompletions                     uint64 // of lanes that were closed
	Errors                               uint64 // completions with an error, flushes too
}

// PortEventKind is what a PortEvent tells.
type PortEventKind int

const (
	LaneRoom    PortEventKind = iota + 1 // a ring that was full is half empty
	LaneBroken                           // a broken lane has nothing in flight any more
	TicketEnded                          // and no Wait has claimed it
)
