package tcp

import (
	"io"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"
)

// maxIovecs is how many ranges one system call takes (IOV_MAX on Linux).
const maxIovecs = 1024

// iovec is struct iovec with the address as a number: most addresses are a
// caller's memory, which the collector must not take for its own.
type iovec struct {
	base uint64
	len  uint64
}

// bytesVec describes p. p must live on the heap and be kept alive by the caller
// while the iovec is in use.
func bytesVec(p []byte) iovec {
	return iovec{base: uint64(uintptr(unsafe.Pointer(unsafe.SliceData(p)))), len: uint64(len(p))}
}

// socket does scatter and gather on a TCP connection without allocating. One
// goroutine may read and another one write at the same time.
type socket struct {
	conn *net.TCPConn
	raw  syscall.RawConn

	// The closures given to raw are built once; these fields are their
	// arguments and results.
	readFn, writeFn func(fd uintptr) bool
	r, w            transferCall
	hupFn           func(fd uintptr)
	hup             bool // what hupFn found

	stopped atomic.Bool // interrupt was called
	// forlorn: this host's kernel gave the connection up by itself. What looks
	// like the peer's close afterwards is not.
	forlorn atomic.Bool
}

// transferCall is one readv or sendmsg: its arguments, and what came of it.
type transferCall struct {
	iov   []iovec
	guard guard
	wait  bool
	idle  func() // called once, before it waits; or nil
	n     int
	err   error
	msg   unix.Msghdr
}

// newSocket wraps a connection. The kernel will give up on a host that takes no
// data for stall; buffer is the size of its buffers. 0 leaves either to its defaults.
func newSocket(conn *net.TCPConn, stall time.Duration, buffer int) (*socket, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, errors.Wrap(err, "socket")
	}
	if stall > 0 {
		raw.Control(func(fd uintptr) {
			unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(stall.Milliseconds()))
		})
	}
	if buffer > 0 {
		conn.SetReadBuffer(buffer) // the kernel may allow less, which is no error
		conn.SetWriteBuffer(buffer)
	}
	s := &socket{conn: conn, raw: raw}
	s.readFn = func(fd uintptr) bool { return s.r.run(fd, recvCall) }
	s.writeFn = func(fd uintptr) bool { return s.w.run(fd, sendCall) }
	s.hupFn = func(fd uintptr) { s.hup = peerClosed(int32(fd)) }
	return s, nil
}

// hungUp asks the kernel whether the peer has closed its end, also when there is
// data before that which nobody has read yet. One caller at a time.
func (s *socket) hungUp() bool {
	return s.raw.Control(s.hupFn) != nil || s.hup
}

func peerClosed(fd int32) bool {
	fds := [1]unix.PollFd{{Fd: fd, Events: unix.POLLRDHUP}}
	n, err := unix.Poll(fds[:], 0)
	return err == nil && n > 0
}

// readv receives into iov, at most maxIovecs ranges, and returns how many bytes
// came; 0 and no error is the end of the stream. guard is pinned around each
// attempt, not while waiting. idle, if not nil, is called once before it waits.
func (s *socket) readv(iov []iovec, g guard, idle func()) (int, error) {
	s.r = transferCall{iov: iov, guard: g, wait: true, idle: idle}
	if err := s.raw.Read(s.readFn); err != nil {
		return 0, errors.Wrap(err, "receive")
	}
	if s.r.err != nil {
		s.note(s.r.err)
	}
	return s.r.n, s.r.err
}

// writev sends from iov, at most maxIovecs ranges; otherwise as readv. Without wait
// it returns errAgain instead of waiting.
func (s *socket) writev(iov []iovec, g guard, wait bool) (int, error) {
	s.w = transferCall{iov: iov, guard: g, wait: wait}
	if err := s.raw.Write(s.writeFn); err != nil {
		return 0, errors.Wrap(err, "send")
	}
	if s.w.err != nil {
		s.note(s.w.err)
	}
	return s.w.n, s.w.err
}

// interrupt makes calls in progress, and later ones, return an error that
// os.ErrDeadlineExceeded matches.
func (s *socket) interrupt() {
	s.stopped.Store(true)
	s.conn.SetDeadline(longAgo)
}

