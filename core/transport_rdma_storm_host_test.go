//go:build cgo

package core

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pkg/errors"
)

// stormPatience bounds everything that must end by itself.
const stormPatience = 40 * time.Second

// stormStall is how long engines wait for a lane that stands still.
const stormStall = 1500 * time.Millisecond

// stormEngine is one life of a host's engine, and what its workers know of it.
type stormEngine struct {
	*Engine
	began, refused, failed, bytes atomic.Uint64
}

// stormHost is an engine that serves the workers whose target it is, and that workers of
// its own use.
type stormHost struct {
	*stormShared
	n      int
	file   arena // as its process has it
	engine atomic.Pointer[stormEngine]

	mu     sync.Mutex // guards what follows
	r      *rand.Rand
	ranges map[int][]*Memory // that a worker's target has registered
	lives  []*stormEngine
	wg     sync.WaitGroup // its workers
}

func newStormHost(n int, file arena, seed uint64) *stormHost {
	return &stormHost{stormShared: stormSharedIn(file), n: n, file: file, r: rand.New(rand.NewPCG(seed, uint64(1000+n)))}
}

// vars is a random configuration: short queues, few of them, small limits.
func (h *stormHost) vars() map[string]string {
	pick := func(of ...int) string { return strconv.Itoa(of[h.r.IntN(len(of))]) }
	vars := map[string]string{
		"MC_HANDSHAKE_CONNECT_TIMEOUT": "3",
		"MC_RDMA_QUEUE_PAIRS":          pick(1, 2, 3, 4, 4, 4),
		"MC_MAX_WR":                    pick(4, 8, 32, 256),
		"MC_MAX_SGE":                   pick(1, 3, 16, 30),
		"MC_MAX_INLINE":                pick(0, 0, 64, 512),
		"MC_MAX_MR_SIZE":               pick(1<<40, 100_000),
		"MC_RDMA_READ_BACK":            pick(0, 0, 1),
	}
	if h.r.IntN(3) == 0 {
		vars["MC_MAX_CQE_PER_CTX"] = "256"
	}
	return vars
}

// open starts an engine by the name of the one before, with all memory registered.
func (h *stormHost) open() error {
	me := &h.hosts[h.n]
	cfg := testConfig(h.vars())
	cfg.RPCPort, cfg.patience, cfg.Devices = uint16(me.port.Load()), stormStall, stormDevice(h.n)
	me.base.Store(h.file.addr()) // before anybody can reach the engine
	e, err := Open("127.0.0.1", cfg)
	for end := time.Now().Add(stormPatience); err != nil && time.Now().Before(end); e, err = Open("127.0.0.1", cfg) {
		if !strings.Contains(err.Error(), stormDevice(h.n)) {
			cfg.RPCPort = 0 // somebody else has taken the port meanwhile
		}
		time.Sleep(time.Millisecond) // until the device's port is up, or the device is there again
	}
	if err != nil {
		return err
	}
	me.port.Store(uint64(e.Port()))
	h.ranges = map[int][]*Memory{}
	life := &stormEngine{Engine: e}
	for w, route := range stormRoutes {
		if route.to == h.n && err == nil {
			h.ranges[w], err = h.register(life, stormThere(w))
		}
	}
	h.lives = append(h.lives, life)
	h.engine.Store(life)
	return err
}

// register registers one side of a worker's memory, cut anew, with keys of its own.
func (h *stormHost) register(e *stormEngine, at int) ([]*Memory, error) {
	var ranges []Range
	borders := cuts(h.r, stormArea, 12)
	for i, from := range borders[:len(borders)-1] {
		ranges = append(ranges, Range{h.file.addr() + uint64(at+from), uint64(borders[i+1] - from)})
	}
	return e.Register(ranges, "*")
}

// close ends the engine; it may not take long, whatever is under way.
func (h *stormHost) close() error {
	life := h.engine.Load()
	closed := make(chan error, 1)
	go func() { closed <- life.Close() }()
	select {
	case err := <-closed:
		return err
	case <-time.After(stormPatience):
		h.accuse("closing the engine of host %d takes more than %v\n%s%s", h.n, stormPatience, stormStateOf(life.Engine), allStacks())
		return errors.New("close hangs")
	}
}

