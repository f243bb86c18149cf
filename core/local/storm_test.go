package local

import (
	"math/rand/v2"
	"net"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Thousands of connections that say anything, with descriptors of anything, and then
// stay or go: who is connected is served all the while, and nothing is left.
func TestHostileConnections(t *testing.T) {
	const many = 10_000
	p := newPair(t, remoteWay("best", Best), 8<<20)
	moved(t, p.peer, true, p.scattered(1000, 512))
	words, readable, small := sealedWords(t, wordsSize, sealMine), sealedWords(t, wordsSize, sealFixed), sealedWords(t, 64, sealMine)
	good := hello{target: p.server.cfg.Instance, from: Instance{1}, name: "n", rings: 1 << 15, direct: true}
	before := holdings(t)
	var wg sync.WaitGroup
	for n := range 4 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			r := rand.New(rand.NewPCG(uint64(n), 7))
			for range many / 4 {
				c, err := net.DialUnix("unixpacket", nil, address(p.server.cfg.Instance))
				if err != nil {
					continue // no room just now
				}
				c.SetDeadline(time.Now().Add(20 * time.Millisecond))
				message := good.encode()
				for range r.IntN(4) {
					message[r.IntN(len(message))] = byte(r.Uint32())
				}
				fds := []int{words, readable, small, 0, 1, 2}
				r.Shuffle(len(fds), func(i, j int) { fds[i], fds[j] = fds[j], fds[i] })
				if r.IntN(2) == 0 {
					fds[0] = words
				}
				send(c, message[:r.IntN(len(message)+1)], fds[:r.IntN(3)]...)
				if r.IntN(2) == 0 {
					if _, got, err := receive(c, -1); err == nil {
						closeAll(got)
						send(c, ready{r.IntN(2) == 0, [16]byte{}}.encode(), fds[:r.IntN(2)]...)
					}
				}
				c.Close()
			}
		}()
	}
	ended := make(chan struct{})
	go func() {
		wg.Wait()
		close(ended)
	}()
	for running := true; running; {
		select {
		case <-ended:
			running = false
		default:
			began := time.Now()
			moved(t, p.peer, began.Nanosecond()&1 == 0, p.scattered(500, 512))
			require.Less(t, time.Since(began), time.Second)
		}
	}
	eventually(t, "the others to be gone", func() bool { return p.server.Connections() == 1 })
	var now [3]int
	for end := time.Now().Add(patience); time.Now().Before(end); runtime.Gosched() {
		if now = holdings(t); now[0] <= before[0] && now[1] <= before[1] && now[2] <= before[2] {
			return
		}
	}
	require.Fail(t, "descriptors, mappings or goroutines are left", "%v before, %v now", before, now)
}

// Whatever an initiator does to its rings and words while it is served, others are.
func TestHostileRings(t *testing.T) {
	p := newPair(t, remoteWay("packed", PackedOnly), 8<<20)
	for round := range 20 {
		raw, err := dial(t, p.server.cfg.Instance)
		require.NoError(t, err)
		stop := make(chan struct{})
		var wg sync.WaitGroup
		for n := range 2 {
			wg.Add(1)
			go func() {
				defer wg.Done()
				r := rand.New(rand.NewPCG(uint64(round), uint64(n)))
				for {
					select {
					case <-stop:
						return
					default:
					}
					i := r.IntN(raw.count)
					at := raw.ring(i).at + 4*r.IntN(1100)
					if r.IntN(2) == 0 {
						at = raw.ring(i).slot(uint64(r.IntN(slotsPerRing))).at + 4*r.IntN(40)
					}
					raw.rings.u32(at).Store(r.Uint32N(5) << (r.UintN(2) * r.UintN(28)))
					raw.words.u64(8 * r.IntN(wordsSize/8)).Store(r.Uint64() &^ 1)
					raw.bells[i].strike()
				}
			}()
		}
		moved(t, p.peer, true, p.scattered(5000, 512))
		began := time.Now()
		p.deregister(p.region)
		require.Less(t, time.Since(began), time.Second)
		p.region = p.register(p.far.addr(), p.far.end(), true)
		close(stop)
		wg.Wait()
		raw.close()
	}
	eventually(t, "the others to be gone", func() bool { return p.server.Connections() == 1 })
}