var longAgo = time.Unix(1, 0)

// limit bounds calls by means of set, one of the connection's SetDeadline
// methods, to d from now, or takes the bound away if d is 0. It does not undo an
// interrupt: either this call sees that there was one, or the interrupt's own
// deadline is set after this one.
func (s *socket) limit(set func(time.Time) error, d time.Duration) {
	var t time.Time
	if d > 0 {
		t = time.Now().Add(d)
	}
	set(t)
	if s.stopped.Load() {
		s.conn.SetDeadline(longAgo)
	}
}

// note remembers that the kernel gave the connection up (no answer from the host,
// no route), which it tells one caller only: the next one sees an end of the
// stream. A reset comes from the peer, and a fault has nothing to do with it.
func (s *socket) note(err error) {
	var errno syscall.Errno
	if errors.As(err, &errno) && !hangup(err) {
		s.forlorn.Store(true)
	}
}

// hangup tells whether err proves that the peer has closed its end.
func hangup(err error) bool {
	return errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.EPIPE)
}

// failure returns the error that the kernel holds for the connection, nil if none.
func (s *socket) failure() error {
	var code int
	err := s.raw.Control(func(fd uintptr) {
		code, _ = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
	})
	if err == nil && code != 0 {
		err = os.NewSyscallError("tcp", syscall.Errno(code))
	}
	if err != nil {
		s.note(err)
	}
	return err
}

// fenceByClose half-closes a connection and waits for the peer's close, which
// comes when the peer has worked off, or dropped, what was sent. false: it did not
// come within d. Nothing else may use the connection.
func (s *socket) fenceByClose(d time.Duration) bool {
	if s.forlorn.Load() {
		return false
	}
	s.conn.SetDeadline(time.Now().Add(d))
	s.conn.CloseWrite() // fails when the peer has reset the connection: then the end comes at once
	_, err := io.Copy(io.Discard, s.conn)
	if err != nil {
		s.note(err)
	}
	return err == nil || hangup(err)
}

// advance drops the first n bytes of iov.
func advance(iov []iovec, n uint64) []iovec {
	for len(iov) > 0 && n >= iov[0].len {
		n -= iov[0].len
		iov = iov[1:]
	}
	if n > 0 {
		iov[0].base += n
		iov[0].len -= n
	}
	return iov
}

// run makes one attempt; false asks the poller to wait and call again.
func (c *transferCall) run(fd uintptr, call func(fd uintptr, c *transferCall) (uintptr, syscall.Errno)) bool {
	if !c.guard.pin() {
		c.err = errGone
		return true
	}
	n, errno := call(fd, c)
	c.guard.unpin()
	switch errno {
	case 0:
		c.n = int(n)
	case unix.EAGAIN:
		if c.wait {
			if idle := c.idle; idle != nil {
				c.idle = nil
				idle()
			}
			return false
		}
		c.err = errAgain
	case unix.EINTR:
		return c.run(fd, call)
	case unix.EFAULT:
		c.err = errors.WithMessage(ErrMemory, "EFAULT")
	default:
		c.err = os.NewSyscallError("tcp", errno)
	}
	return true
}

func recvCall(fd uintptr, c *transferCall) (uintptr, syscall.Errno) {
	n, _, errno := syscall.Syscall(unix.SYS_READV, fd, uintptr(unsafe.Pointer(&c.iov[0])), uintptr(len(c.iov)))
	return n, errno
}

// sendCall uses sendmsg for MSG_NOSIGNAL: a broken connection must not raise
// SIGPIPE in the host process.
func sendCall(fd uintptr, c *transferCall) (uintptr, syscall.Errno) {
	c.msg.Iov = (*unix.Iovec)(unsafe.Pointer(&c.iov[0])) // same layout; see TestIovecLayout
	c.msg.Iovlen = uint64(len(c.iov))
	n, _, errno := syscall.Syscall(unix.SYS_SENDMSG, fd, uintptr(unsafe.Pointer(&c.msg)), unix.MSG_NOSIGNAL)
	return n, errno
}
