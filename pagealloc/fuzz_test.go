package pagealloc

import (
	"math"
	"math/rand/v2"
	"testing"
)

// steps reads what to do from bytes; when they are used up all are 0.
type steps []byte

func (s *steps) next() uint64 {
	if len(*s) == 0 {
		return 0
	}
	b := (*s)[0]
	*s = (*s)[1:]
	return uint64(b)
}

// requests are the numbers that a fuzzed step may name: few, so that they meet.
func (s *steps) request() uint64 {
	return [...]uint64{0, 1, 2, 3, 4, 5, 6, 1 << 40, math.MaxUint64 - 1, Anyone}[s.next()%10]
}

func (s *steps) page(p *pair) uint64 {
	return p.model.pages.First - 3 + s.next()%(p.model.pages.Count+6)
}

// run does every step with the pool and the model.
func (s steps) run(p *pair) {
	for len(s) > 0 {
		switch s.next() % 10 {
		case 0, 1:
			p.alloc(s.request(), s.next()%24, s.next()%12)
		case 2:
			p.alloc(s.request(), s.next(), s.next()*s.next()*math.MaxUint32)
		case 3:
			p.grow(s.request(), s.next()%6)
		case 4:
			var requests, counts []uint64
			for range s.next() % 8 {
				requests = append(requests, s.request())
			}
			if s.next()%2 == 0 {
				for range requests {
					counts = append(counts, s.next()%4)
				}
			}
			p.growBatch(requests, counts)
		case 5:
			p.reserve(s.request(), s.next()%40)
		case 6:
			p.free(s.request(), Run{s.page(p), s.next() % 8})
		case 7:
			p.free(Anyone, Run{s.page(p), s.next() % 8}, Run{s.page(p), 1 + s.next()%3})
		case 8:
			// The end of a request that exists.
			if r := p.model.find(s.request()); r != nil {
				n := min(1+s.next()%4, uint64(len(r.pages)))
				p.free(r.request, appendPages(nil, r.pages[uint64(len(r.pages))-n:])...)
			}
		case 9:
			p.release(s.request())
		}
	}
}

func TestPoolEqualsModel(t *testing.T) {
	for seed := range uint64(40) {
		rng := rand.New(rand.NewPCG(seed, 1))
		p := newPair(t, 3+rng.Uint64N(1000), 1+rng.Uint64N(200))
		random := make(steps, 2000)
		for i := range random {
			random[i] = byte(rng.Uint32())
		}
		random.run(p)
	}
}

// FuzzPool reads the size of the pool and then steps.
func FuzzPool(f *testing.F) {
	f.Add([]byte{64, 0, 1, 20, 10, 0, 2, 20, 4, 3, 1, 3, 9, 1, 0, 3, 22, 0})
	f.Add([]byte{40, 0, 1, 8, 11, 0, 2, 8, 11, 0, 3, 20, 2, 4, 3, 1, 2, 3, 1, 8, 2, 1, 9, 1, 2, 4, 255, 255, 255})
	f.Fuzz(func(t *testing.T, data []byte) {
		s := steps(data)
		if len(s) > 600 {
			return // the model is slow
		}
		s.run(newPair(t, 100, 1+s.next()%100))
	})
}
