package local

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	mrand "math/rand/v2"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// patience bounds every wait for something that must happen.
const patience = 5 * time.Second

var quietLog = slog.New(slog.DiscardHandler)

func TestMain(m *testing.M) {
	if size := os.Getenv(beTarget); size != "" {
		serveAsChild(size)
		return
	}
	if target := os.Getenv(beLeaver); target != "" {
		leaveInsideACopy(target)
	}
	if what := os.Getenv(beHammer); what != "" {
		hammer(what)
	}
	os.Exit(m.Run())
}

// source is a supply of slices. What publish made available can be taken.
type source struct {
	mu     sync.Mutex // guards what follows
	slices []Slice
	given  int
	shown  int
	left   uint64
	bytes  uint64
	packed uint64
	ends   []End
	late   int // calls after the end
	ended  chan struct{}
}

func newSource(slices []Slice) *source { return &source{slices: slices, ended: make(chan struct{})} }

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

func (s *source) Ahead() (slices, bytes uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return uint64(s.shown - s.given), s.left
}

func (s *source) Done(bytes uint64, packed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.check()
	s.bytes += bytes
	if packed {
		s.packed += bytes
	}
}

func (s *source) Ended(end End) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ends = append(s.ends, end)
	if len(s.ends) == 1 {
		close(s.ended)
	}
}

func (s *source) arrived() (bytes, packed uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.bytes, s.packed
}

// end waits for the end and checks that it came once.
func (s *source) end(t testing.TB) End {
	t.Helper()
	select {
	case <-s.ended:
	case <-time.After(patience):
		require.FailNow(t, "the posting does not end")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	require.Len(t, s.ends, 1, "a posting ends once")
	return s.ends[0]
}

// well waits for the end and checks that every byte has been reported once.
func (s *source) well(t testing.TB) {
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
	require.Equal(t, bytes, s.bytes, "bytes that arrived")
}

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

// moved posts and waits for a good end.
func moved(t testing.TB, p *Peer, write bool, slices []Slice) *source {
	t.Helper()
	src, _ := post(p, write, slices)
	src.well(t)
	return src
}

// scattered is n slices of size bytes: slot i here, a random other one there.
func scattered(local, remote uint64, n, size int) []Slice {
	out := make([]Slice, n)
	for i, to := range mrand.New(mrand.NewPCG(uint64(n), uint64(size))).Perm(n) {
		out[i] = Slice{Local: local + uint64(2*i*size), Remote: remote + uint64(2*to*size), Len: uint64(size), Mover: host{}}
	}
	return out
}

func one(local, remote uint64, size int) []Slice {
	return []Slice{{local, remote, uint64(size), host{}}}
}

// same checks that slices have the same bytes on both sides, within this process.
func same(t testing.TB, slices []Slice) {
	t.Helper()
	for i, s := range slices {
		if !bytes.Equal(hostBytes(s.Local, int(s.Len)), hostBytes(s.Remote, int(s.Len))) {
			require.FailNow(t, "bytes differ", "slice %d of %d bytes", i, s.Len)
		}
	}
}

func newInstance(t testing.TB) (i Instance) {
	_, err := rand.Read(i[:])
	require.NoError(t, err)
	return i
}

// startTarget serves in this process until the test ends.
func startTarget(t testing.TB, set ...func(*ServerConfig)) *target {
	x := &target{}
	cfg := ServerConfig{Memory: x, Instance: newInstance(t), Log: quietLog, MaxRanges: 100}
	for _, f := range set {
		f(&cfg)
	}
	var err error
	x.server, err = NewServer(cfg)
	require.NoError(t, err)
	t.Cleanup(x.server.Close)
	return x
}

// dial connects to a target.
func dial(t testing.TB, instance Instance, set ...func(*DialConfig)) (*Remote, error) {
	cfg := DialConfig{Target: instance, From: Instance{7}, Name: "me:1", Lanes: 3, Rings: 2, Log: quietLog}
	for _, f := range set {
		f(&cfg)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return Dial(ctx, cfg)
}

// reach makes a peer towards a target; it is closed with the test.
func reach(t testing.TB, instance Instance, set ...func(*DialConfig)) *Peer {
	r, err := dial(t, instance, set...)
	require.NoError(t, err)
	p := NewRemotePeer(PeerConfig{Name: "peer", Log: quietLog}, r)
	t.Cleanup(p.Close)
	return p
}

func mode(m Mode) func(*DialConfig) { return func(cfg *DialConfig) { cfg.Mode = m } }

// way is one of the ways in which bytes go to a target.
type way struct {
	name string
	open func(t testing.TB, x *target) *Peer
}

func remoteWay(name string, m Mode) way {
	return way{name, func(t testing.TB, x *target) *Peer { return reach(t, x.server.cfg.Instance, mode(m)) }}
}

var waysBetween = []way{remoteWay("best", Best), remoteWay("packed", PackedOnly), remoteWay("direct", DirectOnly)}

var everyWay = append([]way{{"inside", func(t testing.TB, x *target) *Peer {
	g := x.server.Attach(Instance{7}, "me:1", copyRanges)
	require.NotNil(t, g)
	p := NewInsidePeer(PeerConfig{Name: "peer", Log: quietLog}, g, 2)
	t.Cleanup(p.Close)
	return p
}}}, waysBetween...)

// each runs a test in every way, in both directions.
func each(t *testing.T, ways []way, test func(t *testing.T, w way, write bool)) {
	for _, w := range ways {
		for _, write := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/write=%v", w.name, write), func(t *testing.T) { test(t, w, write) })
		}
	}
}

// pair is a target with memory and a peer that moves to it and from it.
type pair struct {
	*target
	near, far arena
	region    *region
	peer      *Peer
}

func newPair(t testing.TB, w way, size int) *pair {
	p := &pair{target: startTarget(t), near: newArena(t, size), far: newArena(t, size)}
	p.region = p.register(p.far.addr(), p.far.end(), true)
	p.peer = w.open(t, p.target)
	return p
}

func (p *pair) scattered(n, size int) []Slice {
	return scattered(p.near.addr(), p.far.addr(), n, size)
}

// watchPoison poisons pages and sees that nothing lands.
func watchPoison(t testing.TB, arenas ...arena) {
	t.Helper()
	for _, a := range arenas {
		a.poison(0xA5)
	}
	for end := time.Now().Add(100 * time.Millisecond); time.Now().Before(end); {
		for i, a := range arenas {
			require.True(t, a.all(0xA5), "a late byte in arena %d", i)
		}
	}
}
