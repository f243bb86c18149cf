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

// reader is a lane's receiving half; it belongs to the lane's read goroutine.
type reader struct {
	l    *lane
	buf  [readBuffer]byte
	r, w int
	vec  [1]iovec
	idle func()  // report; made once
	into scatter // of the read being answered

	// Confirmed slices not yet reported: always of one posting.
	po    *Posting
	n     int
	bytes uint64

	culprit uint64 // of a rejected message: the slice at fault
}

// read matches answers to the slices in the lane's ring until the lane ends.
func (l *lane) read() {
	defer l.workers.Done()
	defer recovered(l.peer.cfg.Log, "a lane's reader", l.bug)
	rd := &reader{l: l}
	rd.idle = rd.report
	err := rd.run()
	rd.report()
	why := loss{cause: err, fenced: hangup(err), slice: rd.culprit}
	if errors.Is(err, io.EOF) {
		why = loss{cause: errors.New("the peer closed the connection"), fenced: true}
	}
	l.end(why)
}

func (rd *reader) run() error {
	for {
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
		rd.r += StatusSize
		if code == statusRejected {
			return rd.rejected()
		}
		if code != statusOK {
			return errors.WithMessagef(ErrProtocol, "status %d", code)
		}
		n := int(e.row)
		if !e.posting.write {
			if err := rd.payload(n); err != nil {
				return err
			}
		}
		rd.confirm(e.posting, n)
	}
}

// rejected finds out which slice was the reason: of those that have one answer,
// the peer says which.
func (rd *reader) rejected() error {
	if !rd.l.many {
		return ErrRejected
	}
	if err := rd.need(culpritSize); err != nil {
		return err
	}
	rd.culprit = binary.LittleEndian.Uint64(rd.buf[rd.r:])
	return ErrRejected
}

// payload receives the bytes of the n oldest slices into local memory.
func (rd *reader) payload(n int) error {
	rd.into.reset()
	for i := range n {
		e := rd.l.ring.peek(uint64(i))
		rd.into.add(e.Mover, e.Local, e.Len)
	}
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
	rd.report()
	ahead := readBuffer
	if rd.l.many && rd.into.bytes > smallMessage {
		ahead = StatusSize
	}
	rd.r, rd.w = 0, 0
	_, vec, n := rd.into.layOut(rd.buf[:ahead])
	got, err := rd.l.sock.readv(vec, nil, nil)
	if err != nil {
		return err
	}
	if got == 0 {
		return io.EOF
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
	if rd.po != po {
		rd.report()
		rd.po = po
	}
	bytes := rd.l.ring.pop(uint64(n))
	rd.n += n
	rd.bytes += bytes
	rd.l.ackedB.Add(bytes)
	if rd.n >= reportEvery {
		rd.report()
	}
}

// report tells the posting what was confirmed, and uses the room it made.
func (rd *reader) report() {
	if rd.n == 0 {
		return
	}
	po, n, bytes := rd.po, rd.n, rd.bytes
	rd.po, rd.n, rd.bytes = nil, 0, 0
	if rd.l.peer.confirmed(rd.l, po, n, bytes) {
		rd.l.kick(noLimit) // ends at the latest when the window is full: only this goroutine opens it
	}
}

// need waits until n bytes are buffered; before it waits it reports.
func (rd *reader) need(n int) error {
	if rd.w-rd.r >= n {
		return nil
	}
	rd.w = copy(rd.buf[:], rd.buf[rd.r:rd.w])
	rd.r = 0
	for rd.w < n {
		rd.vec[0] = bytesVec(rd.buf[rd.w:])
		got, err := rd.l.sock.readv(rd.vec[:], nil, rd.idle)
		if err != nil {
			return err
		}
		if got == 0 {
			return io.EOF
		}
		rd.w += got
	}
	return nil
}
