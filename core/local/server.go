package local

import (
	"context"
	"log/slog"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"
)

// ServerConfig says how a Server serves.
type ServerConfig struct {
	Memory   Memory
	Instance Instance
	Log      *slog.Logger
	// MaxRanges is how many ranges may be registered at once. Address space of 32
	// bytes each is set aside for them, here and in every peer.
	MaxRanges int
	// PackedOnly offers peers no access to this process's memory by system calls.
	PackedOnly bool
}

// Counters of a Server. They never go down.
type Counters struct {
	Written  atomic.Uint64 // bytes that peers wrote here
	Read     atomic.Uint64 // bytes that peers read from here
	Rejected atomic.Uint64 // messages refused
}

// Server lets peers on this host, and in this process, reach registered memory.
type Server struct {
	Counters Counters

	cfg      ServerConfig
	listener *net.UnixListener
	table    *table
	nonces   []byte // page that peers prove their rights with
	epoch    atomic.Uint64
	wg       sync.WaitGroup

	publishing sync.Mutex // orders changes of the table, and guards gone
	gone       bool       // the table is unmapped

	mu      sync.Mutex // guards what follows
	places  [maxConns]bool
	clients map[client]struct{}
	warned  time.Time
	closed  bool

	closing atomic.Bool // closed, for those who do not have the lock
}

// client is an initiator as the server sees it.
type client interface {
	// who tells under which identity it introduced itself.
	who() (Instance, string)
	// cut makes what it has begun so far be refused.
	cut()
	// await returns when it does nothing by rules that were changed before the call.
	await(ctx context.Context) error
	// moved returns the bytes that it moved by itself.
	moved() (written, read uint64)
	// hangUp ends its connection. Does not block.
	hangUp()
}

// usualConns is how many connections are served at once; each takes a dozen
// descriptors of the process.
const usualConns = 128

// NewServer listens for peers until Close.
func NewServer(cfg ServerConfig) (*Server, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.MaxRanges <= 0 || cfg.MaxRanges > maxEntries {
		cfg.MaxRanges = min(max(cfg.MaxRanges, 1), maxEntries)
	}
	s := &Server{cfg: cfg, clients: map[client]struct{}{}}
	var err error
	if s.table, err = newTable(cfg.MaxRanges); err != nil {
		return nil, errors.WithMessage(ErrDevice, err.Error())
	}
	// Outside the Go heap: others read it by its address.
	s.nonces, err = unix.Mmap(-1, 0, unix.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err == nil {
		s.listener, err = net.ListenUnix("unixpacket", address(cfg.Instance))
	}
	if err != nil {
		s.table.close()
		if s.nonces != nil {
			unix.Munmap(s.nonces)
		}
		return nil, errors.WithMessage(ErrDevice, err.Error())
	}
	s.wg.Add(1)
	go s.accept()
	return s, nil
}

// Publish tells peers which ranges are registered: sorted, disjoint, and all that
// there are. Epochs go up with every registration.
func (s *Server) Publish(ranges []Range) {
	s.publishing.Lock()
	defer s.publishing.Unlock()
	if s.gone {
		return
	}
	for _, r := range ranges {
		s.epoch.Store(max(s.epoch.Load(), r.Epoch))
	}
	s.table.publish(ranges)
}

// withdraw tells peers that nothing is registered any more, and why.
func (s *Server) withdraw() {
	s.publishing.Lock()
	defer s.publishing.Unlock()
	if !s.gone {
		s.table.u64(tableClosing).Store(1)
		s.table.publish(nil)
	}
}

// Settle returns when no peer touches a range that the last Publish left out. It
// takes as long as a copy of 1 MiB, unless a peer has stopped in the middle of one:
// then it waits until that peer goes on or dies, and says so in the log.
func (s *Server) Settle() {
	for _, c := range s.snapshot(func(client) bool { return true }) {
		c.await(context.Background())
	}
}

// Identity is what is known about a peer that is to be fenced off.
type Identity struct {
	Instance Instance // zero if unknown
	Names    []string // under which it may have introduced itself
}

// Fence makes sure that what a peer has begun so far touches memory no more, and
// returns when that is so or ctx ends. met tells whether there was one.
func (s *Server) Fence(ctx context.Context, id Identity) (met bool, err error) {
	cut := s.snapshot(func(c client) bool {
		instance, name := c.who()
		return (instance == id.Instance && instance != Instance{}) || slices.Contains(id.Names, name)
	})
	for _, c := range cut {
		c.cut()
	}
	for _, c := range cut {
		if err := c.await(ctx); err != nil {
			return true, errors.WithMessage(err, "fence")
		}
	}
	return len(cut) > 0, nil
}

// Connections returns how many peers are connected now.
func (s *Server) Connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.clients)
}

