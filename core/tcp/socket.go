package tcp

import (
	"net"
	"net/netip"
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
//
// How it waits is in wait.go.
type socket struct {
	fd     int        // never blocks
	remote netip.Addr // of the peer

	in, out direction
	polled  polled

	stopped atomic.Bool // interrupt was called
	// forlorn: this host's kernel gave the connection up by itself. What looks
	// like the peer's close afterwards is not.
	forlorn atomic.Bool
}

// direction is one half of a socket; it belongs to the goroutine that uses it.
type direction struct {
	until time.Time // when a wait ends with os.ErrDeadlineExceeded; zero: never
	keen  bool      // receiving: wait in a system call, for keenTime
	brief bool      // and no longer, but end with errEnough

	// The call in progress. try is made once.
	iov   []iovec
	guard guard
	n     int
	err   error
	try   func(fd uintptr) bool

	limited *os.File // has a limit of this direction's
	fds     [1]unix.PollFd
	timeout unix.Timespec
	msg     unix.Msghdr
	vec     [1]iovec
}

// newSocket takes a connection over; on success conn itself is closed. The kernel
// will give up on a host that takes no data for stall; buffer is the size of its
// buffers. 0 leaves either to its defaults.
func newSocket(conn *net.TCPConn, stall time.Duration, buffer int) (*socket, error) {
	if buffer > 0 {
		conn.SetReadBuffer(buffer) // the kernel may allow less, which is no error
		conn.SetWriteBuffer(buffer)
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, errors.Wrap(err, "socket")
	}
	s := &socket{}
	s.in.try = func(uintptr) bool { return s.attempt(&s.in, recvCall) }
	s.out.try = func(uintptr) bool { return s.attempt(&s.out, sendCall) }
	if a, ok := netip.AddrFromSlice(conn.RemoteAddr().(*net.TCPAddr).IP); ok {
		s.remote = a.Unmap()
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		s.fd, failed = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0)
	})
	if err == nil {
		err = failed
	}
	if err != nil {
		return nil, errors.Wrap(err, "socket")
	}
	if stall > 0 {
		unix.SetsockoptInt(s.fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(stall.Milliseconds()))
	}
	conn.Close()
	return s, nil
}

// close gives the connection back. Nobody may be using it, but for interrupt.
func (s *socket) close() {
	s.polled.leave()
	unix.Close(s.fd)
}

