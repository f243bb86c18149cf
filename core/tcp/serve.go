package tcp

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/pkg/errors"
)

const (
	// serveBuffer is how much of the stream is read ahead: headers and small
	// payloads come many to a system call.
	serveBuffer = 64 << 10
	// drainTime is how long a refused request's payload is read and dropped so
	// that the refusal is not lost to a reset.
	drainTime = 200 * time.Millisecond
)

// conn serves one data connection; all but done belongs to its goroutine.
type conn struct {
	srv    *Server
	sock   *socket
	remote netip.Addr
	done   chan struct{} // closed when the connection no longer touches memory

	since      time.Time
	spoke      atomic.Bool // a whole header has come
	evicted    bool        // guarded by srv.mu
	introduced bool        // guarded by srv.mu, as the next two
	from       Instance    // who is behind it
	name       string      // under which they introduced themselves
	greeting   []byte      // the answer to that
	many       bool        // they may send messages of many ranges

	buf   []byte // read ahead; buf[r:w] is unread
	r, w  int
	ahead int // how much to read ahead
	iov   [1]iovec
	held  Region // pinned while buffered requests are gone through, or nil
	// into is the memory of the current request, piece by piece, regions whose it
	// is. Its bytes go to no others, even if its addresses are registered anew before
	// the last of them has come.
	into    scatter
	regions []Region
	joined  []int // those of its pieces that belong to the same range as the one before
	guard   guard // each of regions, few of them twice
	out     answers

	beforeIdle, beforeWait func() error // count and limit; made once
	limited                bool         // the wait has a deadline

	// prompt: the last request was short, and came soon after the one before: somebody
	// may be waiting for each.
	prompt bool
	size   uint64    // of the last request's payload
	last   time.Time // when an idle wait was over

	written, read uint64 // bytes not yet added to the server's counters
}

func newConn(s *Server, sock *socket) *conn {
	c := &conn{since: time.Now(), srv: s, sock: sock, remote: sock.remote, done: make(chan struct{}),
		buf: make([]byte, serveBuffer), ahead: serveBuffer}
	c.beforeIdle = func() error { c.count(); return nil }
	c.beforeWait = c.limit
	return c
}

// run serves until the connection ends.
func (c *conn) run() {
	err := c.serve()
	c.release()
	c.sock.close()
	c.count()
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) {
		c.srv.cfg.Log.Info("data connection ended", "from", c.remote, "err", err)
	}
	close(c.done)
	c.srv.mu.Lock()
	delete(c.srv.conns, c)
	c.srv.mu.Unlock()
	c.srv.wg.Done()
}

// serve handles requests in order; io.EOF is the orderly end.
func (c *conn) serve() (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = errors.Errorf("panic while serving: %v\n%s", p, debug.Stack())
		}
	}()
	for {
		if err := c.need(HeaderSize, true); err != nil {
			return err
		}
		if c.sock.stopped.Load() {
			return net.ErrClosed
		}
		h := parseHeader(c.buf[c.r:])
		c.r += HeaderSize
		c.spoke.Store(true)
		c.size = h.size
		err := c.request(h)
		if errors.Is(err, errGone) && (h.op == opWrite|flagV2 || h.op == opWriteMany|flagV2) {
			// What came before has its status; of this one the peer learns why.
			err = c.reject(h, err.Error(), c.goneRange())
		}
		if err != nil {
			return err
		}
	}
}

func (c *conn) request(h header) error {
	switch h.op &^ flagV2 {
	case opWrite:
		return c.write(h)
	case opRead:
		return c.sendBack(h)
	case opHello:
		return c.hello(h)
	case opWriteMany:
		return c.writeMany(h)
	case opReadMany:
		return c.sendBackMany(h)
	}
	return c.reject(h, fmt.Sprintf("unknown opcode %#x", h.op), 0)
}

