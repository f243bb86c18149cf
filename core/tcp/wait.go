package tcp

import (
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"
)

// A socket waits in the runtime's poller, where it costs no thread, or, when it is
// keen, in a system call: when what comes is expected at once and somebody waits for
// the answer. The poller has one thread woken for all that comes on any socket it
// knows, and then another one for the goroutine, which takes some 40% of the time of a
// ping-pong at each end. So a keen socket leaves the poller until it has waited in vain.

// keenTime bounds a wait in a system call: it keeps a thread, and for a while one of
// the runtime's processors, from others.
const keenTime = 2 * time.Millisecond

// keen counts the waits in a system call.
var keen atomic.Int32

var processors = sync.OnceValue(func() int32 { return int32(runtime.GOMAXPROCS(0)) })

// mostKeen bounds them, so that processors are left: a wait may keep one until the
// runtime notices.
func mostKeen(brief bool) int32 {
	if brief {
		return processors()
	}
	return max(1, processors()/2)
}

// awaitKeenly waits for something to receive, for keenTime at most. When it was in vain
// the socket is no longer keen.
func (s *socket) awaitKeenly(idle func() error) error {
	d := &s.in
	if idle != nil {
		if err := idle(); err != nil {
			return err
		}
	}
	ready := false
	if keen.Add(1) <= mostKeen(d.brief) && s.polled.leave() {
		d.fds[0] = unix.PollFd{Fd: int32(s.fd), Events: unix.POLLIN}
		d.timeout = unix.NsecToTimespec(int64(keenTime)) // the kernel writes what is left of it
		n, err := unix.Ppoll(d.fds[:], &d.timeout, nil)
		ready = n > 0 || err == unix.EINTR // then it will be found out
	}
	keen.Add(-1)
	d.keen = ready
	if !ready && d.brief {
		return errEnough
	}
	return nil
}

// polled is a socket in the runtime's poller, by a descriptor of its own: to close it
// is the only way out of there.
type polled struct {
	mu    sync.Mutex // guards what follows
	file  *os.File   // nil: not in the poller
	raw   syscall.RawConn
	users int // directions that wait
}

// waits is how a direction waits in the poller.
type waits struct {
	limit func(*os.File, time.Time) error
	until func(syscall.RawConn, func(fd uintptr) bool) error
}

var (
	readWaits  = waits{(*os.File).SetReadDeadline, syscall.RawConn.Read}
	writeWaits = waits{(*os.File).SetWriteDeadline, syscall.RawConn.Write}
)

// await tries until it succeeds, in the poller.
func (s *socket) await(d *direction, w waits) error {
	file, raw, err := s.polled.enter(s)
	if err != nil {
		return err
	}
	defer s.polled.exit()
	if !d.until.IsZero() || d.limited == file {
		if err := w.limit(file, d.until); err != nil {
			return err
		}
		d.limited = file
	}
	if s.stopped.Load() { // else interrupt sets its limit after this one
		return os.ErrDeadlineExceeded
	}
	return w.until(raw, d.try)
}

// enter adds a user.
func (p *polled) enter(s *socket) (*os.File, syscall.RawConn, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.file == nil {
		fd, err := unix.FcntlInt(uintptr(s.fd), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return nil, nil, errors.Wrap(err, "wait")
		}
		p.file = os.NewFile(uintptr(fd), "data connection")
		if p.raw, err = p.file.SyscallConn(); err != nil {
			return nil, nil, errors.Wrap(err, "wait")
		}
	}
	p.users++
	return p.file, p.raw, nil
}

// exit takes a user off.
func (p *polled) exit() {
	p.mu.Lock()
	p.users--
	p.mu.Unlock()
}

// leave takes the socket out of the poller; false: it has a user there.
func (p *polled) leave() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.users > 0 {
		return false
	}
	if p.file != nil {
		p.file.Close()
		p.file = nil
	}
	return true
}

// interrupt ends the waits there. Waits that begin later see that the socket was
// stopped.
func (p *polled) interrupt() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.file != nil {
		p.file.SetDeadline(longAgo)
	}
}

var longAgo = time.Unix(1, 0)
