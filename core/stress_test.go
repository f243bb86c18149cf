package core

import (
	"bytes"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

// stressTime is how long the random test runs: long enough to have seen, without
// the race detector, a batch whose deadline struck while it was being submitted
// pass for done with bytes missing.
const stressTime = 4 * time.Second

// Random batches that are cancelled or expire at random moments: done means that
// every byte is there; failed and quiet that none comes any more.
func TestRandomEndsTellTheTruth(t *testing.T) {
	long(t)
	const workers, room = 4, 1 << 20
	p := newPair(t, workers*room, nil)
	var wg sync.WaitGroup
	for n := range workers {
		wg.Add(1)
		go func() {
			defer wg.Done()
			w := stressWorker{p: p, r: rand.New(rand.NewPCG(uint64(n), 5)),
				here: p.memA[n*room : (n+1)*room], there: p.memB[n*room : (n+1)*room]}
			for end := time.Now().Add(stressTime); time.Now().Before(end) && !t.Failed(); {
				w.round(t)
			}
			t.Logf("worker %d: %d done, %d failed", n, w.done, w.failed)
		}()
	}
	wg.Wait()
}

// stressWorker owns a part of both arenas.
type stressWorker struct {
	p            *pair
	r            *rand.Rand
	here, there  arena
	done, failed int
}

// round moves random scattered blocks of one size, with a random end.
func (w *stressWorker) round(t *testing.T) {
	size := 64 << w.r.IntN(10)
	slots := evenSlots(len(w.here)/size, w.r.Uint64()|1)
	slots = slots[:1+w.r.IntN(len(slots))]
	op := Op(w.r.IntN(2))
	from, to := w.here, w.there
	if op == Read {
		from, to = w.there, w.here
	}
	from.fill(w.r.Uint64())
	to.poison(0x5A)
	opts := Options{Deadline: time.Duration(1 + w.r.IntN(int(2*time.Millisecond)))}
	if w.r.IntN(3) == 0 {
		opts.Deadline = 0
	}
	b, err := w.p.seg.Submit(op, scatter(w.here, w.there, size, slots, slots), opts)
	if !assert.NoError(t, err) {
		return
	}
	defer b.Close()
	if w.r.IntN(4) == 0 {
		b.Cancel()
	}
	err = b.Wait(deadline)
	s := b.Status()
	switch {
	case err == nil:
		w.done++
		assert.Equal(t, s.Bytes, s.BytesDone)
		for _, i := range slots {
			if !bytes.Equal(from[i*size:(i+1)*size], to[i*size:(i+1)*size]) {
				assert.Fail(t, "done, and bytes are missing", "op %d, block size %d, slot %d", op, size, i)
				return
			}
		}
	case assert.NotErrorIs(t, err, ErrWaitTimeout) && assert.Equal(t, QuietBoth, s.Quiet):
		w.failed++
		to.poison(0xA5)
		time.Sleep(time.Duration(w.r.IntN(200)) * time.Microsecond) // for a late byte to show
		assert.True(t, to.all(0xA5), "a late byte after a quiet end")
	}
}

// What a peer said before a fence does not replace what it said after it, and a
// batch that was refused for it is the last one.
func TestAnOlderAnswerDoesNotReplaceANewerOne(t *testing.T) {
	p := newPair(t, 4096, nil)
	blocks := scatter(p.memA, p.memB, 4096, []int{0}, []int{0})
	assert.NoError(t, move(t, p.seg, Write, blocks))
	peer := p.seg.process
	old, asked := peer.known.Load().descriptor, *peer.asked.Load()
	assert.NoError(t, p.b.Fence(t.Context(), p.a.Name()))
	assert.NoError(t, move(t, p.seg, Write, blocks), "begun after the fence")
	peer.learn(old, asked)
	assert.NoError(t, move(t, p.seg, Write, blocks))
	peer.known.Store(newKnowledge(old)) // as if it had been replaced all the same
	assert.ErrorIs(t, move(t, p.seg, Write, blocks), ErrFenced)
	assert.NoError(t, move(t, p.seg, Write, blocks), "asked again after the refusal")
}
