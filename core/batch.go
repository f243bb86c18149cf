package core

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"
)

// State of a batch.
type State uint32

const (
	Running State = 0
	Done    State = 1 // every byte is in destination memory and visible there
	Failed  State = 2
)

// Quiet says what is known after a failure about late bytes.
type Quiet uint32

const (
	QuietNone  Quiet = 0 // running, or done
	QuietBoth  Quiet = 1 // nothing can touch the pages any more, here or at the peer
	QuietLocal Quiet = 2 // nothing here; the peer could not confirm
)

// Status is progress or outcome of a batch.
type Status struct {
	State       State
	Quiet       Quiet
	Err         error // why it failed
	Unconfirmed bool  // written to a peer whose protocol cannot acknowledge
	Blocks      uint64
	Runs        uint64 // found so far
	Bytes       uint64
	BytesDone   uint64 // confirmed
	Duration    time.Duration
	// Runs that begin where the one before ends, on that side only: those that a
	// transport may scatter to read (local) or gather to write (remote).
	JoinedLocal, JoinedRemote uint64
}

// Batch is the blocks of one Submit or SubmitPages, or of those added between Open and
// Seal. Safe for concurrent use.
type Batch struct {
	engine  *Engine
	process *process
	op      Op
	opts    Options
	began   time.Time

	intake  intake // until it is sealed
	work    work
	posting posting      // nil before the first byte is to move
	due     atomic.Int64 // when it must have ended, see deadlines; 0: whenever
	timed   uint64       // bytes that due was reckoned for

	blocks    atomic.Uint64 // so far
	bytes     atomic.Uint64
	runs      atomic.Uint64
	joined    [4]atomic.Uint64 // of them, by joins
	delivered atomic.Uint64    // bytes confirmed
	word      word
	wordWas   uint32 // the word's value while the batch runs
	done      chan struct{}

	mu    sync.Mutex // guards what follows
	cause error      // why it is being ended, before it has
	end   *ending    // set when it has ended
	ended time.Time
	fd    int // eventfd, -1 if nobody asked
	freed bool
}

// Wait returns when the batch has ended: nil if done, else why it failed. A
// timeout < 0 waits without limit; ErrWaitTimeout means that the batch goes on.
// Threads that come from C wait on Word instead.
func (b *Batch) Wait(timeout time.Duration) error {
	b.leave()
	var expired <-chan time.Time
	if timeout >= 0 {
		t := time.NewTimer(timeout)
		defer t.Stop()
		expired = t.C
	}
	select {
	case <-b.done:
		return b.Err()
	case <-expired:
	}
	select {
	case <-b.done: // both at once: the outcome is worth more
		return b.Err()
	default:
		return ErrWaitTimeout
	}
}

// Word returns a futex word, which lies outside the Go heap and stays mapped for
// ever, and the value that it has for as long as the batch runs.
func (b *Batch) Word() (word *uint32, running uint32) {
	return b.word.address(), b.wordWas
}

// Receive lets the calling thread receive what the batch waits for, where its transport
// can use that: for a few milliseconds at most, and mostly until a small batch has
// ended. It saves the way from one thread to another.
func (b *Batch) Receive() {
	if r, ok := b.posting.(receivingPosting); ok {
		r.receive()
	}
}

// leave makes a batch that was submitted with Waits end without Receive, too.
func (b *Batch) leave() {
	if p, ok := b.posting.(promisedPosting); ok && b.opts.Waits {
		p.leave()
	}
}

// Err returns why the batch failed, ErrWaitTimeout while it runs, nil if done.
// The text says whether the peer is quiet.
func (b *Batch) Err() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.end == nil {
		return ErrWaitTimeout
	}
	return b.end.err
}

