//go:build cgo

package core

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"slices"
	"time"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"
)

// stormBatch is one batch of a worker's.
type stormBatch struct {
	*stormWorker
	slot     *stormSlot
	op       Op
	shape    stormShape
	calmAt   int64 // the count of calms when it began
	opts     Options
	canceled bool // somebody calls Cancel, or Close
	batch    *Batch
}

func (b *stormBatch) sides() (from, to *stormSide) {
	if b.op == Read {
		return &b.slot.there, &b.slot.here
	}
	return &b.slot.here, &b.slot.there
}

// run submits the batch, waits for its end in one of the ways there are, and holds the
// outcome against the bytes.
func (b *stormBatch) run(want []byte) {
	var err error
	b.opts.Waits = b.r.IntN(2) == 0
	if b.r.IntN(6) == 0 {
		b.opts.Deadline = time.Duration(1 + b.r.IntN(1<<(10+b.r.IntN(15))))
	}
	b.batch, err = b.submit()
	if err != nil {
		b.life.refused.Add(1)
		b.refused.Add(1)
		b.excused(err, true)
		// What did not begin, or was given up before anybody saw it: it may have been loud.
		b.quiet(want, err, QuietLocal)
		return
	}
	b.life.began.Add(1)
	defer b.batch.Close()
	removed := b.disturb()
	if !b.wait() {
		b.hangs("a batch does not end")
		return
	}
	err = b.batch.Err()
	s := b.batch.Status()
	b.life.bytes.Add(s.BytesDone)
	switch {
	case err == nil && (s.State != Done || s.BytesDone != s.Bytes || s.Quiet != QuietNone):
		b.accuse("%s: done, and its status is %+v", b, s)
	case err != nil && (s.State != Failed || s.BytesDone > s.Bytes || s.Quiet == QuietNone):
		b.accuse("%s: failed, and its status is %+v", b, s)
	}
	if b.calmAt&1 == 1 && b.calm.Load() == b.calmAt {
		b.calmly.Add(1)
	}
	if err == nil {
		b.outcomes[0].Add(1)
		b.workers[b.id].moved.Add(1)
	} else {
		b.life.failed.Add(1)
		b.excused(err, false)
	}
	b.quiet(want, err, s.Quiet)
	if removed != nil {
		select {
		case <-removed:
			b.reregister()
		case <-time.After(stormPatience):
			b.hangs("deregistering does not return")
		}
	}
}

// submit gives the blocks in one call, piece by piece, or as page groups.
func (b *stormBatch) submit() (*Batch, error) {
	w := b.stormWorker
	if b.shape.groups != nil {
		return w.segment.SubmitPages(b.op, b.shape.groups, b.opts)
	}
	list := b.shape.blocks(w.file.addr()+uint64(stormHere(w.id)+b.slot.at), w.addr+uint64(b.slot.at))
	if w.r.IntN(3) > 0 {
		return w.segment.Submit(b.op, list, b.opts)
	}
	batch, err := w.segment.Open(b.op, b.opts)
	if err != nil {
		return nil, err
	}
	b.canceled = b.canceled || w.r.IntN(8) == 0
	if b.canceled {
		time.AfterFunc(time.Duration(w.r.IntN(2000))*time.Microsecond, batch.Cancel)
	}
	for from, count := 0, len(list.Length); from < count; {
		to := min(from+1+w.r.IntN(800), count)
		if batch.Add(list.part(from, to)) != nil {
			break // it fails the batch
		}
		from = to
	}
	batch.Seal()
	return batch, nil
}

// disturb does something to the batch that is under way, or to what it uses. removed is
// closed when memory that it uses is deregistered.
func (b *stormBatch) disturb() (removed chan struct{}) {
	soon := time.Duration(b.r.IntN(1<<(8+b.r.IntN(14)))) * time.Nanosecond
	switch b.r.IntN(12) {
	case 0:
		b.canceled = true
		time.AfterFunc(soon, b.batch.Cancel)
	case 1:
		b.canceled = true
		b.batch.Close() // without waiting
	case 2:
		b.canceled = true
		time.AfterFunc(soon, b.batch.Close)
	case 3:
		b.forget() // the batch goes on without its segment
	case 4:
		removed = make(chan struct{})
		m := b.local[b.r.IntN(len(b.local))]
		b.local = slices.DeleteFunc(b.local, func(x *Memory) bool { return x == m })
		go func() {
			m.Deregister()
			close(removed)
		}()
	}
	return removed
}

