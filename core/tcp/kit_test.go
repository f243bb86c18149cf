package tcp

import (
	"context"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// patience bounds every wait for something that must happen.
const patience = 5 * time.Second

var quietLog = slog.New(slog.DiscardHandler)

// source is a scripted supply of slices. What publish made available can be
// taken; the test says when that is.
type source struct {
	mu     sync.Mutex // guards what follows
	slices []Slice
	given  int
	shown  int // published
	left   uint64
	done   int
	bytes  uint64
	resent int
	ends   []End
	late   int           // calls after the end
	moved  chan struct{} // told after each Done, if there is room

	ended chan struct{}
	recut func(x Slice, emit func(Slice)) // nil: slices stay whole
}

// newSource has slices, none of them published.
func newSource(slices []Slice) *source {
	return &source{slices: slices, ended: make(chan struct{}), moved: make(chan struct{}, 1)}
}

// publish makes n more slices available, all with n < 0.
func (s *source) publish(n int) *source {
	s.mu.Lock()
	defer s.mu.Unlock()
	to := len(s.slices)
	if n >= 0 {
		to = min(to, s.shown+n)
	}
	for ; s.shown < to; s.shown++ {
		s.left += s.slices[s.shown].Len
	}
	return s
}

func (s *source) Next(dst []Slice, budget uint64) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.check()
	var n int
	for bytes := uint64(0); n < len(dst) && bytes < budget && s.given < s.shown; n++ {
		dst[n] = s.slices[s.given]
		bytes += dst[n].Len
		s.left -= dst[n].Len
		s.given++
	}
	return n
}

func (s *source) check() {
	if len(s.ends) > 0 {
		s.late++
	}
}

func (s *source) Left() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.left
}

func (s *source) Done(slices int, bytes uint64) {
	s.mu.Lock()
	s.check()
	s.done += slices
	s.bytes += bytes
	s.mu.Unlock()
	select {
	case s.moved <- struct{}{}:
	default:
	}
}

func (s *source) Recut(x Slice, emit func(Slice)) {
	if s.recut == nil {
		emit(x)
		return
	}
	s.recut(x, emit)
}

func (s *source) Resent(slices int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.check()
	s.resent += slices
}

func (s *source) Ended(end End) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ends = append(s.ends, end)
	if len(s.ends) == 1 {
		close(s.ended)
	}
}

// counts returns how many slices were confirmed and sent again.
func (s *source) counts() (done, resent int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.done, s.resent
}

// end waits for the end and checks that it came once and last.
func (s *source) end(t testing.TB) End {
	t.Helper()
	await(t, s.ended, "the posting to end")
	s.mu.Lock()
	defer s.mu.Unlock()
	require.Len(t, s.ends, 1, "a posting ends once")
	require.Zero(t, s.late, "calls after the end")
	return s.ends[0]
}

// well waits for the end and checks that everything is confirmed exactly once.
func (s *source) well(t testing.TB) End {
	t.Helper()
	end := s.end(t)
	require.NoError(t, end.Err)
	require.True(t, end.Quiet)
	s.mu.Lock()
	defer s.mu.Unlock()
	var bytes uint64
	for _, x := range s.slices[:s.shown] {
		bytes += x.Len
	}
	require.Equal(t, s.shown, s.done, "slices confirmed")
	require.Equal(t, bytes, s.bytes, "bytes confirmed")
	return end
}

func await(t testing.TB, c <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(patience):
		require.FailNow(t, "waited in vain for "+what)
	}
}

// eventually waits until ok.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	require.Eventually(t, ok, patience, time.Millisecond, what)
}

// post gives everything that slices has.
func post(p *Peer, write bool, slices []Slice) (*source, *Posting) {
	src := newSource(slices).publish(-1)
	po := p.Post(write, src)
	po.Seal()
	return src, po
}