// write receives a payload into memory.
func (c *conn) write(h header) error {
	c.begin()
	if why := c.admit(h.addr, h.size, true); why != "" {
		return c.reject(h, why, 0)
	}
	if err := c.fill(); err != nil {
		return errors.WithMessagef(err, "write of %d bytes at %#x", h.size, h.addr)
	}
	c.written += h.size
	if h.op&flagV2 != 0 {
		return c.out.ok(c)
	}
	return nil
}

// fill receives the current request's payload: out of the buffer, or straight from
// the socket where the rest is long.
func (c *conn) fill() error {
	if len(c.out.regions) > 0 { // an answer that still lies in memory, which may be what is written now
		if err := c.out.flush(c); err != nil {
			return err
		}
	}
	for c.into.bytes > 0 {
		var err error
		switch {
		case c.r < c.w:
			err = c.store()
		case c.into.direct():
			err = c.receive()
		default:
			err = c.more()
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// store copies what is buffered of the payload to its place.
func (c *conn) store() error {
	if len(c.guard) == 1 {
		if !c.hold(c.guard[0]) {
			return errGone
		}
	} else {
		c.release()
		if !c.guard.pin() {
			return errGone
		}
		defer c.guard.unpin()
	}
	n, err := c.into.store(c.buf[c.r:c.w])
	c.r += n
	return err
}

// hold keeps a region pinned for as long as there is buffered data to go through;
// false: it was deregistered. A pin for every small request would cost more than
// the copy, when other connections count on the same cache line.
func (c *conn) hold(region Region) bool {
	if c.held == region {
		return true
	}
	c.release()
	if !region.Pin() {
		return false
	}
	c.held = region
	return true
}

// release gives the held region back; called before every system call that
// receives, and before every wait.
func (c *conn) release() {
	if c.held != nil {
		c.held.Unpin()
		c.held = nil
	}
}

// receive reads from the socket into memory, and what follows the payload into the
// empty buffer.
func (c *conn) receive() error {
	if err := c.out.flush(c); err != nil {
		return err
	}
	c.r, c.w = 0, 0
	_, vec, n := c.into.layOut(c.buf[:c.ahead])
	got, err := c.readv(vec, c.guard, false)
	if err != nil {
		return err
	}
	if uint64(got) > n {
		c.w = got - int(n)
		got = int(n)
	}
	c.into.received(uint64(got))
	return nil
}

// more reads the rest of the payload into the empty buffer, and what is expected
// behind it.
func (c *conn) more() error {
	if err := c.out.flush(c); err != nil {
		return err
	}
	c.r, c.w = 0, 0
	c.iov[0] = bytesVec(c.buf[:min(uint64(len(c.buf)), c.into.bytes+uint64(c.ahead))])
	got, err := c.readv(c.iov[:], nil, false)
	if err != nil {
		return err
	}
	c.w = got
	return nil
}

// sendBack answers a read.
func (c *conn) sendBack(h header) error {
	c.begin()
	if why := c.admit(h.addr, h.size, false); why != "" {
		return c.reject(h, why, 0)
	}
	return c.answer(h)
}

// answer sends the memory of the current request, behind a status in version 2.
func (c *conn) answer(h header) error {
	if h.op&flagV2 != 0 {
		if err := c.out.ok(c); err != nil {
			return err
		}
	}
	for i, region := range c.regions {
		for addr, left := c.into.addr[i], c.into.left[i]; left > 0; {
			n := min(left, maxDirect)
			if err := c.out.payload(c, region, addr, n); err != nil {
				return errors.WithMessagef(err, "read of %d bytes at %#x", n, addr)
			}
			addr += n
			left -= n
		}
	}
	c.read += h.size
	return nil
}

// hello learns who is behind the connection; a peer that means another process
// is told so and left.
func (c *conn) hello(h header) error {
	if h.size > maxHelloSize || h.op&flagV2 == 0 {
		return c.reject(h, "malformed hello", 0)
	}
	if err := c.need(int(h.size), false); err != nil {
		return err
	}
	hello, err := decodeHello(c.buf[c.r : c.r+int(h.size)])
	if err != nil {
		return err
	}
	c.r += int(h.size)
	if hello.Target != c.srv.cfg.Instance {
		return c.refuse(statusOtherProcess, "hello for another process")
	}
	if c.greeting != nil {
		return c.reject(h, "second hello", 0)
	}
	c.many = h.addr >= HelloMany // the address field is the version
	c.greeting = c.srv.introduce(c, hello).encode()
	return c.out.plain(c, c.greeting)
}

// reject refuses a request: with a status in version 2, else by closing. culprit is
// the range at fault, for a message of many.
func (c *conn) reject(h header, why string, culprit uint64) error {
	c.srv.Counters.Rejected.Add(1)
	why = fmt.Sprintf("refused %#x of %d bytes at %#x: %s", h.op, h.size, h.addr, why)
	if h.op&flagV2 == 0 {
		return errors.New(why)
	}
	if c.many && (h.op == opWriteMany|flagV2 || h.op == opReadMany|flagV2) {
		return c.refuse(statusRejected, why, binary.LittleEndian.AppendUint64(nil, culprit)...)
	}
	return c.refuse(statusRejected, why)
}

// refuse sends a status, and more behind it, and ends the connection. What the peer
// still sends is read and dropped for a moment: closing with unread data would reset
// the connection, and the reset could overtake the status.
func (c *conn) refuse(code uint32, why string, more ...byte) error {
	c.release()
	if err := c.out.flush(c); err != nil {
		return err
	}
	status := make([]byte, StatusSize, StatusSize+len(more))
	putStatus(status, code)
	status = append(status, more...)
	c.sock.limit(drainTime)
	if err := c.sock.write(status); err == nil {
		c.sock.closeWrite()
		c.sock.discard(64 << 20)
	}
	return errors.New(why)
}

// need waits until n bytes are buffered. Answers are sent before it waits.
func (c *conn) need(n int, idle bool) error {
	if c.w-c.r >= n {
		return nil
	}
	if c.r > 0 {
		c.w = copy(c.buf, c.buf[c.r:c.w])
		c.r = 0
	}
	for c.w < n {
		if err := c.out.flush(c); err != nil {
			return err
		}
		c.iov[0] = bytesVec(c.buf[c.w:max(n, c.ahead)])
		got, err := c.readv(c.iov[:], nil, idle && c.w == 0)
		if err != nil {
			return err
		}
		c.w += got
	}
	return nil
}

// readv receives; only an idle connection may wait for longer than StallTimeout.
func (c *conn) readv(iov []iovec, g guard, idle bool) (int, error) {
	c.release()
	before := c.beforeIdle
	if !idle {
		before = c.beforeWait
	}
	c.sock.in.keen = idle && c.prompt
	got, err := c.sock.readv(iov, g, before)
	if idle {
		now := time.Now()
		c.prompt = c.size <= smallMessage && now.Sub(c.last) < keenTime
		c.last = now
	}
	if c.limited {
		c.sock.in.limit(0)
		c.limited = false
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return 0, c.overdue("no progress within a request")
	}
	if err == nil && got == 0 {
		return 0, io.EOF
	}
	return got, err
}

// limit bounds the wait for the rest of a request.
func (c *conn) limit() error {
	c.count()
	c.sock.in.limit(c.srv.cfg.StallTimeout)
	c.limited = true
	return nil
}

// overdue words the end of a wait: the peer's fault, or because the server said so.
func (c *conn) overdue(what string) error {
	if c.sock.stopped.Load() {
		return net.ErrClosed
	}
	return errors.Errorf("%s for %v", what, c.srv.cfg.StallTimeout)
}

// count adds this connection's bytes to the server's counters.
func (c *conn) count() {
	if c.written > 0 {
		c.srv.Counters.Written.Add(c.written)
		c.written = 0
	}
	if c.read > 0 {
		c.srv.Counters.Read.Add(c.read)
		c.read = 0
	}
}
