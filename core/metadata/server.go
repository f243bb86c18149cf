package metadata

import (
	"log/slog"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/pkg/errors"
)

const (
	defaultMaxConns = 256
	defaultTimeout  = 5 * time.Second

	firstPause = 5 * time.Millisecond // after the first failed accept
	maxPause   = time.Second

	settleTime = 20 * time.Millisecond // see letSettle
	settleStep = time.Millisecond
)

// ServerConfig says how to serve. The zero value of a field stands for the
// default in its comment.
type ServerConfig struct {
	// Listener is served, and closed at the end. Nil: the server listens itself,
	// on Port if that is not 0, else in MinPort..MaxPort (see ListenInRange).
	Listener         net.Listener
	Port             uint16
	MinPort, MaxPort uint16

	MaxConns       int           // connections at a time; 256
	MaxLength      uint64        // of a request frame; DefaultMaxLength
	RequestTimeout time.Duration // from accept until the request is complete; 5 s
	ReplyTimeout   time.Duration // from the answer until the connection is closed; 5 s
	Logger         *slog.Logger  // slog.Default()
}

// Server answers handshake requests, each connection in a goroutine of its own,
// one request per connection.
//
// It holds at most MaxConns connections. When one more arrives, it closes one that
// does least harm: the oldest of those that are answered and merely wait for
// the client's close, else the one that has waited longest for its request to be
// complete, else the oldest that takes long to read its reply. So clients
// that are idle or slow lock nobody out. Only if handlers run for all of them is
// the new one closed.
type Server struct {
	listener net.Listener
	handlers Handlers
	config   ServerConfig
	log      *slog.Logger
	running  sync.WaitGroup // the accept loop and the connections
	stop     chan struct{}  // closed by Close

	mu     sync.Mutex // guards what follows and the phases of the connections
	conns  map[*serverConn]struct{}
	clock  uint64 // numbers the phases in the order they begin
	closed bool
}

// Listen starts a server. It fails as ListenInRange and ListenPort do, and with
// ErrArgument for negative limits; then a listener that was given is still the
// caller's. The server runs until Close.
func Listen(config ServerConfig, handlers Handlers) (*Server, error) {
	if config.MaxConns < 0 || config.RequestTimeout < 0 || config.ReplyTimeout < 0 {
		return nil, failf(ErrArgument, "server: MaxConns %d, RequestTimeout %v and ReplyTimeout %v must not be negative",
			config.MaxConns, config.RequestTimeout, config.ReplyTimeout)
	}
	config.setDefaults()
	listener, err := config.listen()
	if err != nil {
		return nil, err
	}
	s := &Server{
		listener: listener,
		handlers: handlers,
		config:   config,
		log:      config.Logger,
		stop:     make(chan struct{}),
		conns:    make(map[*serverConn]struct{}),
	}
	s.running.Add(1)
	go s.acceptLoop()
	return s, nil
}

func (c *ServerConfig) setDefaults() {
	if c.MaxConns == 0 {
		c.MaxConns = defaultMaxConns
	}
	if c.MaxLength == 0 {
		c.MaxLength = DefaultMaxLength
	}
	if c.RequestTimeout == 0 {
		c.RequestTimeout = defaultTimeout
	}
	if c.ReplyTimeout == 0 {
		c.ReplyTimeout = defaultTimeout
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
}

func (c *ServerConfig) listen() (net.Listener, error) {
	switch {
	case c.Listener != nil:
		return c.Listener, nil
	case c.Port != 0:
		return ListenPort(c.Port)
	}
	return ListenInRange(c.MinPort, c.MaxPort)
}

// Port is the port that the server listens on.
func (s *Server) Port() uint16 { return PortOf(s.listener) }

// Close stops listening, closes all connections and waits until handlers that
// run have returned; so a handler must not call it. Calls after the first wait
// as well, and do nothing else.
func (s *Server) Close() error {
	s.mu.Lock()
	first := !s.closed
	s.closed = true
	if first {
		close(s.stop)
		for c := range s.conns {
			c.Close()
		}
	}
	s.mu.Unlock()

	var err error
	if first {
		err = errors.Wrap(s.listener.Close(), "close handshake listener")
	}
	s.running.Wait()
	return err
}

// acceptLoop runs until the listener is closed. Failures such as a lack of file
// descriptors pass: it tries again, ever more slowly.
func (s *Server) acceptLoop() {
	defer s.running.Done()
	var pause time.Duration
	for {
		conn, err := s.listener.Accept()
		if err == nil {
			pause = 0
			s.letSettle()
			s.admit(conn)
			continue
		}
		if s.stopped() {
			return
		}
		if errors.Is(err, net.ErrClosed) {
			s.log.Error("handshake listener was closed by somebody else; peers cannot open this engine any more", "err", err)
			return
		}
		pause = min(max(2*pause, firstPause), maxPause)
		s.log.Warn("handshake connection not accepted", "err", err, "pause", pause)
		if isShortage(err) {
			s.makeRoom()
		}
		if !s.sleep(pause) {
			return
		}
	}
}

// isShortage tells errors that closing a connection may cure.
func isShortage(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) ||
		errors.Is(err, syscall.ENOBUFS) || errors.Is(err, syscall.ENOMEM)
}

func (s *Server) stopped() bool {
	select {
	case <-s.stop:
		return true
	default:
		return false
	}
}

// sleep is false if the server was closed meanwhile.
func (s *Server) sleep(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-s.stop:
		return false
	case <-timer.C:
		return true
	}
}

// admit starts to serve a connection, or closes it if that cannot be.
func (s *Server) admit(conn net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || len(s.conns) >= s.config.MaxConns && !s.evict() {
		conn.Close()
		return
	}
	c := &serverConn{Conn: conn, server: s, admitted: time.Now()}
	s.conns[c] = struct{}{}
	s.enter(c, reading)
	s.running.Add(1)
	go c.serve()
}

// makeRoom closes one connection if that does little harm.
func (s *Server) makeRoom() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.evict()
}

// evict closes the connection that does least harm, and forgets it. It is false
// if handlers run for all of them. The caller holds the lock.
func (s *Server) evict() bool {
	victim := s.victim()
	if victim == nil {
		return false
	}
	delete(s.conns, victim)
	victim.Close()
	return true
}

// victim is the connection that it does least harm to close, nil if handlers run
// for all of them. The caller holds the lock.
func (s *Server) victim() *serverConn {
	var victim *serverConn
	for c := range s.conns {
		if c.phase != handling && (victim == nil || c.before(victim)) {
			victim = c
		}
	}
	return victim
}

// letSettle waits, when the server is full, until the connection that would be
// closed for the next one has had settleTime: in a burst, connections are accepted
// faster than their goroutines come to read requests that are there already.
func (s *Server) letSettle() {
	for {
		var wait time.Duration
		s.mu.Lock()
		if len(s.conns) >= s.config.MaxConns {
			if v := s.victim(); v != nil {
				wait = settleTime - time.Since(v.admitted)
			}
		}
		s.mu.Unlock()
		if wait <= 0 || !s.sleep(min(wait, settleStep)) {
			return
		}
	}
}

// enter begins a phase of c. The caller holds the lock.
func (s *Server) enter(c *serverConn, p phase) {
	s.clock++
	c.phase, c.began = p, s.clock
}
