package core

import (
	"context"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

// Engines close while threads use them in every way: whatever comes back, it comes
// back soon, and the pages are the owner's then.
func TestEnginesCloseUnderLoad(t *testing.T) {
	long(t)
	for _, way := range ways[1:] {
		t.Run(way, func(t *testing.T) {
			over(t, way)
			for round := range 4 {
				closeUnderLoad(t, rand.New(rand.NewPCG(uint64(round), 3)))
			}
		})
	}
}

func closeUnderLoad(t *testing.T, r *rand.Rand) {
	p := newPair(t, 8<<20, nil)
	var wg sync.WaitGroup
	stop := make(chan struct{})
	loop := func(do func()) {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for {
				select {
				case <-stop:
					return
				default:
					do()
				}
			}
		}()
	}
	slots := evenSlots(len(p.memA)/1024, 1)
	blocks := scatter(p.memA, p.memB, 1024, slots, slots)
	for _, op := range []Op{Read, Write} {
		loop(func() { move(t, p.seg, op, blocks) })
		loop(func() {
			if seg, err := p.a.OpenSegment(context.Background(), p.b.Name()); err == nil {
				move(t, seg, op, blocks.part(0, 40))
				seg.Close()
			}
		})
	}
	more := newArena(t, 1<<20)
	loop(func() {
		if m, err := p.b.Register([]Range{{more.addr(), 1 << 20}}, "*"); err == nil {
			m[0].Deregister()
		}
	})
	loop(func() { p.b.Fence(context.Background(), p.a.Name()) })
	time.Sleep(time.Duration(r.IntN(8000)) * time.Microsecond)
	engines := []*Engine{p.a, p.b}
	if r.IntN(2) == 0 {
		engines = []*Engine{p.b, p.a}
	}
	began := time.Now()
	assert.NoError(t, engines[0].Close())
	assert.Less(t, time.Since(began), 5*time.Second, "close took")
	mine := p.memA
	if engines[0] == p.b {
		mine = p.memB
	}
	watchPoison(t, mine)
	assert.NoError(t, engines[1].Close())
	watchPoison(t, p.memA, p.memB)
	close(stop)
	wg.Wait()
}
