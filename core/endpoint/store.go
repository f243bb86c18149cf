package endpoint

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"mooncake/core/metadata"
)

// farewell bounds what Close spends on telling peers.
const farewell = 500 * time.Millisecond

// Store holds the connections of one device port. Safe for concurrent use. No lock
// is held while a message is under way or the hardware is at work, so any number
// of peers may connect at once.
type Store struct {
	cfg  Config
	path string // this port's own device path
	log  *slog.Logger

	ctx     context.Context // ends when the store closes
	cancel  context.CancelFunc
	running sync.WaitGroup // goroutines, answers and links

	mu      sync.Mutex // guards what follows, and what says so elsewhere
	closed  bool
	links   map[*link]struct{}    // all that are not destroyed
	shared  map[string]*Endpoint  // by the peer's device path: connections to upstream
	active  map[peerKey]*Endpoint // connections from here to peers of this implementation
	targets map[string]*Endpoint  // the last of active that is connected, by the peer's device path
	peers   map[peerKey]*peer     // who of this implementation connected to here
	current map[string]*peer      // the last of them that used a device path
	fenced  map[string]uint64     // by instance: the count when it was last fenced off
	floor   uint64                // the same for instances that are not in fenced
	heard   map[string]struct{}   // servers of upstream's device paths that connected to here
	seated  int                   // how many of links have a place; at most MaxEndpoints
	left    int                   // how many links with a place were destroyed
	asking  chan struct{}         // closed when peers have been asked; nil while nobody asks
}

// peerKey is a peer's device, in one life of the peer.
type peerKey struct{ path, instance string }

// New makes a store for one port. ErrArgument if cfg makes no sense.
func New(cfg Config) (*Store, error) {
	cfg.setDefaults()
	if err := cfg.check(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	path := NICPath(cfg.Server, cfg.NIC)
	return &Store{
		cfg: cfg, path: path, log: cfg.Log.With("port", path), ctx: ctx, cancel: cancel,
		links: map[*link]struct{}{}, shared: map[string]*Endpoint{}, active: map[peerKey]*Endpoint{},
		targets: map[string]*Endpoint{},
		peers:   map[peerKey]*peer{}, current: map[string]*peer{}, fenced: map[string]uint64{},
		heard: map[string]struct{}{},
	}, nil
}

// Path is this port's own device path.
func (s *Store) Path() string { return s.path }

// Len is how many sets of queue pairs there are, in both directions, those that are
// being made or destroyed included.
func (s *Store) Len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.links)
}

// lastNumber is the last number that was given to a connection in this process.
var lastNumber atomic.Uint64

// nextNumber is larger than all before, also than those of a store that was closed.
// Numbers begin with the clock only to be unlike in every process.
func nextNumber() uint64 {
	for {
		last := lastNumber.Load()
		next := max(last+1, uint64(time.Now().UnixNano()))
		if lastNumber.CompareAndSwap(last, next) {
			return next
		}
	}
}

// Close destroys all queue pairs and returns when that is done. Peers of this
// implementation are told, as far as they answer within half a second. Connects under
// way fail with ErrClosed; requests that come later are rejected. Calls after the
// first wait as well.
func (s *Store) Close() {
	s.mu.Lock()
	var letters []letter
	if !s.closed {
		s.closed = true
		letters = s.farewells()
		for l := range s.links {
			l.die(ErrClosed)
		}
	}
	s.mu.Unlock()
	s.cancel()

	ctx, cancel := context.WithTimeout(context.Background(), farewell)
	defer cancel()
	s.sendAll(ctx, letters)
	s.running.Wait()
}

// letter is a message whose reply nobody needs.
type letter struct {
	session string
	message *metadata.ConnectionMessage
}

// farewells are what peers are told when the store closes. s.mu is held.
func (s *Store) farewells() []letter {
	var out []letter
	for _, e := range s.active {
		if e.asked {
			out = append(out, letter{e.target.Session, e.retireMessage()})
		}
	}
	for _, p := range s.peers {
		if p.live != nil && p.live.remote != nil {
			out = append(out, p.live.closedLetter())
		}
	}
	return out
}

// sendAll sends letters, several at a time, until ctx ends.
func (s *Store) sendAll(ctx context.Context, letters []letter) {
	var sending sync.WaitGroup
	slots := make(chan struct{}, 64)
	for _, l := range letters {
		slots <- struct{}{} // those before end with ctx
		if ctx.Err() != nil {
			break
		}
		sending.Add(1)
		go func() {
			defer sending.Done()
			s.send(ctx, l)
			<-slots
		}()
	}
	sending.Wait()
}

// send sends one letter, once.
func (s *Store) send(ctx context.Context, l letter) {
	_ = s.safely("send", func() error {
		_, err := s.cfg.Ask(ctx, l.session, l.message)
		if err != nil {
			s.log.Debug("peer was not told", "peer", l.session, "kind", l.message.Extension.Kind, "err", err)
		}
		return nil
	})
}

// background runs do in a goroutine that Close waits for. s.mu is held.
func (s *Store) background(what string, do func()) {
	s.running.Add(1)
	go func() {
		defer s.running.Done()
		_ = s.safely(what, func() error { do(); return nil })
	}()
}
