package tcp

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pkg/errors"
)

// ServerConfig says how a Server serves. Zero fields take the default.
type ServerConfig struct {
	Memory   Memory
	Instance Instance
	Log      *slog.Logger
	// Fenced is called when a fence has been counted, before anybody can learn of it
	// or it has taken effect. It must not block, nor call the server. May be nil.
	Fenced func()
	// MaxConns bounds the connections served at once; see room. Default 4096, or
	// a quarter of what the process may open files, if that is less.
	MaxConns int
	// StallTimeout ends a connection that stops in the middle of a request, or
	// that does not take its answers. Idle connections are kept. Default 60 s.
	StallTimeout time.Duration
	// SocketBuffer is the size of each connection's buffers in the kernel; 0: the
	// kernel grows them as it sees fit.
	SocketBuffer int
}

// Counters of a Server. They never go down.
type Counters struct {
	Written  atomic.Uint64 // bytes that peers wrote here
	Read     atomic.Uint64 // bytes that peers read from here
	Rejected atomic.Uint64 // requests refused
}

// Server serves the data connections of peers.
type Server struct {
	Counters Counters

	cfg      ServerConfig
	listener net.Listener
	wg       sync.WaitGroup

	mu     sync.Mutex // guards what follows
	conns  map[*conn]struct{}
	fences uint64              // made so far
	fenced map[Instance]uint64 // the last one that concerned each initiator
	floor  uint64              // the same for initiators that are not in fenced
	warned time.Time           // when the log last said that there are too many connections
	named  map[string]Instance // the last initiator that used a name
	closed bool
}

// NewServer serves connections accepted from listener, which it owns from now
// on, until Close.
func NewServer(listener net.Listener, cfg ServerConfig) *Server {
	if cfg.MaxConns == 0 {
		cfg.MaxConns = defaultMaxConns()
	}
	if cfg.StallTimeout == 0 {
		cfg.StallTimeout = 60 * time.Second
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	s := &Server{cfg: cfg, listener: listener, conns: map[*conn]struct{}{},
		fenced: map[Instance]uint64{}, named: map[string]Instance{}}
	s.wg.Add(1)
	go s.accept()
	return s
}

// Port returns the port the server listens on.
func (s *Server) Port() uint16 {
	return uint16(s.listener.Addr().(*net.TCPAddr).Port)
}

// Connections returns how many connections are served now.
func (s *Server) Connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}

// Fences returns how many fences were made so far: peers are told, and what they
// begin is held against it.
func (s *Server) Fences() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.fences
}

// Close stops serving and returns when no connection touches memory any more.
func (s *Server) Close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.listener.Close()
	s.retire(func(*conn) bool { return true })
	s.wg.Wait()
}

// Identity is what is known about a peer that is to be fenced off.
type Identity struct {
	Instance Instance     // zero if unknown
	Names    []string     // under which it may have introduced itself
	Addrs    []netip.Addr // for a peer that does not introduce itself
}

// Fence retires the connections of a peer, and, if it is not known to have
// introduced itself, those from its addresses that nobody introduced, and returns
// when none of them touches memory any more, or when ctx ends. What a peer that
// introduces itself had begun on them is refused when it connects again. met tells
// whether it ever did, or was found at one of its addresses.
func (s *Server) Fence(ctx context.Context, who Identity) (met bool, err error) {
	s.mu.Lock()
	instances, introduced := s.instancesOf(who)
	s.fences++
	for instance := range instances {
		s.remember(instance)
	}
	if s.cfg.Fenced != nil {
		s.cfg.Fenced()
	}
	s.mu.Unlock()
	from := map[netip.Addr]bool{}
	for _, a := range who.Addrs {
		from[a.Unmap()] = true
	}
	retired := s.retire(func(c *conn) bool {
		if c.introduced {
			return instances[c.from]
		}
		return !introduced && from[c.remote]
	})
	for _, c := range retired {
		select {
		case <-c.done:
		case <-ctx.Done():
			return true, errors.Wrapf(ctx.Err(), "fence: %d connections retired, still waiting for them", len(retired))
		}
	}
	return introduced || len(retired) > 0, nil
}

// instancesOf returns the processes that who stands for, older ones of the same
// name that are still connected among them, and whether one is known to have
// introduced itself: an engine that speaks version 1 has an instance, too, and
// does not. s.mu is held.
func (s *Server) instancesOf(who Identity) (out map[Instance]bool, introduced bool) {
	out = map[Instance]bool{}
	for name, instance := range s.named {
		if instance == who.Instance || slices.Contains(who.Names, name) {
			out[instance] = true
		}
	}
	for c := range s.conns {
		if c.introduced && (c.from == who.Instance || slices.Contains(who.Names, c.name)) {
			out[c.from] = true
		}
	}
	introduced = len(out) > 0
	if who.Instance != (Instance{}) {
		out[who.Instance] = true
	}
	return out, introduced
}

// remember notes that the latest fence concerns instance. When there are too many
// to remember, it is taken to concern all of them: they may begin again what they
// had begun. s.mu is held.
func (s *Server) remember(instance Instance) {
	if len(s.fenced) >= 4*s.cfg.MaxConns {
		clear(s.fenced)
		s.floor = s.fences
	}
	s.fenced[instance] = s.fences
}

// retire makes the connections that match end, and returns them. Their own
// goroutines close them, once they no longer touch memory: the peer takes the
// close for the proof of that.
func (s *Server) retire(match func(*conn) bool) []*conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []*conn
	for c := range s.conns {
		if match(c) {
			c.sock.interrupt()
			out = append(out, c)
		}
	}
	return out
}

func (s *Server) accept() {
	defer s.wg.Done()
	defer recovered(s.cfg.Log, "accept", nil)
	for delay := time.Millisecond; ; {
		nc, err := s.listener.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			// Out of descriptors or memory: others may give some back.
			s.cfg.Log.Warn("accept data connection", "err", err, "retry_in", delay)
			time.Sleep(delay)
			delay = min(2*delay, time.Second)
			continue
		}
		delay = time.Millisecond
		s.add(nc.(*net.TCPConn))
	}
}

// add begins to serve one connection, if there is room.
func (s *Server) add(nc *net.TCPConn) {
	sock, err := newSocket(nc, 0, s.cfg.SocketBuffer)
	if err != nil {
		nc.Close()
		return
	}
	c := newConn(s, sock)
	s.mu.Lock()
	if s.closed || !s.room(c) {
		s.mu.Unlock()
		sock.close()
		return
	}
	s.conns[c] = struct{}{}
	s.wg.Add(1)
	s.mu.Unlock()
	go c.run()
}

// introduce records who is behind a connection and answers when it was fenced.
func (s *Server) introduce(c *conn, h Hello) Greeting {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.introduced, c.from, c.name = true, h.From, h.Name
	// One entry a peer process; a server that has seen this many different ones
	// forgets the names of those that are not connected.
	if len(s.named) >= 4*s.cfg.MaxConns {
		s.forget()
	}
	s.named[h.Name] = h.From
	return Greeting{Instance: s.cfg.Instance, Fenced: max(s.floor, s.fenced[h.From])}
}

// forget drops the names of peers that have no connection. s.mu is held.
func (s *Server) forget() {
	live := map[Instance]bool{}
	for c := range s.conns {
		live[c.from] = true
	}
	for name, instance := range s.named {
		if !live[instance] {
			delete(s.named, name)
		}
	}
}
