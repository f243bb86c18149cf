package core

import (
	"bytes"
	"context"
	"math/rand/v2"
	"os"
	"runtime/pprof"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pkg/errors"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// How long the soak test runs over each transport: MOONCAKE_SOAK=5m for longer.
const soakTime = 2500 * time.Millisecond

const (
	soakWorkers = 4
	soakEach    = 4 // regions of a worker, which touch each other
)

// Two processes, or two engines of one: several threads move random blocks both ways, with random ends, while
// memory of the target comes and goes, and the target fences, stands still, restarts
// and dies. Done means that exactly the blocks have arrived; quiet that nothing does
// any more; and what was deregistered is never touched.
func TestSoak(t *testing.T) {
	long(t)
	length := soakTime
	if text := os.Getenv("MOONCAKE_SOAK"); text != "" {
		var err error
		length, err = time.ParseDuration(text)
		require.NoError(t, err)
	}
	for _, way := range ways[1:] {
		t.Run(way, func(t *testing.T) {
			over(t, way)
			newSoak(t).run(length)
		})
	}
}

// soakEvent counts what happens to the target: odd while it is happening.
type soakEvent struct{ n atomic.Int64 }

func (e *soakEvent) during(do func()) {
	e.n.Add(1)
	defer e.n.Add(1)
	do()
}

// since tells whether it happened since it stood at before.
func (e *soakEvent) since(before int64) bool { return before&1 == 1 || e.n.Load() != before }

// The kinds of events.
const (
	soakFence = iota
	soakStop  // stands still
	soakReset // engine closed and opened again, or killed and started
	soakKinds
)

type soak struct {
	t       *testing.T
	target  *soakTarget
	engines [2]*Engine
	events  [soakKinds]soakEvent
	memory  [soakWorkers]soakEvent // a range of a worker's was deregistered, for a while
	// pages are held, worker by worker, by who looks at them or fills them.
	pages  [soakWorkers]sync.Mutex
	stop   chan struct{}
	moved  atomic.Int64
	failed atomic.Int64
	seed   uint64
}

func newSoak(t *testing.T) *soak {
	s := &soak{t: t, stop: make(chan struct{}), seed: uint64(time.Now().UnixNano())}
	t.Logf("seed %d", s.seed)
	s.target = newSoakTarget(t, soakWorkers*soakEach*soakRegion)
	for i := range s.engines {
		s.engines[i] = openEngine(t, "127.0.0.1", testConfig(nil))
	}
	return s
}

func (s *soak) run(length time.Duration) {
	var wg sync.WaitGroup
	defer wg.Wait()
	defer close(s.stop)
	for n := range soakWorkers {
		wg.Add(1)
		go func() {
			defer wg.Done()
			newSoakWorker(s, n).run()
		}()
	}
	r := rand.New(rand.NewPCG(s.seed, 99))
	for end := time.Now().Add(length); time.Now().Before(end) && !s.t.Failed(); {
		time.Sleep(time.Duration(r.IntN(20)) * time.Millisecond)
		s.disturb(r)
	}
	s.t.Logf("%d batches done, %d failed", s.moved.Load(), s.failed.Load())
	require.NotZero(s.t, s.moved.Load())
}

// disturb does something to the target.
func (s *soak) disturb(r *rand.Rand) {
	switch n := r.IntN(100); {
	case n < 60:
		i := r.IntN(soakWorkers * soakEach)
		s.memory[i/soakEach].during(func() { s.comeAndGo(r, i) })
	case n < 80:
		s.events[soakFence].during(func() {
			require.Equal(s.t, "ok", s.target.ask("fence %s", s.engines[r.IntN(2)].Name()))
		})
	case n < 92:
		s.events[soakStop].during(func() {
			s.target.signal(unix.SIGSTOP)
			time.Sleep(time.Duration(r.IntN(80)) * time.Millisecond)
			s.target.signal(unix.SIGCONT)
		})
	case n < 96:
		s.events[soakReset].during(func() { s.target.restart() })
	default:
		s.events[soakReset].during(func() {
			s.target.kill()
			s.target.start()
		})
	}
}

// comeAndGo deregisters range i, has the pages for itself, and registers it again.
func (s *soak) comeAndGo(r *rand.Rand, i int) {
	require.Equal(s.t, "ok", s.target.ask("deregister %d", i))
	s.pages[i/soakEach].Lock()
	defer s.pages[i/soakEach].Unlock()
	pages := s.target.arena[i*soakRegion : (i+1)*soakRegion]
	pages.poison(0xA5)
	for end := time.Now().Add(time.Duration(r.IntN(3000)) * time.Microsecond); ; {
		if !pages.all(0xA5) {
			s.t.Errorf("a byte landed in region %d after it was deregistered", i)
		}
		if time.Now().After(end) {
			break
		}
	}
	require.Equal(s.t, "ok", s.target.ask("register %d", i))
}

// soakWorker moves blocks between a part of this process's memory and a part of the
// target's.
type soakWorker struct {
	*soak
	n           int
	r           *rand.Rand
	here, there arena // there: the target's pages, as this process sees them
	want        []byte
	engine      *Engine
	local       []*Memory
	segment     *Segment
	addr        uint64 // of there, in the target's process
}

func newSoakWorker(s *soak, n int) *soakWorker {
	const size = soakEach * soakRegion
	return &soakWorker{soak: s, n: n, r: rand.New(rand.NewPCG(s.seed, uint64(n))), engine: s.engines[n%2],
		here: newArena(s.t, size), there: s.target.arena[n*size : (n+1)*size], want: make([]byte, size)}
}

func (w *soakWorker) run() {
	defer func() {
		for _, m := range w.local {
			m.Deregister()
		}
		if w.segment != nil {
			w.segment.Close()
		}
	}()
	half := uint64(len(w.here) / 2)
	var err error
	w.local, err = w.engine.Register([]Range{{w.here.addr(), half}, {w.here.addr() + half, half}}, "*")
	if err != nil {
		w.t.Error(err)
		return
	}
	for {
		select {
		case <-w.stop:
			return
		default:
		}
		if w.t.Failed() {
			return
		}
		if w.segment == nil {
			w.reach()
			continue
		}
		w.round()
		if w.segment != nil && w.r.IntN(50) == 0 {
			w.segment.Close()
			w.segment = nil
		}
	}
}

func (w *soakWorker) reach() {
	before := w.events[soakReset].n.Load()
	stood := w.events[soakStop].n.Load()
	name, addr := w.target.at()
	seg, err := w.engine.OpenSegment(context.Background(), name)
	if err != nil {
		if !w.events[soakReset].since(before) && !w.events[soakStop].since(stood) {
			w.t.Errorf("open: %v", err)
		}
		return
	}
	if w.events[soakReset].since(before) {
		seg.Close() // addr may be of another process
		return
	}
	w.segment, w.addr = seg, addr+uint64(w.n*len(w.there))
}

// blocks returns random ones, which share no byte, and their places.
func (w *soakWorker) blocks() (b Blocks, at [][3]int) {
	most := 1 << (w.r.IntN(18))
	many := 1 + w.r.IntN(1+w.r.IntN(3000))
	order := w.r.IntN(3)
	here, there := w.r.IntN(4096), w.r.IntN(4096)
	for range many {
		n := w.r.IntN(most + 1)
		if here+n > len(w.here) || there+n > len(w.there) {
			break
		}
		at = append(at, [3]int{here, there, n})
		here, there = here+n, there+n
		if order > 0 { // else neighbours
			here, there = here+w.r.IntN(100), there+w.r.IntN(100)
		}
	}
	if order == 2 {
		w.r.Shuffle(len(at), func(i, j int) { at[i], at[j] = at[j], at[i] })
	}
	for _, x := range at {
		b.Local = append(b.Local, w.here.addr()+uint64(x[0]))
		b.Remote = append(b.Remote, w.addr+uint64(x[1]))
		b.Length = append(b.Length, uint64(x[2]))
	}
	return b, at
}

// round moves blocks once.
func (w *soakWorker) round() {
	before := w.counts()
	b, at := w.blocks()
	op := Op(w.r.IntN(2))
	w.pages[w.n].Lock()
	from, to := w.here, w.there
	if op == Read {
		from, to = to, from
	}
	from.fill(w.r.Uint64())
	to.poison(0x5A)
	for i := range w.want {
		w.want[i] = 0x5A
	}
	for _, x := range at {
		if op == Read {
			x[0], x[1] = x[1], x[0]
		}
		copy(w.want[x[1]:x[1]+x[2]], from[x[0]:])
	}
	w.pages[w.n].Unlock()
	batch, err := w.submit(op, b)
	if err != nil {
		w.justified(err, before, false)
		return
	}
	defer batch.Close()
	canceled := w.r.IntN(5) == 0
	if canceled {
		time.Sleep(time.Duration(w.r.IntN(300)) * time.Microsecond)
		batch.Cancel()
	}
	err = batch.Wait(deadline)
	if errors.Is(err, ErrWaitTimeout) {
		w.t.Errorf("a batch does not end: op %d, %d blocks, %+v", op, len(at), batch.Status())
		pprof.Lookup("goroutine").WriteTo(os.Stderr, 2)
		return
	}
	w.check(batch, err, to, before)
}

// submit gives the blocks in one call, or piece by piece.
func (w *soakWorker) submit(op Op, b Blocks) (*Batch, error) {
	opts := Options{}
	if w.r.IntN(5) == 0 {
		opts.Deadline = time.Duration(1 + w.r.IntN(int(2*time.Millisecond)))
	}
	if w.r.IntN(3) > 0 {
		return w.segment.Submit(op, b, opts)
	}
	batch, err := w.segment.Open(op, opts)
	if err != nil {
		return nil, err
	}
	for from, count := 0, len(b.Length); from < count; {
		to := min(from+1+w.r.IntN(500), count)
		if err := batch.Add(b.part(from, to)); err != nil {
			break // it fails the batch
		}
		from = to
	}
	batch.Seal()
	return batch, nil
}

// check holds the outcome against the bytes.
func (w *soakWorker) check(b *Batch, err error, to arena, before [soakKinds + 1]int64) {
	w.pages[w.n].Lock()
	defer w.pages[w.n].Unlock()
	s := b.Status()
	if err == nil {
		w.moved.Add(1)
		if s.Bytes != s.BytesDone {
			w.t.Errorf("done, with %d of %d bytes", s.BytesDone, s.Bytes)
		}
		// Ranges that came and went were poisoned under its hands.
		if !w.memory[w.n].since(before[soakKinds]) && !bytes.Equal(to, w.want) {
			at := 0
			for to[at] == w.want[at] {
				at++
			}
			w.t.Errorf("done, and byte %d of the destination is wrong", at)
		}
		return
	}
	w.failed.Add(1)
	w.justified(err, before, s.Quiet == QuietLocal)
	if s.Quiet == QuietLocal {
		w.settle()
		return
	}
	to.poison(0xA5)
	time.Sleep(time.Duration(w.r.IntN(300)) * time.Microsecond)
	if !to.all(0xA5) {
		w.t.Errorf("a late byte after a quiet end: %v", err)
	}
}

// settle waits until the target has done what it had begun before it stood still.
func (w *soakWorker) settle() {
	for i := 0; w.events[soakStop].n.Load()&1 == 1; i++ {
		time.Sleep(time.Millisecond)
	}
	time.Sleep(20 * time.Millisecond)
}

// justified checks that an error is the answer to something that happened.
func (w *soakWorker) justified(err error, before [soakKinds + 1]int64, loud bool) {
	happened := func(kind int) bool { return w.events[kind].since(before[kind]) }
	ok := false
	switch {
	case errors.Is(err, ErrCanceled), errors.Is(err, ErrDeadline):
		ok = true
	case errors.Is(err, ErrRejected), errors.Is(err, ErrAddress):
		ok = w.memory[w.n].since(before[soakKinds]) || happened(soakReset)
	case errors.Is(err, ErrFenced):
		ok = happened(soakFence)
	case errors.Is(err, ErrRestarted), errors.Is(err, ErrPeer):
		ok = happened(soakReset) || w.reopened()
	}
	if loud {
		ok = ok && (happened(soakStop) || happened(soakReset))
	}
	if !ok {
		w.t.Errorf("unexpected: %v (loud: %v, events before %v, now %v)", err, loud, before, w.counts())
	}
	if errors.Is(err, ErrRestarted) || errors.Is(err, ErrPeer) || errors.Is(err, ErrAddress) {
		w.segment.Close()
		w.segment = nil
	}
}

// reopened tells whether the segment is of a process that is gone.
func (w *soakWorker) reopened() bool {
	_, addr := w.target.at()
	return w.segment.Stale() || addr+uint64(w.n*len(w.there)) != w.addr
}

// counts is what has happened so far, in the end to the memory that this worker uses.
func (w *soakWorker) counts() (n [soakKinds + 1]int64) {
	for i := range w.events {
		n[i] = w.events[i].n.Load()
	}
	n[soakKinds] = w.memory[w.n].n.Load()
	return n
}
