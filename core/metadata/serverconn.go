package metadata

import (
	"io"
	"net"
	"runtime/debug"
	"time"

	"github.com/pkg/errors"
)

// phase is what a connection of a server is at, in the order in which they are
// given up when room is needed, but for handling, which never is.
type phase uint8

const (
	closing  phase = iota // answered; the client may close it in its own time
	reading               // the request is not complete
	replying              // the reply is not handed to the kernel yet
	handling              // a handler runs
)

// serverConn is one connection of a server. phase and began belong to the
// server's lock, the rest to the goroutine that serves it.
type serverConn struct {
	net.Conn
	server   *Server
	admitted time.Time
	phase    phase
	began    uint64
}

// before tells whether c is given up before other.
func (c *serverConn) before(other *serverConn) bool {
	if c.phase != other.phase {
		return c.phase < other.phase
	}
	return c.began < other.began
}

// serve reads one request, answers it and closes the connection.
func (c *serverConn) serve() {
	s := c.server
	defer s.running.Done()
	defer c.forget()
	// A panic here would be ours, not a handler's; it must not end the process.
	defer func() {
		if p := recover(); p != nil {
			s.log.Error("handshake connection panicked", "panic", p, "stack", string(debug.Stack()))
		}
	}()
	c.SetDeadline(time.Now().Add(s.config.RequestTimeout))
	frameType, body, err := ReadFrame(c, s.config.MaxLength)
	if err != nil {
		if err != io.EOF {
			c.drop("unknown", err)
		}
		return
	}
	if !c.enter(handling) {
		return
	}
	reply, err := s.handlers.answer(frameType, body)
	if err != nil {
		c.drop(frameType.String(), err)
		return
	}
	c.reply(AppendFrame(nil, frameType, reply))
}

// reply sends the frame and waits for the client to close, all within the
// reply timeout.
func (c *serverConn) reply(frame []byte) {
	if !c.enter(replying) {
		return
	}
	c.SetDeadline(time.Now().Add(c.server.config.ReplyTimeout))
	if _, err := c.Write(frame); err != nil {
		c.drop("reply", err)
		return
	}
	// Closing at once could reset the connection, and the reply with it, if the
	// client has sent more than its request.
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		half.CloseWrite()
	}
	if c.enter(closing) {
		c.drain()
	}
}

// drain reads until the client closes or the deadline comes.
func (c *serverConn) drain() {
	var scrap [512]byte
	for {
		if _, err := c.Read(scrap[:]); err != nil {
			return
		}
	}
}

// enter begins a phase; false if the server has given the connection up.
func (c *serverConn) enter(p phase) bool {
	s := c.server
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, kept := s.conns[c]; !kept || s.closed {
		return false
	}
	s.enter(c, p)
	return true
}

// drop logs why the connection ends without the client having got its answer.
// Foreign content in err is cut short and quoted where it enters the error.
func (c *serverConn) drop(what string, err error) {
	log := c.server.log
	var p *handlerPanic
	if errors.As(err, &p) {
		log.Error("handshake handler panicked", "request", what, "panic", p.value, "stack", string(p.stack))
		return
	}
	log.Debug("handshake connection dropped", "peer", c.RemoteAddr(), "request", what, "err", err)
}

func (c *serverConn) forget() {
	c.Close()
	c.server.mu.Lock()
	delete(c.server.conns, c)
	c.server.mu.Unlock()
}