// Moved returns the bytes that peers wrote here and read from here, by themselves
// or through this server.
func (s *Server) Moved() (written, read uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	written, read = s.Counters.Written.Load(), s.Counters.Read.Load()
	for c := range s.clients {
		w, r := c.moved()
		written, read = written+w, read+r
	}
	return written, read
}

// snapshot returns the clients that match.
func (s *Server) snapshot(match func(client) bool) (out []client) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.clients {
		if match(c) {
			out = append(out, c)
		}
	}
	return out
}

// Close withdraws all ranges and returns when no peer touches memory any more.
// Like Settle it waits for a peer that stopped in the middle of a copy.
func (s *Server) Close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.closing.Store(true)
	s.shutListener()
	s.withdraw()
	all := s.snapshot(func(client) bool { return true })
	for _, c := range all {
		c.cut()
	}
	for _, c := range all {
		c.await(context.Background())
	}
	for _, c := range all {
		c.hangUp()
	}
	s.wg.Wait()
	s.publishing.Lock()
	defer s.publishing.Unlock()
	if s.gone {
		return
	}
	s.gone = true
	s.table.close()
	unix.Munmap(s.nonces)
}

// shutListener ends listening, also for a child that was forked and has the socket:
// connections to it would wait for nobody.
func (s *Server) shutListener() {
	if raw, err := s.listener.SyscallConn(); err == nil {
		raw.Control(func(fd uintptr) { unix.Shutdown(int(fd), unix.SHUT_RDWR) })
	}
	s.listener.Close()
}

// enter makes c one of the clients; false: there is no room, or the server is
// closed. place, if not nil, gets the client's place in the table.
func (s *Server) enter(c client, place *int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || len(s.clients) >= usualConns {
		return false
	}
	if place != nil {
		i := slices.Index(s.places[:], false)
		if i < 0 {
			return false
		}
		s.places[i] = true
		*place = i
	}
	s.clients[c] = struct{}{}
	return true
}

// leave takes c off the books; its bytes stay counted.
func (s *Server) leave(c client, place *int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.clients[c]; !ok {
		return
	}
	written, read := c.moved()
	s.Counters.Written.Add(written)
	s.Counters.Read.Add(read)
	delete(s.clients, c)
	if place != nil {
		s.places[*place] = false
	}
}

func (s *Server) accept() {
	defer s.wg.Done()
	defer recovered(s.cfg.Log, "accept of local peers", nil)
	for delay := time.Millisecond; ; {
		uc, err := s.listener.AcceptUnix()
		if err != nil {
			if errors.Is(err, net.ErrClosed) || s.closing.Load() {
				return
			}
			// Out of descriptors or memory: others may give some back.
			s.cfg.Log.Warn("accept local connection", "err", err, "retry_in", delay)
			time.Sleep(delay)
			delay = min(2*delay, time.Second)
			continue
		}
		delay = time.Millisecond
		c := &conn{server: s, socket: uc}
		if !s.enter(c, &c.place) {
			s.full()
			uc.Close()
			continue
		}
		c.fence0()
		s.wg.Add(1)
		go c.run()
	}
}

// full says in the log, now and then, that there is no room.
func (s *Server) full() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || time.Since(s.warned) < time.Second {
		return
	}
	s.warned = time.Now()
	s.cfg.Log.Warn("no room for another local peer: it will use tcp", "connections", len(s.clients))
}