// Status reads progress or outcome. Never blocks.
func (b *Batch) Status() Status {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := Status{Blocks: b.blocks.Load(), Runs: b.runs.Load(), Bytes: b.bytes.Load(), BytesDone: b.delivered.Load(),
		JoinedLocal: b.joined[joinsLocal].Load(), JoinedRemote: b.joined[joinsRemote].Load()}
	if b.end == nil {
		s.Duration = time.Since(b.began)
		if m, ok := b.posting.(measuredPosting); ok {
			s.BytesDone = m.measured()
		}
		return s
	}
	s.Duration = b.ended.Sub(b.began)
	s.Unconfirmed = b.end.unconfirmed
	s.State, s.Err = Done, b.end.err
	if b.end.err != nil {
		s.State, s.Quiet = Failed, QuietLocal
		if b.end.quiet {
			s.Quiet = QuietBoth
		}
	}
	return s
}

// Cancel asks the batch to end with ErrCanceled. Does not block: wait to learn
// when its pages are quiet.
func (b *Batch) Cancel() { b.abort(ErrCanceled) }

// abort asks the batch to end with cause; the first cause stays.
func (b *Batch) abort(cause error) {
	b.mu.Lock()
	if b.end != nil || b.cause != nil {
		b.mu.Unlock()
		return
	}
	b.cause = cause
	posting := b.posting
	b.mu.Unlock()
	if posting != nil {
		posting.quiesce(cause)
	}
}

// ending tells whether the batch has ended or is about to fail.
func (b *Batch) ending() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.end != nil || b.cause != nil
}

// FD returns a descriptor that becomes readable when the batch ends. It is closed
// by Close.
func (b *Batch) FD() (int, error) {
	b.leave()
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.freed {
		return -1, errors.WithMessage(ErrClosed, "batch")
	}
	if b.fd >= 0 {
		return b.fd, nil
	}
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return -1, errors.Wrap(ErrDevice, "eventfd: "+err.Error())
	}
	b.fd = fd
	if b.end != nil {
		signal(fd)
	}
	return fd, nil
}

func signal(fd int) {
	one := [8]byte{1}
	unix.Write(fd, one[:])
}

// Close cancels the batch if it runs, waits until nothing here touches its pages,
// and gives its resources back. Twice is harmless.
func (b *Batch) Close() {
	b.Cancel()
	<-b.done
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.freed {
		return
	}
	b.freed = true
	if b.fd >= 0 {
		unix.Close(b.fd)
		b.fd = -1
	}
	words.put(b.word)
	b.engine.counts.open.Add(-1)
}

// progressed counts confirmed bytes.
func (b *Batch) progressed(bytes uint64) {
	b.delivered.Add(bytes)
	b.engine.counts.moved[b.op].Add(bytes)
}

// finish records the end and wakes everybody; called exactly once.
func (b *Batch) finish(e ending) {
	if done := b.delivered.Load(); e.err == nil && done != b.bytes.Load() {
		// Our bug, if it ever happens; it must not pass for success.
		e.err = errors.Errorf("batch ended with %d of %d bytes", done, b.bytes.Load())
	}
	b.work.release()
	b.mu.Lock()
	if e.err != nil {
		e.err = b.explain(e)
		b.engine.counts.failed.Add(1)
	}
	b.end, b.ended = &e, time.Now()
	b.engine.counts.batchTime.Add(int64(b.ended.Sub(b.began)))
	if b.fd >= 0 {
		signal(b.fd)
	}
	b.mu.Unlock()
	b.intake.check.unpin()
	b.engine.smallBlocks()
	b.engine.forgetBatch(b)
	b.word.bump() // before done: Close may give the word to another batch then
	close(b.done)
	b.process.release()
}

// explain words the error of a batch: how far it came, and what may still happen.
func (b *Batch) explain(e ending) error {
	quiet := "quiet at both ends"
	if !e.quiet {
		quiet = "quiet here only: the peer could not confirm that nothing of it arrives late"
	}
	return errors.WithMessagef(e.err, "%d of %d bytes confirmed, %s", b.delivered.Load(), b.bytes.Load(), quiet)
}
