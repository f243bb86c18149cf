package local

import (
	"encoding/hex"
	"net"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"
)

// address is where the engine of an instance listens: an abstract name, which is
// there for this network namespace only and goes with its process.
func address(instance Instance) *net.UnixAddr {
	return &net.UnixAddr{Net: "unixpacket", Name: "@mooncake-go/" + hex.EncodeToString(instance[:])}
}

// send sends one message with descriptors, which stay the caller's.
func send(conn *net.UnixConn, message []byte, fds ...int) error {
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	if _, _, err := conn.WriteMsgUnix(message, rights, nil); err != nil {
		return errors.WithMessage(ErrPeer, "handshake: "+err.Error())
	}
	return nil
}

// receive reads one message and the descriptors with it, exactly count of them.
func receive(conn *net.UnixConn, count int) (message []byte, fds []int, err error) {
	message = make([]byte, maxHandshake)
	control := make([]byte, unix.CmsgSpace(4*(maxFDs+1)))
	n, cn, flags, _, err := conn.ReadMsgUnix(message, control)
	if err != nil {
		return nil, nil, errors.WithMessage(ErrPeer, "handshake: "+err.Error())
	}
	fds = rightsOf(control[:cn])
	switch {
	case n == 0:
		err = errors.WithMessage(ErrPeer, "handshake: the peer closed the connection")
	case flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0:
		err = errors.WithMessage(ErrProtocol, "handshake: message too long")
	case count >= 0 && len(fds) != count:
		err = errors.WithMessagef(ErrProtocol, "handshake: %d descriptors, not %d", len(fds), count)
	}
	if err != nil {
		closeAll(fds)
		return nil, nil, err
	}
	return message[:n], fds, nil
}

// hangUp ends a connection for both sides, and for children that have it, too.
func hangUp(conn *net.UnixConn) {
	conn.CloseRead()
	conn.CloseWrite()
	conn.Close()
}

// maxFDs is how many descriptors a message carries at most.
const maxFDs = 2 + maxRings

func rightsOf(control []byte) (fds []int) {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return nil
	}
	for i := range messages {
		if len(messages[i].Data)%4 != 0 { // ParseUnixRights would read past the end
			continue
		}
		if more, err := unix.ParseUnixRights(&messages[i]); err == nil {
			fds = append(fds, more...)
		}
	}
	return fds
}

func closeAll(fds []int) {
	for _, fd := range fds {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}
