package tcp

import (
	"encoding/binary"
	"io"

	"github.com/pkg/errors"
)

// reportEvery bounds the confirmed slices held back, so that the window opens
// again while more answers come in.
const reportEvery = 512

// readBuffer is how much of the stream is read ahead.
const readBuffer = 64 << 10

// reader is a lane's receiving half; the lane's reader lock guards it. It can stop
// before any wait, and whoever has the lock next goes on from there.
type reader struct {
	l    *lane
	buf  [readBuffer]byte
	r, w int
	vec  [1]iovec
	idle func() error // made once
	row  int          // how many slices the answer being received is for; 0: a status is next
	into scatter      // of the read being answered
	// on is the posting that the thread which receives waits for, nil for the lane's
	// own goroutine.
	on *Posting

	held report

	culprit uint64 // of a rejected message: the slice at fault
}

// report is confirmed slices of which the posting has not been told yet.
type report struct {
	po    *Posting
	n     int
	bytes uint64
}

// run matches answers to the slices in the lane's ring until the lane ends, or until
// who called it has no more reason to wait: errEnough.
func (rd *reader) run() error {
	for {
		if rd.row == 0 {
			if err := rd.status(); err != nil {
				return err
			}
		}
		if err := rd.payload(); err != nil {
			return err
		}
		n := rd.row
		rd.row = 0
		rd.confirm(rd.l.ring.peek(0).posting, n)
	}
}

// status takes the next status.
func (rd *reader) status() error {
	if err := rd.need(StatusSize); err != nil {
		return err
	}
	e := rd.l.ring.peek(0)
	if e == nil {
		// Nobody's fault in particular: counts as a broken connection.
		return errors.New("the peer answered without a request")
	}
	code, err := parseStatus(rd.buf[rd.r:])
	if err != nil {
		return err
	}
	if code == statusRejected {
		return rd.rejected()
	}
	if code != statusOK {
		return errors.WithMessagef(ErrProtocol, "status %d", code)
	}
	rd.r += StatusSize
	rd.row = int(e.row)
	if !e.posting.write {
		rd.expect(rd.row)
	}
	return nil
}

// rejected finds out which slice was the reason: of those that have one answer,
// the peer says which.
func (rd *reader) rejected() error {
	if !rd.l.many {
		return ErrRejected
	}
	if err := rd.need(StatusSize + culpritSize); err != nil {
		return err
	}
	rd.culprit = binary.LittleEndian.Uint64(rd.buf[rd.r+StatusSize:])
	return ErrRejected
}

// expect makes the memory of the n oldest slices the place of what comes.
func (rd *reader) expect(n int) {
	rd.into.reset()
	for i := range n {
		e := rd.l.ring.peek(uint64(i))
		rd.into.add(e.Mover, e.Local, e.Len)
	}
}

// payload receives what is to come of a read's bytes.
func (rd *reader) payload() error {
	for rd.into.bytes > 0 {
		var err error
		switch {
		case rd.r < rd.w:
			var k int
			k, err = rd.into.store(rd.buf[rd.r:rd.w])
			rd.r += k
		case rd.into.direct():
			err = rd.direct()
		default:
			err = rd.need(1)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// direct receives into memory, and what follows into the empty buffer: of long
// messages just the next answer.
func (rd *reader) direct() error {
	ahead := readBuffer
	if rd.l.many && rd.into.bytes > smallMessage {
		ahead = StatusSize
	}
	rd.r, rd.w = 0, 0
	_, vec, n := rd.into.layOut(rd.buf[:ahead])
	got, err := rd.readv(vec)
	if err != nil {
		return err
	}
	if uint64(got) > n {
		rd.w = got - int(n)
		got = int(n)
	}
	rd.into.received(uint64(got))
	return nil
}

// confirm takes the n oldest slices off the ring; reports are gathered for as long
// as answers are at hand.
func (rd *reader) confirm(po *Posting, n int) {
	if rd.held.po != po {
		rd.report()
		rd.held.po = po
	}
	bytes := rd.l.ring.pop(uint64(n))
	rd.held.n += n
	rd.held.bytes += bytes
	rd.l.ackedB.Add(bytes)
	if rd.held.n >= reportEvery {
		rd.report()
	}
}

// report tells the posting what was confirmed, and uses the room it made.
func (rd *reader) report() {
	rd.unreported().tell(rd.l)
}

// unreported returns what is held back.
func (rd *reader) unreported() report {
	r := rd.held
	rd.held = report{}
	return r
}

// tell makes a lane's report.
func (r report) tell(l *lane) {
	if r.n > 0 && l.peer.confirmed(l, r.po, r.n, r.bytes) {
		l.kick(noLimit) // ends at the latest when the window is full: only who receives opens it
	}
}

// need waits until n bytes are buffered.
func (rd *reader) need(n int) error {
	if rd.w-rd.r >= n {
		return nil
	}
	rd.w = copy(rd.buf[:], rd.buf[rd.r:rd.w])
	rd.r = 0
	for rd.w < n {
		rd.vec[0] = bytesVec(rd.buf[rd.w:])
		got, err := rd.readv(rd.vec[:])
		if err != nil {
			return err
		}
		rd.w += got
	}
	return nil
}

func (rd *reader) readv(vec []iovec) (int, error) {
	got, err := rd.l.sock.readv(vec, nil, rd.idle)
	if err == nil && got == 0 {
		err = io.EOF
	}
	return got, err
}

// beforeWait reports, and finds out whether there is something to wait for.
func (rd *reader) beforeWait() error {
	if rd.on == nil && rd.l.mayLeave() {
		return errEnough
	}
	rd.report()
	if rd.on != nil && rd.on.over.Load() {
		return errEnough
	}
	return nil
}