// does what a line says, and returns the answer.
func (h *stormHost) does(line string) string {
	if line == "finish" {
		h.wg.Wait() // workers take the lock
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	command, arg, _ := strings.Cut(line, " ")
	var err error
	switch command {
	case "open":
		err = h.open()
	case "reopen":
		if err = h.close(); err == nil {
			err = h.open()
		}
	case "work":
		h.startWorkers(h.r.Uint64())
	case "explain":
		fmt.Fprintln(os.Stderr, stormStateOf(h.engine.Load().Engine), allStacks())
	case "churn":
		err = h.churn()
	case "sweep":
		err = h.sweep()
	case "fence":
		err = h.fence(arg)
	case "break":
		h.breakLanes()
	case "finish":
		err = h.finish()
	default:
		err = errors.New("what is " + command)
	}
	if err != nil {
		return "error: " + err.Error()
	}
	return "ok"
}

// churn takes some ranges of a worker's target back, looks for bytes that land there all
// the same, and registers all of them anew.
func (h *stormHost) churn() (err error) {
	var mine []int
	for w, route := range stormRoutes {
		if route.to == h.n {
			mine = append(mine, w)
		}
	}
	w := mine[h.r.IntN(len(mine))]
	all := h.ranges[w]
	h.r.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	gone := all[:1+h.r.IntN(len(all))]
	h.during(h.n, stormMemory, func() {
		if err = DeregisterAll(gone); err != nil {
			return
		}
		h.untouched(w, gone)
		if err = DeregisterAll(all[len(gone):]); err == nil {
			h.ranges[w], err = h.register(h.engine.Load(), stormThere(w))
		}
	})
	return err
}

// untouched checks for a while that nothing lands in what was deregistered. What the worker
// itself does to it spoils the look.
func (h *stormHost) untouched(worker int, gone []*Memory) {
	filling := &h.workers[worker].filling
	before := filling.Load()
	if before&1 == 1 {
		return
	}
	m := gone[h.r.IntN(len(gone))]
	pages := h.file[m.start-h.file.addr() : m.end-h.file.addr()]
	was := string(pages)
	for end := time.Now().Add(time.Duration(h.r.IntN(4000)) * time.Microsecond); ; {
		same := string(pages) == was
		if filling.Load() != before {
			return
		}
		if !same {
			h.accuse("host %d: a byte landed in [%#x, %#x) of worker %d after it was deregistered", h.n, m.start, m.end, worker)
		}
		if time.Now().After(end) {
			return
		}
	}
}

func (h *stormHost) name(n int) string {
	return "127.0.0.1:" + strconv.Itoa(int(h.hosts[n].port.Load()))
}

func (h *stormHost) fence(peer string) (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), stormPatience)
	defer cancel()
	h.during(h.n, stormFence, func() { err = h.engine.Load().Fence(ctx, peer) })
	return err
}

// sweep fences everybody off.
func (h *stormHost) sweep() (err error) {
	me := &h.hosts[h.n]
	number := me.sweepsBegun.Add(1)
	for n := range stormHosts {
		if n != h.n && err == nil {
			err = h.fence(h.name(n))
		}
	}
	if err == nil {
		me.sweepsDone.Store(number)
	}
	return err
}

// breakLanes gives up connections that others use.
func (h *stormHost) breakLanes() {
	t := transportOf(h.engine.Load().Engine)
	for _, w := range t.all() {
		switch h.r.IntN(3) {
		case 0:
			w.lane.queues.Break()
		case 1:
			go t.retire(w.lane.endpoint)
		}
	}
}

func transportOf(e *Engine) *rdmaTransport {
	for _, way := range e.transports {
		if r, ok := way.(*rdmaTransport); ok {
			return r
		}
	}
	return nil
}

// finish closes the engine, after its workers, and looks at what is left.
func (h *stormHost) finish() error {
	if err := h.close(); err != nil {
		return err
	}
	for i, life := range h.lives {
		s := life.Stats()
		began, refused := life.began.Load(), life.refused.Load()
		switch moved := s.BytesWritten + s.BytesRead; {
		case s.BatchesOpen != 0:
			return errors.Errorf("life %d: %d batches are open", i, s.BatchesOpen)
		case s.Batches < began || s.Batches > began+refused:
			return errors.Errorf("life %d: %d batches, and the engine counts %d", i, began, s.Batches)
		case s.BatchesFailed < life.failed.Load() || s.BatchesFailed > life.failed.Load()+refused:
			return errors.Errorf("life %d: %d batches failed, and the engine counts %d", i, life.failed.Load(), s.BatchesFailed)
		case moved < life.bytes.Load() || refused == 0 && moved != life.bytes.Load():
			return errors.Errorf("life %d: %d bytes confirmed, and the engine counts %d", i, life.bytes.Load(), moved)
		case s.BytesRDMA != moved:
			return errors.Errorf("life %d: %d bytes of %d over rdma", i, s.BytesRDMA, moved)
		}
	}
	return nil
}

// stormStateOf describes what an engine's paths and lanes are about.
func stormStateOf(e *Engine) string {
	var out strings.Builder
	t := transportOf(e)
	fmt.Fprintf(&out, "engine %s: %+v\n", e.Name(), e.Stats())
	for _, w := range t.all() {
		retired, inFlight, broken, ok := w.lane.queues.look(w.lane.Lane)
		fmt.Fprintf(&out, "  lane %p to %s: retired %d, in flight %d, broken %v (%+v), in the books %v\n", w.lane, w.path.process.name,
			retired, inFlight, broken, w.lane.Failure(), ok)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for p := range e.live {
		if path, ok := p.path.(*rdmaPath); ok {
			fmt.Fprint(&out, path.state())
		}
	}
	return out.String()
}

func (p *rdmaPath) state() string {
	var out strings.Builder
	p.mu.Lock()
	defer p.mu.Unlock()
	fmt.Fprintf(&out, "  path to %s: lane %p, connecting %v, pumping %v, closed %v, busy %d, broke %v, in line %d %d %d\n", p.process.name, p.lane,
		p.connecting, p.pumping, p.closed, p.busy, p.broke != nil, len(p.lines[0].waiting), len(p.lines[1].waiting), len(p.lines[2].waiting))
	for po := range p.live {
		fmt.Fprintf(&out, "    posting: ticket %v, sealed %v, shut %v, in line %v, kept %d, back %d, redo %d, on %p, cause %v, loud %v, breaks %d, left %d\n",
			po.ticket != nil, po.sealed, po.shut, po.line != nil, len(po.kept), len(po.back), len(po.redo), po.on, po.cause, po.loud, po.breaks, po.work.left.Load())
	}
	return out.String()
}
