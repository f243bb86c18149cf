package local

import (
	"io"
	"os"
	"syscall"
	"time"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"
)

// bell is one end of a pair, through which two sides wake each other up: a strike of
// one rings the other. It is a socket and no eventfd, for who has the other end can
// then neither make this one block nor fill it up.
type bell struct {
	file *os.File // waits through the runtime's poller, which takes no thread
	raw  syscall.RawConn
	fd   int // its number, until close

	// attempt is hear, and heard what it found: here, for waiting must not allocate.
	attempt func(fd uintptr) bool
	heard   struct {
		n       int
		err     error
		strikes [64]byte
	}
}

// newBells makes a pair, as descriptors.
func newBells() (ends [2]int, err error) {
	return unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
}

// bellOf takes fd over, also when it fails.
func bellOf(fd int) (*bell, error) {
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, errors.Wrap(err, "bell")
	}
	file := os.NewFile(uintptr(fd), "bell")
	raw, err := file.SyscallConn()
	if err != nil {
		file.Close()
		return nil, errors.Wrap(err, "bell")
	}
	b := &bell{file: file, raw: raw, fd: fd}
	b.attempt = b.hear
	return b, nil
}

// strike wakes the other side. It can fail by overflow, when the other end is ringing
// anyway, and when nobody is there. Not after close.
func (b *bell) strike() { unix.Send(b.fd, oneStrike, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL) }

var oneStrike = []byte{1}

// wait returns when the bell has been struck, with an error when it will not be any
// more. One caller at a time.
func (b *bell) wait() error {
	err := b.raw.Read(b.attempt)
	switch {
	case err != nil:
		return err
	case b.heard.err != nil:
		return b.heard.err
	case b.heard.n == 0:
		return io.EOF // the other side has closed it
	}
	return nil
}

// hear takes strikes; false: there are none yet.
func (b *bell) hear(fd uintptr) bool {
	h := &b.heard
	for {
		h.n, _, h.err = unix.Recvfrom(int(fd), h.strikes[:], unix.MSG_DONTWAIT)
		if h.err != unix.EINTR {
			return h.err != unix.EAGAIN
		}
	}
}

// silence ends wait, now and from now on.
func (b *bell) silence() { b.file.SetReadDeadline(time.Unix(1, 0)) }

// close gives the descriptor back. Nobody uses the bell any more.
func (b *bell) close() { b.file.Close() }

func closeBells(bells []*bell) {
	for _, b := range bells {
		b.close()
	}
}
