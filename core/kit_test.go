package core

import (
	"bytes"
	"cmp"
	"context"
	"log/slog"
	"math/rand/v2"
	"os"
	"runtime"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// deadline bounds every wait of a test on something that must happen.
const deadline = 10 * time.Second

// arena is memory outside the Go heap, as a caller's is.
type arena []byte

func newArena(t testing.TB, size int) arena {
	// A margin on both sides: two arenas that adjoin would be one range, once both are
	// registered.
	const page = 4096
	inside := (size + page - 1) / page * page
	b, err := unix.Mmap(-1, 0, inside+2*page, unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	require.NoError(t, err)
	t.Cleanup(func() { unix.Munmap(b) })
	require.NoError(t, unix.Mprotect(b[page:page+inside], unix.PROT_READ|unix.PROT_WRITE))
	return b[page : page+size : page+size]
}

func (a arena) addr() uint64 { return uint64(uintptr(unsafe.Pointer(unsafe.SliceData(a)))) }

// fill writes bytes that seed decides.
func (a arena) fill(seed uint64) {
	r := rand.New(rand.NewPCG(seed, 1))
	for i := 0; i+8 <= len(a); i += 8 {
		*(*uint64)(unsafe.Pointer(&a[i])) = r.Uint64()
	}
}

// poison makes every byte b.
func (a arena) poison(b byte) {
	for i := range a {
		a[i] = b
	}
}

// all tells whether every byte is b.
func (a arena) all(b byte) bool {
	return len(a) == 0 || (a[0] == b && bytes.Equal(a[1:], a[:len(a)-1]))
}

// noEnv is an environment without any variable.
func noEnv(string) (string, bool) { return "", false }

// env is an environment of some variables.
func env(vars map[string]string) Getenv {
	return func(name string) (string, bool) {
		v, ok := vars[name]
		return v, ok
	}
}

// via is the transport that engines of tests use. Tests run one after the other.
// MC_TEST_VIA, in the environment, names another one to begin with.
var via = cmp.Or(os.Getenv("MC_TEST_VIA"), "tcp")

// hostWays are those without a network: within one process; and as between two
// processes, in the best way, through rings only, and by system calls only.
var hostWays = []string{"self", "local", "packed", "cma"}

// ways are the values of via.
var ways = append(append([]string{"tcp"}, hostWays...), "rdma")

// over makes engines use a transport until the test ends.
func over(t testing.TB, way string) {
	if way == "rdma" {
		needRDMA(t)
	}
	before := via
	via = way
	t.Cleanup(func() { via = before })
}

// overTCP is for tests of what only tcp has, whatever MC_TEST_VIA says.
func overTCP(t testing.TB) {
	if via == "rdma" {
		over(t, "tcp")
	}
}

func testConfig(vars map[string]string) Config {
	cfg := ConfigFromEnv(env(vars))
	cfg.Log = slog.New(slog.DiscardHandler)
	cfg.separate = via != "self"
	cfg.Protocol = "tcp"
	switch via {
	case "tcp":
		cfg.Local = LocalOff
	case "packed":
		cfg.Local = LocalPacked
	case "cma":
		cfg.Local = LocalCMA
	case "rdma":
		cfg.Local, cfg.Protocol, cfg.RDMA.Force = LocalOff, "rdma", true
	}
	return cfg
}

// long leaves a test out with -short: make test runs it with the race detector, and not
// another time without cgo.
func long(t *testing.T) {
	if testing.Short() {
		t.Skip("-short was given, and this takes seconds")
	}
}

func openEngine(t testing.TB, name string, cfg Config) *Engine {
	e, err := Open(name, cfg)
	require.NoError(t, err)
	t.Cleanup(func() { e.Close() })
	return e
}

func register(t testing.TB, e *Engine, a arena) *Memory {
	ms, err := e.Register([]Range{{a.addr(), uint64(len(a))}}, "*")
	require.NoError(t, err)
	return ms[0]
}

func openSegment(t testing.TB, e *Engine, name string) *Segment {
	s, err := e.OpenSegment(context.Background(), name)
	require.NoError(t, err)
	return s
}

// pair is two engines with an arena each, and the first one's segment of the second.
type pair struct {
	a, b       *Engine
	memA, memB arena
	regA, regB *Memory
	seg        *Segment
}

func newPair(t testing.TB, size int, vars map[string]string) *pair {
	p := &pair{memA: newArena(t, size), memB: newArena(t, size)}
	p.a = openEngine(t, "127.0.0.1", testConfig(vars))
	p.b = openEngine(t, "127.0.0.1", testConfig(vars))
	p.regA, p.regB = register(t, p.a, p.memA), register(t, p.b, p.memB)
	p.seg = openSegment(t, p.a, p.b.Name())
	return p
}

// move submits and waits.
func move(t testing.TB, s *Segment, op Op, blocks Blocks) error {
	b, err := s.Submit(op, blocks, Options{})
	if err != nil {
		return err
	}
	defer b.Close()
	return b.Wait(deadline)
}

// scatter makes blocks of one size: block i goes from slot from[i] of one arena to
// slot to[i] of the other.
func scatter(local, remote arena, size int, from, to []int) Blocks {
	var b Blocks
	for i := range from {
		b.Local = append(b.Local, local.addr()+uint64(from[i]*size))
		b.Remote = append(b.Remote, remote.addr()+uint64(to[i]*size))
		b.Length = append(b.Length, uint64(size))
	}
	return b
}

// evenSlots are the numbers 0, 2, 4 ... below n, shuffled by seed (0: in order).
func evenSlots(n int, seed uint64) []int {
	var out []int
	for i := 0; i < n; i += 2 {
		out = append(out, i)
	}
	if seed != 0 {
		rand.New(rand.NewPCG(seed, 2)).Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	}
	return out
}

// eventually waits until ok is true.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(deadline); !ok(); runtime.Gosched() {
		require.True(t, time.Now().Before(end), "not within %v: %s", deadline, what)
	}
}
