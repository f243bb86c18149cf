package tcp

import (
	"io"

	"github.com/pkg/errors"
)

// reportEvery bounds the confirmed slices held back, so that the window opens
// again while more answers come in.
const reportEvery = 512

// reader is a lane's receiving half; it belongs to the lane's read goroutine.
type reader struct {
	l    *lane
	buf  [64 << 10]byte
	r, w int
	vec  [2]iovec

	// Confirmed slices not yet reported: always of one posting.
	po    *Posting
	n     int
	bytes uint64
}

// read matches answers to the slices in the lane's ring until the lane ends.
func (l *lane) read() {
	defer l.workers.Done()
	defer recovered(l.peer.cfg.Log, "a lane's reader", l.bug)
	rd := &reader{l: l}
	err := rd.run()
	rd.report()
	why := loss{cause: err, fenced: hangup(err)}
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
			return ErrRejected
		}
		if code != statusOK {
			return errors.WithMessagef(ErrProtocol, "status %d", code)
		}
		if !e.posting.write {
			if err := rd.payload(e); err != nil {
				return err
			}
		}
		rd.confirm(e)
	}
}

// payload receives a read's bytes into local memory.
func (rd *reader) payload(e *entry) error {
	for at := uint64(0); at < e.Len; {
		left := e.Len - at
		if rd.r == rd.w {
			if left < directMin || !e.Mover.Direct() {
				if err := rd.need(1); err != nil {
					return err
				}
				continue
			}
			n, err := rd.direct(e.Local+at, min(left, maxDirect))
			if err != nil {
				return err
			}
			at += n
			continue
		}
		n := min(left, uint64(rd.w-rd.r))
		if err := store(e.Mover, e.Local+at, rd.buf[rd.r:rd.r+int(n)]); err != nil {
			return err
		}
		rd.r += int(n)
		at += n
	}
	return nil
}

// direct receives into memory, and what follows into the empty buffer.
func (rd *reader) direct(addr, n uint64) (uint64, error) {
	rd.report()
	rd.vec = [2]iovec{{addr, n}, bytesVec(rd.buf[:])}
	rd.r, rd.w = 0, 0
	got, err := rd.l.sock.readv(rd.vec[:], nil, true)
	if err != nil {
		return 0, err
	}
	if got == 0 {
		return 0, io.EOF
	}
	if uint64(got) > n {
		rd.w = got - int(n)
		return n, nil
	}
	return uint64(got), nil
}

// confirm takes the oldest slice off the ring; reports are gathered for as long
// as answers are at hand.
func (rd *reader) confirm(e *entry) {
	if rd.po != e.posting {
		rd.report()
		rd.po = e.posting
	}
	rd.n++
	rd.bytes += e.Len
	rd.l.ackedB.Add(e.Len)
	rd.l.ring.pop(1)
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
	rd.l.peer.confirmed(rd.l, po, n, bytes)
	rd.l.kick(noLimit) // ends at the latest when the window is full: only this goroutine opens it
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
		got, err := rd.l.sock.readv(rd.vec[:1], nil, false)
		if err == errAgain {
			rd.report()
			got, err = rd.l.sock.readv(rd.vec[:1], nil, true)
		}
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
