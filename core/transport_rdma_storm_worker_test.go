//go:build cgo

package core

import (
	"bytes"
	"context"
	"math/rand/v2"
	"time"
	"unsafe"

	"github.com/pkg/errors"
)

// stormBank is random bytes, of which slots are filled from an offset that tells one
// batch's bytes from another's.
var stormBank = func() []byte {
	b := make([]byte, 4<<20)
	for r, i := rand.New(rand.NewPCG(1, 1)), 0; i < len(b); i += 8 {
		*(*uint64)(unsafe.Pointer(&b[i])) = r.Uint64()
	}
	return b
}()

// stormSide is the pages of a slot on one side, and what they hold as long as nobody
// writes to them: the bank's bytes from an offset.
type stormSide struct {
	pages arena
	from  int
}

func (s *stormSide) fill(r *rand.Rand) {
	s.from = r.IntN(len(stormBank) - len(s.pages))
	copy(s.pages, stormBank[s.from:])
}

func (s *stormSide) intact() bool { return bytes.Equal(s.pages, stormBank[s.from:][:len(s.pages)]) }

// stormSlot is pages for one batch at a time. Between two of them they are watched.
type stormSlot struct {
	at          int // in the worker's area
	here, there stormSide
	loud        int64 // 0, or 1 + the target's sweep after the begin of which another may use it
}

// stormWorker moves blocks between its slots here and at the target.
type stormWorker struct {
	*stormHost
	id, target int
	r          *rand.Rand
	slots      []*stormSlot
	want       []byte

	life    *stormEngine // that the rest belongs to
	local   []*Memory
	segment *Segment
	addr    uint64 // of its area at the target
}

// startWorkers starts the workers of a host.
func (h *stormHost) startWorkers(seed uint64) {
	for id, route := range stormRoutes {
		if route.from == h.n {
			w := &stormWorker{stormHost: h, id: id, target: route.to, r: rand.New(rand.NewPCG(seed, uint64(id))), want: make([]byte, stormSlots[0])}
			h.wg.Go(w.run)
		}
	}
}

func (w *stormWorker) run() {
	// An earlier process of this host may have ended while it wrote.
	if filling := &w.workers[w.id].filling; filling.Load()&1 == 1 {
		filling.Add(1)
	}
	at := 0
	for _, size := range stormSlots {
		s := &stormSlot{at: at}
		s.here.pages = w.file.region(stormHere(w.id)+at, size)
		s.there.pages = w.file.region(stormThere(w.id)+at, size)
		w.refill(s, true)
		w.slots = append(w.slots, s)
		at += size
	}
	for w.stop.Load() == 0 && w.failed.Load() == 0 {
		if !w.ready() {
			time.Sleep(time.Millisecond) // until there is an engine, or a peer, again
			continue
		}
		w.round()
		switch w.r.IntN(60) {
		case 0:
			w.forget()
		case 1:
			w.reregister()
		}
	}
	if w.segment != nil {
		w.segment.Close()
	}
	for _, s := range w.slots {
		w.watch(s)
	}
}

// refill gives a slot bytes that no batch has had; there: also at the target.
func (w *stormWorker) refill(s *stormSlot, there bool) {
	s.here.fill(w.r)
	if there {
		w.workers[w.id].filling.Add(1)
		s.there.fill(w.r)
		w.workers[w.id].filling.Add(1)
	}
}

// watch checks that nobody has written to a slot since it was filled.
func (w *stormWorker) watch(s *stormSlot) {
	if !s.here.intact() {
		w.accuse("worker %d (host %d to %d): a late byte here: %s", w.id, w.n, w.target, s.here.difference())
	}
	if s.loud == 0 && !s.there.intact() {
		w.accuse("worker %d (host %d to %d): a late byte at the target: %s", w.id, w.n, w.target, s.there.difference())
	}
	w.watched.Add(1)
}

func (s *stormSide) difference() string {
	return firstDifference(s.pages, stormBank[s.from:][:len(s.pages)])
}

// ready makes sure that there is memory and a segment to work with.
func (w *stormWorker) ready() bool {
	if life := w.engine.Load(); life != w.life {
		w.forget()
		w.life, w.local = life, nil
	}
	if w.local == nil && !w.registered() {
		return false
	}
	if w.segment == nil {
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
		defer cancel()
		segment, err := w.life.OpenSegment(ctx, w.name(w.target))
		if err != nil {
			w.plausible(err, "open")
			return false
		}
		w.segment, w.addr = segment, w.hosts[w.target].base.Load()+uint64(stormThere(w.id))
	}
	return true
}

func (w *stormWorker) registered() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	var err error
	w.local, err = w.register(w.life, stormHere(w.id))
	if err != nil {
		w.plausible(err, "register")
	}
	return err == nil
}

func (w *stormWorker) forget() {
	if w.segment != nil {
		w.segment.Close()
		w.segment = nil
	}
}

// reregister registers this side's memory anew.
func (w *stormWorker) reregister() {
	if err := DeregisterAll(w.local); err != nil && !errors.Is(err, ErrClosed) {
		w.accuse("worker %d: deregister: %v", w.id, err)
	}
	w.local = nil
}

// slot is one that may be used.
func (w *stormWorker) slot() *stormSlot {
	for tries := 0; ; tries++ {
		s := w.slots[w.r.IntN(len(w.slots))]
		if s.loud == 0 {
			w.watch(s)
			return s
		}
		if w.hosts[w.target].sweepsDone.Load() > s.loud-1 {
			s.loud = 0
			return s
		}
		if tries > 4*len(w.slots) {
			return nil
		}
	}
}

// round moves blocks once.
func (w *stormWorker) round() {
	s := w.slot()
	if s == nil { // until the next sweep
		time.Sleep(time.Millisecond)
		return
	}
	w.refill(s, true)
	b := &stormBatch{stormWorker: w, slot: s, op: Op(w.r.IntN(2)), calmAt: w.calm.Load()}
	b.shape = newStormShape(w.r, len(s.here.pages), w.file.addr()+uint64(stormHere(w.id)+s.at), w.addr+uint64(s.at))
	from, to := b.sides()
	want := w.want[:len(to.pages)]
	copy(want, to.pages)
	for _, x := range b.shape.at {
		if b.op == Read {
			x[0], x[1] = x[1], x[0]
		}
		copy(want[x[1]:x[1]+x[2]], from.pages[x[0]:])
	}
	b.run(want)
	w.ended.Add(1)
	if other := w.slots[w.r.IntN(len(w.slots))]; other != s {
		w.watch(other)
	}
}