// closeAtOnce does so, and drops what the kernel has not sent yet.
func (s *socket) closeAtOnce() {
	unix.SetsockoptLinger(s.fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	s.close()
}

// closeWrite says that nothing more comes. It fails when the peer has reset the
// connection: then the end comes at once.
func (s *socket) closeWrite() { unix.Shutdown(s.fd, unix.SHUT_WR) }

// readv receives into iov, at most maxIovecs ranges, and returns how many bytes
// came; 0 and no error is the end of the stream. guard is pinned around each
// attempt, not while waiting. idle, if not nil, is called before it waits; its error
// ends the call.
func (s *socket) readv(iov []iovec, g guard, idle func() error) (int, error) {
	d := &s.in
	d.iov, d.guard = iov, g
	if d.keen {
		if err := s.awaitKeenly(idle); err != nil {
			return 0, err
		}
		idle = nil
	}
	if d.try(0) {
		return d.n, d.err
	}
	if idle != nil {
		if err := idle(); err != nil {
			return 0, err
		}
	}
	if err := s.await(d, readWaits); err != nil {
		return 0, errors.Wrap(err, "receive")
	}
	return d.n, d.err
}

// writev sends from iov, at most maxIovecs ranges; otherwise as readv. Without wait
// it returns errAgain instead of waiting.
func (s *socket) writev(iov []iovec, g guard, wait bool) (int, error) {
	d := &s.out
	d.iov, d.guard = iov, g
	if d.try(0) {
		return d.n, d.err
	}
	if !wait {
		return 0, errAgain
	}
	if err := s.await(d, writeWaits); err != nil {
		return 0, errors.Wrap(err, "send")
	}
	return d.n, d.err
}

// attempt makes one call, with the guard pinned; false: it would block.
func (s *socket) attempt(d *direction, call func(s *socket, iov []iovec) (uintptr, syscall.Errno)) bool {
	d.n, d.err = 0, nil
	if s.stopped.Load() {
		d.err = os.ErrDeadlineExceeded
		return true
	}
	if !d.guard.pin() {
		d.err = errGone
		return true
	}
	n, errno := call(s, d.iov)
	for errno == unix.EINTR {
		n, errno = call(s, d.iov)
	}
	d.guard.unpin()
	switch errno {
	case 0:
		d.n = int(n)
	case unix.EAGAIN:
		return false
	case unix.EFAULT:
		d.err = errors.WithMessage(ErrMemory, "EFAULT")
	default:
		d.err = os.NewSyscallError("tcp", errno)
		s.note(d.err)
	}
	return true
}

func recvCall(s *socket, iov []iovec) (uintptr, syscall.Errno) {
	n, _, errno := syscall.Syscall(unix.SYS_READV, uintptr(s.fd), uintptr(unsafe.Pointer(&iov[0])), uintptr(len(iov)))
	return n, errno
}

// sendCall uses sendmsg for MSG_NOSIGNAL: a broken connection must not raise
// SIGPIPE in the host process.
func sendCall(s *socket, iov []iovec) (uintptr, syscall.Errno) {
	m := &s.out.msg
	m.Iov = (*unix.Iovec)(unsafe.Pointer(&iov[0])) // same layout; see TestIovecLayout
	m.Iovlen = uint64(len(iov))
	n, _, errno := syscall.Syscall(unix.SYS_SENDMSG, uintptr(s.fd), uintptr(unsafe.Pointer(m)), unix.MSG_NOSIGNAL)
	return n, errno
}

// write sends all of p.
func (s *socket) write(p []byte) error {
	for len(p) > 0 {
		s.out.vec[0] = bytesVec(p)
		n, err := s.writev(s.out.vec[:], nil, true)
		if err != nil {
			return err
		}
		p = p[n:]
	}
	return nil
}

// discard drops up to most bytes of what comes, until the end of the stream, and
// returns how many there were.
func (s *socket) discard(most uint64) (n uint64, err error) {
	p := make([]byte, 64<<10)
	for n < most {
		s.in.vec[0] = bytesVec(p)
		got, err := s.readv(s.in.vec[:], nil, nil)
		if err != nil || got == 0 {
			return n, err
		}
		n += uint64(got)
	}
	return n, nil
}

// interrupt makes calls in progress, and later ones, return an error that
// os.ErrDeadlineExceeded matches: within keenTime.
func (s *socket) interrupt() {
	s.stopped.Store(true)
	s.polled.interrupt()
}

// limit bounds the waits of a direction to d from now, or takes the bound away if d
// is 0.
func (d *direction) limit(t time.Duration) {
	d.until = time.Time{}
	if t > 0 {
		d.until = time.Now().Add(t)
	}
}

// limit bounds both directions.
func (s *socket) limit(t time.Duration) {
	s.in.limit(t)
	s.out.limit(t)
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
	code, err := unix.GetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err == nil && code != 0 {
		err = syscall.Errno(code)
	}
	if err != nil {
		err = os.NewSyscallError("tcp", err)
		s.note(err)
	}
	return err
}

// fenceByClose half-closes a connection and waits for the peer's close, which
// comes when the peer has worked off, or dropped, what was sent. false: it did not
// come within d. Nothing else may use the connection, which was interrupted before.
func (s *socket) fenceByClose(d time.Duration) bool {
	if s.forlorn.Load() {
		return false
	}
	s.stopped.Store(false)
	s.limit(d)
	s.closeWrite()
	_, err := s.discard(noLimit)
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