// wait waits for the end; false: it does not come.
func (b *stormBatch) wait() bool {
	switch b.r.IntN(4) {
	case 0: // looks again and again, for a while
		for end := time.Now().Add(20 * time.Millisecond); b.batch.Status().State == Running && time.Now().Before(end); {
			runtime.Gosched()
		}
	case 1:
		if fd, err := b.batch.FD(); err == nil && !b.canceled { // Close closes it
			unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 50)
		}
	default:
		b.batch.Receive()
	}
	return !errors.Is(b.batch.Wait(stormPatience), ErrWaitTimeout)
}

// quiet checks what the batch has left, and has it watched from now on.
func (b *stormBatch) quiet(want []byte, err error, quiet Quiet) {
	from, to := b.sides()
	if !from.intact() {
		b.accuse("%s: the source has changed: %s", b, from.difference())
	}
	if err == nil && !bytes.Equal(to.pages, want) {
		b.accuse("%s: done, and not every byte is as it should be: %s", b, firstDifference(to.pages, want))
	}
	loud := err != nil && quiet != QuietBoth && b.op == Write
	if loud {
		b.loud.Add(1)
		b.slot.loud = 1 + b.hosts[b.target].sweepsBegun.Load()
	}
	b.refill(b.slot, !loud)
}

// excused checks that an error can be what it says, and counts it.
func (b *stormBatch) excused(err error, refused bool) {
	switch {
	case errors.Is(err, ErrCanceled) && !b.canceled, errors.Is(err, ErrDeadline) && b.opts.Deadline == 0:
		b.accuse("%s: nobody asked for this: %v", b, err)
	}
	b.outcomes[stormOutcome(err)].Add(1)
	if isAny(err, ErrCanceled, ErrDeadline) {
		return
	}
	if b.calmAt&1 == 1 && b.calm.Load() == b.calmAt {
		b.accuse("%s: nothing happened to anybody, and it failed: %v\n%s", b, err, stormStateOf(b.life.Engine))
	}
	b.plausible(err, b.String())
	if isAny(err, ErrRestarted, ErrPeer, ErrAddress, ErrRejected, ErrClosed) {
		b.forget()
	}
}

// stormErrors are the errors that a batch may end with, as outcomes from 1 on.
var stormErrors = []error{ErrCanceled, ErrDeadline, ErrFenced, ErrRestarted, ErrPeer, ErrRejected, ErrAddress, ErrDevice, ErrClosed, ErrWaitTimeout, ErrNotFound}

func stormOutcome(err error) int {
	for i, kind := range stormErrors {
		if errors.Is(err, kind) {
			return i + 1
		}
	}
	return 0
}

// plausible checks that an error is one that says what a caller can do.
func (w *stormWorker) plausible(err error, what string) {
	if stormOutcome(err) == 0 {
		w.accuse("%s: no error that a caller could act on: %v", what, err)
	}
}

func (b *stormBatch) String() string {
	way := "blocks"
	if b.shape.groups != nil {
		way = "pages"
	}
	bytes := 0
	for _, x := range b.shape.at {
		bytes += x[2]
	}
	return fmt.Sprintf("worker %d (host %d to %d), op %d, %d %s of %d bytes in %d, %+v, calm %d", b.id, b.n, b.target, b.op, len(b.shape.at), way, bytes, len(b.slot.here.pages), b.opts, b.calmAt)
}

// hangs says all there is to know about something that does not end.
func (b *stormBatch) hangs(what string) {
	b.accuse("%s: %s: %+v\n%s%s", b, what, b.batch.Status(), stormStateOf(b.life.Engine), allStacks())
}

// accuse says what is wrong, once, and ends the storm.
func (s *stormShared) accuse(format string, args ...any) {
	if s.failed.Add(1) > 3 {
		return
	}
	fmt.Fprintf(os.Stderr, "storm: process %d: %s\n", os.Getpid(), fmt.Sprintf(format, args...))
}

func allStacks() string {
	text := make([]byte, 4<<20)
	return string(text[:runtime.Stack(text, true)])
}

func firstDifference(have, want []byte) string {
	first, last, count := -1, 0, 0
	for i := range have {
		if have[i] != want[i] {
			if first < 0 {
				first = i
			}
			last = i
			count++
		}
	}
	return fmt.Sprintf("%d bytes of %d, from %d to %d", count, len(have), first, last)
}
