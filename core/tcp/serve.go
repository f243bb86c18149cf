package tcp

import (
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
	// directMin is the smallest rest of a payload that is received straight into
	// memory; a shorter one costs less as a copy out of the buffer.
	directMin = 8 << 10
	// maxDirect bounds one system call on memory, and so the time that a
	// deregistration can wait for it.
	maxDirect = 1 << 20
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

	buf  []byte // read ahead; buf[r:w] is unread
	r, w int
	iov  [2]iovec
	one  [1]Region
	held Region // pinned while buffered requests are gone through, or nil
	// span is the regions that the current request's range was found in, in order
	// of address. Its bytes go to no others, even if its addresses are registered
	// anew before the last of them has come.
	span []Region
	out  answers

	written, read uint64 // bytes not yet added to the server's counters
}

func newConn(s *Server, sock *socket) *conn {
	c := &conn{since: time.Now(), srv: s, sock: sock, done: make(chan struct{}), buf: make([]byte, serveBuffer)}
	if a, ok := netip.AddrFromSlice(sock.conn.RemoteAddr().(*net.TCPAddr).IP); ok {
		c.remote = a.Unmap()
	}
	return c
}

// run serves until the connection ends.
func (c *conn) run() {
	err := c.serve()
	c.release()
	c.sock.conn.Close()
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
		err := c.request(h)
		if errors.Is(err, errGone) && h.op == opWrite|flagV2 {
			// What came before has its status; of this one the peer learns why.
			err = c.reject(h, err.Error())
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
	}
	return c.reject(h, fmt.Sprintf("unknown opcode %#x", h.op))
}

// write receives a payload into memory.
func (c *conn) write(h header) error {
	if why := c.check(h, true); why != "" {
		return c.reject(h, why)
	}
	for addr, left := h.addr, h.size; left > 0; {
		n, err := c.receive(addr, left)
		if err != nil {
			return errors.WithMessagef(err, "write of %d bytes at %#x", h.size, h.addr)
		}
		addr += n
		left -= n
	}
	c.written += h.size
	if h.op&flagV2 != 0 {
		return c.out.ok(c)
	}
	return nil
}

// receive moves the next piece of a payload into memory at addr: out of the
// buffer, or straight from the socket when the rest is long.
func (c *conn) receive(addr, left uint64) (uint64, error) {
	region, end := c.at(addr)
	n := min(left, end-addr)
	if c.r == c.w {
		if n < directMin || !region.Direct() {
			return 0, c.need(1, false)
		}
		return c.receiveDirect(region, addr, min(n, maxDirect))
	}
	n = min(n, uint64(c.w-c.r))
	if !c.hold(region) {
		return 0, errGone
	}
	if err := store(region, addr, c.buf[c.r:c.r+int(n)]); err != nil {
		return 0, err
	}
	c.r += int(n)
	return n, nil
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

// receiveDirect reads from the socket into memory, and what follows the payload
// into the empty buffer.
func (c *conn) receiveDirect(region Region, addr, n uint64) (uint64, error) {
	if err := c.out.flush(c); err != nil {
		return 0, err
	}
	c.iov = [2]iovec{{addr, n}, bytesVec(c.buf)}
	c.one[0] = region
	c.r, c.w = 0, 0
	got, err := c.readv(c.iov[:], c.one[:], false)
	if err != nil {
		return 0, err
	}
	if uint64(got) > n {
		c.w = got - int(n)
		return n, nil
	}
	return uint64(got), nil
}

// sendBack answers a read.
func (c *conn) sendBack(h header) error {
	if why := c.check(h, false); why != "" {
		return c.reject(h, why)
	}
	if h.op&flagV2 != 0 {
		if err := c.out.ok(c); err != nil {
			return err
		}
	}
	for addr, left := h.addr, h.size; left > 0; {
		region, end := c.at(addr)
		n := min(left, end-addr, maxDirect)
		if err := c.out.payload(c, region, addr, n); err != nil {
			return errors.WithMessagef(err, "read of %d bytes at %#x", h.size, h.addr)
		}
		addr += n
		left -= n
	}
	c.read += h.size
	return nil
}

// hello learns who is behind the connection; a peer that means another process
// is told so and left.
func (c *conn) hello(h header) error {
	if h.size > maxHelloSize || h.op&flagV2 == 0 {
		return c.reject(h, "malformed hello")
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
		return c.reject(h, "second hello")
	}
	c.greeting = c.srv.introduce(c, hello).encode()
	return c.out.plain(c, c.greeting)
}

// check tells why the range of a request may not be used, "" if it may: every
// byte must be registered; adjacent regions will do. They become c.span.
func (c *conn) check(h header, write bool) string {
	if h.size == 0 {
		return "length 0"
	}
	if h.addr+h.size < h.addr {
		return "range wraps around"
	}
	c.span = c.span[:0]
	for addr := h.addr; addr < h.addr+h.size; {
		region := c.find(addr)
		if region == nil {
			return "address not registered"
		}
		if write && !region.Writable() {
			return "memory is read-only"
		}
		c.span = append(c.span, region)
		_, addr = region.Bounds()
	}
	return ""
}

// at returns the region of the current request that holds addr, and its end.
func (c *conn) at(addr uint64) (region Region, end uint64) {
	for _, region = range c.span {
		if _, end = region.Bounds(); addr < end {
			break
		}
	}
	return region, end
}

// find returns the live region that holds addr, held, or nil.
func (c *conn) find(addr uint64) Region {
	if c.held != nil {
		if start, end := c.held.Bounds(); addr >= start && addr < end {
			return c.held
		}
	}
	region := c.srv.cfg.Memory.Find(addr)
	if region == nil || !c.hold(region) {
		return nil
	}
	return region
}

// reject refuses a request: with a status in version 2, else by closing.
func (c *conn) reject(h header, why string) error {
	c.srv.Counters.Rejected.Add(1)
	why = fmt.Sprintf("refused %#x of %d bytes at %#x: %s", h.op, h.size, h.addr, why)
	if h.op&flagV2 == 0 {
		return errors.New(why)
	}
	return c.refuse(statusRejected, why)
}

// refuse sends a status and ends the connection. What the peer still sends is
// read and dropped for a moment: closing with unread data would reset the
// connection, and the reset could overtake the status.
func (c *conn) refuse(code uint32, why string) error {
	c.release()
	if err := c.out.flush(c); err != nil {
		return err
	}
	var b [StatusSize]byte
	status := b[:]
	putStatus(status, code)
	c.sock.limit(c.sock.conn.SetDeadline, drainTime)
	if _, err := c.sock.conn.Write(status); err == nil {
		c.sock.conn.CloseWrite()
		io.Copy(io.Discard, io.LimitReader(c.sock.conn, 64<<20))
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
		c.iov[0] = bytesVec(c.buf[c.w:])
		got, err := c.readv(c.iov[:1], nil, idle && c.w == 0)
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
	got, err := c.sock.readv(iov, g, false)
	if err == errAgain {
		c.count()
		if !idle {
			c.sock.limit(c.sock.conn.SetReadDeadline, c.srv.cfg.StallTimeout)
			defer c.sock.limit(c.sock.conn.SetReadDeadline, 0)
		}
		got, err = c.sock.readv(iov, g, true)
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return 0, c.overdue("no progress within a request")
	}
	if err == nil && got == 0 {
		return 0, io.EOF
	}
	return got, err
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
