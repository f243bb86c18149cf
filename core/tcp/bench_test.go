package tcp

import (
	"fmt"
	"testing"
	"time"
)

// BenchmarkMove moves scattered slices over loopback; one operation is one slice.
//
//	go test -run - -bench Move -benchmem ./core/tcp
func BenchmarkMove(b *testing.B) {
	for _, name := range []string{"many", "each"} {
		framing = framings[name]
		for _, size := range []int{512, 4 << 10, 64 << 10, 1 << 20} {
			benchmarkMove(b, name+"/write", true, size)
			benchmarkMove(b, name+"/read", false, size)
		}
	}
}

func benchmarkMove(b *testing.B, name string, write bool, size int) {
	const arenaSize = 128 << 20
	b.Run(fmt.Sprintf("%s/%d", name, size), func(b *testing.B) {
		p := newPair(b, arenaSize)
		p.near.fill(1)
		p.far.poison(2)
		all := p.row(arenaSize/(2*size), size, 2*size)
		b.SetBytes(int64(size))
		b.ReportAllocs()
		b.ResetTimer()
		for left := b.N; left > 0; left -= len(all) {
			src, _ := post(p.peer, write, all[:min(left, len(all))])
			src.well(b)
		}
	})
}

// BenchmarkLatency posts one slice and waits for it.
func BenchmarkLatency(b *testing.B) {
	p := newPair(b, 1<<20)
	one := p.row(1, 4096, 4096)
	src, _ := post(p.peer, true, one)
	src.well(b)
	b.ReportAllocs()
	began := time.Now()
	for b.Loop() {
		src, _ := post(p.peer, true, one)
		<-src.ended
	}
	b.ReportMetric(float64(time.Since(began).Microseconds())/float64(b.N), "us/post")
}