// row is n slices of size bytes, at the same distance on both sides.
func row(m Mover, local, remote uint64, n, size, stride int) []Slice {
	out := make([]Slice, n)
	for i := range out {
		off := uint64(i * stride)
		out[i] = Slice{Local: local + off, Remote: remote + off, Len: uint64(size), Mover: m}
	}
	return out
}

func listen(t testing.TB, addr string) net.Listener {
	l, err := net.Listen("tcp", addr)
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	return l
}

// startServer serves mem on a free port of 127.0.0.1 until the test ends.
func startServer(t testing.TB, mem Memory, set ...func(*ServerConfig)) *Server {
	cfg := ServerConfig{Memory: mem, Log: quietLog, Instance: Instance{1, 2, 3}}
	for _, f := range set {
		f(&cfg)
	}
	s := NewServer(listen(t, "127.0.0.1:0"), cfg)
	t.Cleanup(s.Close)
	return s
}

// dialer dials a listener, with or without a hello.
type dialer struct {
	addr    string
	version int
	hello   *Hello
}

func (d *dialer) dial(ctx context.Context) (Link, error) {
	var nd net.Dialer
	conn, err := nd.DialContext(ctx, "tcp", d.addr)
	if err != nil {
		return Link{}, &dialError{err}
	}
	link := Link{Conn: conn.(*net.TCPConn), Version: d.version}
	if d.hello == nil {
		return link, nil
	}
	g, err := Greet(ctx, conn, *d.hello)
	if err != nil {
		conn.Close()
		return Link{}, err
	}
	link.Fenced = g.Fenced
	link.Many = d.hello.Version >= HelloMany
	return link, nil
}

// dialError is ErrPeer, and keeps the system's error for those who look for it.
type dialError struct{ cause error }

func (e *dialError) Error() string   { return ErrPeer.Error() + ": " + e.cause.Error() }
func (e *dialError) Unwrap() []error { return []error{ErrPeer, e.cause} }

// startPeer makes the initiator's side towards addr; it is closed with the test.
func startPeer(t testing.TB, addr string, set ...func(*PeerConfig, *dialer)) *Peer {
	d := &dialer{addr: addr, version: 2}
	cfg := PeerConfig{Name: "peer", Version: 2, Log: quietLog}
	for _, f := range set {
		f(&cfg, d)
	}
	d.version = cfg.Version
	if cfg.Dial == nil {
		cfg.Dial = d.dial
	}
	p := NewPeer(cfg)
	t.Cleanup(p.Close)
	return p
}

func version1(cfg *PeerConfig, d *dialer) { cfg.Version = 1 }

// framings are how slices go over the wire between two of this kind: many to a
// message, or each with a request of its own, as with others.
var framings = map[string]func(*PeerConfig, *dialer){"many": many, "each": func(*PeerConfig, *dialer) {}}

// framing is what newPair's peers use. See both; no test runs beside another.
var framing = framings["many"]

// many agrees on messages of many ranges with a server of startServer's.
func many(cfg *PeerConfig, d *dialer) {
	d.hello = &Hello{Version: HelloMany, Target: Instance{1, 2, 3}, From: Instance{7}, Name: "near"}
}

func lanes(n int) func(*PeerConfig, *dialer) {
	return func(cfg *PeerConfig, d *dialer) { cfg.Lanes = n }
}

// pair is a server with memory and a peer that moves to it and from it.
type pair struct {
	near, far arena
	region    *region
	table     *table
	server    *Server
	peer      *Peer
}

func newPair(t testing.TB, size int, set ...func(*PeerConfig, *dialer)) *pair {
	p := &pair{near: newArena(t, size), far: newArena(t, size), table: &table{}}
	p.region = p.table.add(newRegion(host{}, p.far.addr(), p.far.end()))
	p.server = startServer(t, p.table)
	p.peer = startPeer(t, p.server.listener.Addr().String(), append([]func(*PeerConfig, *dialer){framing}, set...)...)
	return p
}

// row is as the function, from the start of both arenas.
func (p *pair) row(n, size, stride int) []Slice {
	return row(host{}, p.near.addr(), p.far.addr(), n, size, stride)
}
