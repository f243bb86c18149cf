package tcp

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"time"

	"github.com/pkg/errors"
)

// HelloVersion is the hello that this package speaks. A descriptor announces
// it; initiators use the smaller of both sides' numbers, 0 for none.
const HelloVersion = HelloMany

// What the versions mean.
const (
	HelloFirst = 1 // introductions and fences
	HelloMany  = 2 // and messages of many ranges, see many.go
)

// Instance identifies one start of one engine.
type Instance [16]byte

const (
	maxHelloSize   = 4096 // later versions may append fields
	helloFixedSize = 34   // target, own instance, length of name
	helloReplySize = StatusSize + 16 + 8
)

// Hello is what an initiator says first on a connection.
type Hello struct {
	Version int      // what this connection will use, at most what the peer announced
	Target  Instance // the process it means to reach
	From    Instance // itself
	Name    string   // its own segment name, by which it can be fenced
}

// Greeting is the server's answer.
type Greeting struct {
	Instance Instance
	// Fenced is how many fences the server had made when it last fenced this
	// initiator off, that one included; 0: never. What began with knowledge of
	// fewer is refused.
	Fenced uint64
}

// Greet says hello on a fresh connection and reads the answer, until ctx ends.
// ErrRestarted means that another process than hello.Target answered. After an
// error the connection is of no use.
func Greet(ctx context.Context, conn net.Conn, hello Hello) (Greeting, error) {
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	g, err := greet(conn, hello)
	if !stop() && err == nil {
		err = errors.WithMessage(ErrPeer, "hello: "+ctx.Err().Error())
	}
	return g, err
}

func greet(conn net.Conn, hello Hello) (Greeting, error) {
	var g Greeting
	if _, err := conn.Write(hello.encode()); err != nil {
		return g, errors.WithMessage(ErrPeer, "hello: "+err.Error())
	}
	var b [helloReplySize]byte
	if _, err := io.ReadFull(conn, b[:StatusSize]); err != nil {
		return g, errors.WithMessage(ErrPeer, "hello: "+err.Error())
	}
	code, err := parseStatus(b[:])
	if err != nil {
		return g, err
	}
	switch code {
	case statusOK:
	case statusOtherProcess:
		return g, ErrRestarted
	default:
		return g, errors.WithMessagef(ErrProtocol, "hello answered with status %d", code)
	}
	if _, err := io.ReadFull(conn, b[StatusSize:]); err != nil {
		return g, errors.WithMessage(ErrPeer, "hello: "+err.Error())
	}
	copy(g.Instance[:], b[StatusSize:])
	g.Fenced = binary.LittleEndian.Uint64(b[StatusSize+16:])
	return g, nil
}

// encode gives the hello request: a header whose address field is the version,
// then target, own instance, length of name (u16), name.
func (h Hello) encode() []byte {
	name := h.Name[:min(len(h.Name), 1024)]
	b := make([]byte, HeaderSize, HeaderSize+helloFixedSize+len(name))
	header{size: uint64(helloFixedSize + len(name)), addr: uint64(max(h.Version, HelloFirst)), op: opHello | flagV2}.put(b)
	b = append(b, h.Target[:]...)
	b = append(b, h.From[:]...)
	b = binary.LittleEndian.AppendUint16(b, uint16(len(name)))
	return append(b, name...)
}

// decodeHello reads the payload of a hello; bytes after the name are a later
// version's and ignored.
func decodeHello(b []byte) (Hello, error) {
	var h Hello
	if len(b) < helloFixedSize {
		return h, errors.WithMessagef(ErrProtocol, "hello of %d bytes", len(b))
	}
	copy(h.Target[:], b)
	copy(h.From[:], b[16:])
	n := int(binary.LittleEndian.Uint16(b[32:]))
	if len(b) < helloFixedSize+n {
		return h, errors.WithMessagef(ErrProtocol, "hello of %d bytes with a name of %d", len(b), n)
	}
	h.Name = string(b[helloFixedSize : helloFixedSize+n])
	return h, nil
}

func (g Greeting) encode() []byte {
	b := make([]byte, StatusSize, helloReplySize)
	putStatus(b, statusOK)
	b = append(b, g.Instance[:]...)
	return binary.LittleEndian.AppendUint64(b, g.Fenced)
}
