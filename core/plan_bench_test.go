package core

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

// The inputs of BenchmarkPlan: what a planner is given when the caller has merged, when
// its pages come from free lists that were shuffled by decoding, and at worst.
var planInputs = []struct {
	name string
	make func(n int) Blocks
}{
	{"contiguous", contiguousBlocks},
	{"merged", mergedBlocks},
	{"fifo", fifoBlocks},
	{"random", func(n int) Blocks { b, _ := manyBlocks(n); return b }},
	{"reversed", reversedBlocks},
	{"alike", func(n int) Blocks { return shuffledAlike(contiguousBlocks(n), n) }},
	{"alike4096", func(n int) Blocks { return shuffledAlike(contiguousBlocks(n), 4096) }},
	{"gaps", func(n int) Blocks { return shuffledAlike(everySecond(n), n) }},
}

const (
	benchLocal  = 1 << 30
	benchRemote = 1 << 40
	benchPage   = 1152
	benchPages  = 1 << 24
)

var benchRegions = spans{{benchLocal, benchLocal + benchPages*benchPage}}

func (b *Blocks) add(local, remote, pages int) {
	b.Local = append(b.Local, benchLocal+uint64(local)*benchPage)
	b.Remote = append(b.Remote, benchRemote+uint64(remote)*benchPage)
	b.Length = append(b.Length, uint64(pages)*benchPage)
}

func contiguousBlocks(n int) (b Blocks) {
	for i := range n {
		b.add(i, i, 1)
	}
	return b
}

// mergedBlocks are runs of one to three pages of which no two are neighbours.
func mergedBlocks(n int) (b Blocks) {
	for i := range n {
		b.add(4*i%benchPages, 4*i%benchPages, 1+i%3)
	}
	return b
}

func reversedBlocks(n int) (b Blocks) {
	for i := range n {
		b.add(n-1-i, n-1-i, 1)
	}
	return b
}

// everySecond page is no neighbour of another one.
func everySecond(n int) (b Blocks) {
	for i := range n {
		b.add(2*i, 2*i, 1)
	}
	return b
}

// shuffledAlike puts blocks into another order within each window.
func shuffledAlike(b Blocks, window int) Blocks {
	r := rand.New(rand.NewPCG(7, 8))
	for from := 0; from < len(b.Length); from += window {
		p := b.part(from, min(from+window, len(b.Length)))
		r.Shuffle(len(p.Length), func(i, j int) {
			p.Local[i], p.Local[j] = p.Local[j], p.Local[i]
			p.Remote[i], p.Remote[j] = p.Remote[j], p.Remote[i]
			p.Length[i], p.Length[j] = p.Length[j], p.Length[i]
		})
	}
	return b
}

// fifo is a pool of pages whose free list is first in, first out.
type fifo []int

func newFIFO(pages int) *fifo {
	f := make(fifo, pages)
	for i := range f {
		f[i] = i
	}
	return &f
}

func (f *fifo) take(n int) []int {
	pages := append([]int(nil), (*f)[:n]...)
	*f = (*f)[n:]
	return pages
}

func (f *fifo) give(pages []int) { *f = append(*f, pages...) }

// fifoBlocks are prompts of 200 to 2,000 pages in 40 layers, from a prefill pool that
// serves one request after the other to a decode pool in which 256 requests of 512 steps
// took a page each in turn, for 3,000 requests before.
func fifoBlocks(n int) (b Blocks) {
	const pool, running, steps, layers = 400_000, 256, 512, 40
	r := rand.New(rand.NewPCG(9, 10))
	prefill, decode := newFIFO(pool/2), newFIFO(pool)
	type request struct {
		pages []int
		left  int
	}
	var live []*request
	emit := func(local, remote []int) {
		for k := range layers {
			for i := range local {
				if len(b.Length) == n {
					return
				}
				b.add(k*pool/2+local[i], k*pool+remote[i], 1)
			}
		}
	}
	for served := 0; len(b.Length) < n; served++ {
		for len(live) == running {
			kept := live[:0]
			for _, q := range live {
				q.pages = append(q.pages, decode.take(1)...)
				if q.left--; q.left == 0 {
					decode.give(q.pages)
				} else {
					kept = append(kept, q)
				}
			}
			live = kept
		}
		tokens := 200 + r.IntN(1800)
		local, remote := prefill.take(tokens), decode.take(tokens)
		prefill.give(local)
		left := steps/2 + r.IntN(steps)
		live = append(live, &request{remote, left})
		if served >= 3000 {
			emit(local, remote)
		}
	}
	return b
}

// planWindows plans blocks as Submit does.
func planWindows(p *planner, blocks Blocks) {
	n := len(blocks.Length)
	for from, size := 0, firstWindow; from < n; size = laterWindow {
		to := min(from+size, n)
		p.window(blocks.part(from, to))
		from = to
	}
	p.flush()
}

func BenchmarkPlan(b *testing.B) {
	remote := spans{{benchRemote, benchRemote + benchPages*benchPage}}
	for _, n := range []int{1 << 10, 64 << 10, 1 << 20, 4 << 20} {
		for _, in := range planInputs {
			var blocks Blocks
			perBlock := func(b *testing.B) {
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/block")
			}
			set := func(name string, run func(b *testing.B)) {
				b.Run(fmt.Sprintf("%s/%s/%d", name, in.name, n), func(b *testing.B) {
					if blocks.Length == nil {
						blocks = in.make(n)
						b.ResetTimer()
					}
					b.ReportAllocs()
					run(b)
					perBlock(b)
				})
			}
			set("check", func(b *testing.B) {
				c := checkerOf(benchRegions, remote)
				for b.Loop() {
					c.pass(blocks)
				}
			})
			set("plan", func(b *testing.B) {
				var runs int
				for b.Loop() {
					p, w := plannerOf(benchRegions)
					planWindows(p, blocks)
					runs = p.n
					w.filled()
					w.release()
				}
				b.ReportMetric(float64(runs), "runs")
			})
			set("all", func(b *testing.B) {
				pass := intakePass(blocks, benchRegions, remote)
				for b.Loop() {
					pass()
				}
			})
		}
	}
}
