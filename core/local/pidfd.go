package local

import (
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"
)

// other is the process at the other end of a connection. Its number may be given
// to another process one day; the pidfd always means this one.
type other struct {
	pid, uid int
	file     *os.File // a pidfd; nil where there is none
	fd       int      // its number, while file is open
	raw      syscall.RawConn
}

// otherOf asks the kernel who is at the other end. Where it cannot hand out a
// pidfd, the number is opened: the caller makes sure afterwards that the process
// was alive then, so that the number was not somebody else's.
func otherOf(conn *net.UnixConn) (*other, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, errors.Wrap(err, "credentials")
	}
	o := &other{fd: -1}
	var credErr error
	err = raw.Control(func(fd uintptr) {
		cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
		if err != nil {
			credErr = err
			return
		}
		o.pid, o.uid = int(cred.Pid), int(cred.Uid)
		if n, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PEERPIDFD); err == nil {
			o.fd = n
		}
	})
	if err == nil {
		err = credErr
	}
	if err != nil {
		return nil, errors.Wrap(err, "credentials")
	}
	if o.fd < 0 && o.pid > 0 {
		if n, err := unix.PidfdOpen(o.pid, 0); err == nil {
			o.fd = n
		}
	}
	if o.fd < 0 {
		return o, nil
	}
	unix.CloseOnExec(o.fd)
	// Non-blocking, for os.File to wait through the runtime's poller.
	if err := unix.SetNonblock(o.fd, true); err != nil {
		unix.Close(o.fd)
		o.fd = -1
		return o, nil
	}
	o.file = os.NewFile(uintptr(o.fd), "pidfd")
	if o.raw, err = o.file.SyscallConn(); err != nil {
		o.close()
		return nil, errors.Wrap(err, "pidfd")
	}
	return o, nil
}

// dead tells whether the process has ended: none of its threads is in a system
// call any more. Without a pidfd that is never known. Not after close.
func (o *other) dead() bool {
	if o.file == nil {
		return false
	}
	fds := [1]unix.PollFd{{Fd: int32(o.fd), Events: unix.POLLIN}}
	n, _, _ := unix.RawSyscall6(unix.SYS_PPOLL, uintptr(unsafe.Pointer(&fds[0])), 1, uintptr(unsafe.Pointer(&unix.Timespec{})), 0, 0, 0)
	return n == 1 && fds[0].Revents != 0
}

// lacks tells whether the process is known not to have a file mapped that it had:
// another program has taken it over, and its threads are gone.
func (o *other) lacks(file string) bool {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(o.pid) + "/maps")
	// A process whose first thread has ended shows nothing, and goes on.
	if err != nil || len(text) == 0 || o.pid == 0 {
		return false
	}
	return !strings.Contains(string(text), " "+file+" ")
}

// awaitDeath returns true when the process has ended, false after stopWaiting.
func (o *other) awaitDeath() bool {
	died := false
	o.raw.Read(func(uintptr) bool {
		died = o.dead()
		return died
	})
	return died
}

// deadOrClosed is dead for those who do not know whether close was called.
func (o *other) deadOrClosed() bool {
	if o.file == nil {
		return false
	}
	died := true
	o.raw.Control(func(uintptr) { died = o.dead() })
	return died
}

// stopWaiting makes awaitDeath return.
func (o *other) stopWaiting() {
	if o.file != nil {
		o.file.SetReadDeadline(time.Unix(1, 0))
	}
}

func (o *other) close() {
	if o.file != nil {
		o.file.Close()
	}
}
