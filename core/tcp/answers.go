package tcp

import (
	"os"

	"github.com/pkg/errors"
)

const (
	maxAnswerIovecs  = 512
	maxAnswerRegions = 8
	maxAnswerBytes   = 1 << 20
	// gatherMax is the longest piece that is copied into a row with others rather
	// than named to the kernel: a range costs it as much as copying that.
	gatherMax   = 2 << 10
	stagingSize = 256 << 10
)

// okStatuses is a row of equal statuses, so that many answers are one iovec.
var okStatuses = func() []byte {
	b := make([]byte, 512*StatusSize)
	for i := 0; i < len(b); i += StatusSize {
		putStatus(b[i:], statusOK)
	}
	return b
}()

// answers are statuses and payloads waiting to be sent in one system call. They
// are sent when there are many, and always before the connection waits for more
// requests.
type answers struct {
	iov     []iovec
	sending []iovec  // the view of iov that a flush advances
	regions []Region // whose memory iov names
	bytes   uint64
	oks     uint64 // statuses in the last iovec, if that holds statuses
	staging []byte // for short payloads, and memory that system calls cannot read
	used    int    // bytes of it in iov
}

// ok queues a good status.
func (a *answers) ok(c *conn) error {
	if a.oks > 0 && a.oks < uint64(len(okStatuses)/StatusSize) {
		a.iov[len(a.iov)-1].len += StatusSize
		a.oks++
		return nil
	}
	if err := a.room(c); err != nil {
		return err
	}
	a.iov = append(a.iov, bytesVec(okStatuses[:StatusSize]))
	a.oks = 1
	return nil
}

// payload queues n bytes at addr in region.
func (a *answers) payload(c *conn, region Region, addr, n uint64) error {
	if n <= gatherMax || !region.Direct() {
		return a.staged(c, region, addr, n)
	}
	if err := a.room(c); err != nil {
		return err
	}
	if k := len(a.regions); k == 0 || a.regions[k-1] != region {
		if k == maxAnswerRegions {
			if err := a.flush(c); err != nil {
				return err
			}
		}
		a.regions = append(a.regions, region)
	}
	a.iov = append(a.iov, iovec{addr, n})
	a.oks = 0
	a.bytes += n
	return nil
}

// plain queues bytes of ours, which stay as they are until they are flushed.
func (a *answers) plain(c *conn, p []byte) error {
	if err := a.room(c); err != nil {
		return err
	}
	a.iov = append(a.iov, bytesVec(p))
	a.oks = 0
	return nil
}

// room flushes when the queue is long enough.
func (a *answers) room(c *conn) error {
	if len(a.iov) < maxAnswerIovecs && a.bytes < maxAnswerBytes {
		return nil
	}
	return a.flush(c)
}

// staged queues a payload that is copied out first.
func (a *answers) staged(c *conn, region Region, addr, n uint64) error {
	if a.staging == nil {
		a.staging = make([]byte, stagingSize)
	}
	for n > 0 {
		if a.used == stagingSize {
			if err := a.flush(c); err != nil {
				return err
			}
		}
		if err := a.room(c); err != nil {
			return err
		}
		p := a.staging[a.used:min(stagingSize, uint64(a.used)+n)]
		if !c.hold(region) {
			return errGone
		}
		if err := load(region, p, addr); err != nil {
			return err
		}
		a.chunk(p)
		addr += uint64(len(p))
		n -= uint64(len(p))
	}
	return nil
}

// chunk queues the next bytes of the staging buffer.
func (a *answers) chunk(p []byte) {
	v := bytesVec(p)
	if last := len(a.iov) - 1; last >= 0 && a.used > 0 && a.iov[last].base+a.iov[last].len == v.base {
		a.iov[last].len += v.len
	} else {
		a.iov = append(a.iov, v)
	}
	a.used += len(p)
	a.oks = 0
	a.bytes += v.len
}

// flush sends what is queued; memory is pinned around each system call only.
func (a *answers) flush(c *conn) error {
	if len(a.iov) == 0 {
		return nil
	}
	a.sending = a.iov
	for len(a.sending) > 0 {
		n, err := c.sock.writev(a.sending, a.regions, false)
		if err == errAgain {
			c.release()
			c.sock.out.limit(c.srv.cfg.StallTimeout)
			n, err = c.sock.writev(a.sending, a.regions, true)
			c.sock.out.limit(0)
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return c.overdue("answers not taken")
		}
		if err == errGone {
			// The stream ends in mid-answer: no status can say so.
			return errors.New("memory was deregistered while it was being read")
		}
		if err != nil {
			return err
		}
		a.sending = advance(a.sending, uint64(n))
	}
	a.iov = a.iov[:0]
	clear(a.regions)
	a.regions = a.regions[:0]
	a.bytes, a.oks, a.used = 0, 0, 0
	return nil
}
