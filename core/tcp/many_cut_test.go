package tcp

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

// A stream that ends within a message: what came of the payload is where it
// belongs, the rest is untouched, there is no answer, and the connection is closed
// at once.
func TestServerMessageCutAnywhere(t *testing.T) {
	for _, c := range []struct{ n, size, step int }{{5, 13, 1}, {3, 40_000, 1777}} {
		s := newServed(t, 2*c.n*c.size)
		spans := spread(s.arena.addr()+uint64(c.size), c.n, c.size, c.size*2-1)
		body := pattern(c.n * c.size)
		whole := message(opWriteMany|flagV2, spans, body)
		head := len(whole) - len(body)
		for cut := 0; cut < len(whole); cut += c.step {
			for _, abort := range []bool{false, true} {
				s.arena.poison(0xA5)
				want := append(arena(nil), s.arena...)
				for i, left := 0, cut-head; left > 0; i, left = i+1, left-c.size {
					copy(want[spans[i].addr-s.arena.addr():], body[i*c.size:][:min(left, c.size)])
				}
				raw := dialMany(t, s.server)
				raw.send(whole[:cut])
				if abort { // a reset destroys what has not been received yet
					if cut > head {
						eventually(t, "what was sent", func() bool { return bytes.Equal(want, s.arena) })
					}
					raw.SetLinger(0)
				} else {
					raw.CloseWrite()
					raw.expectClose()
				}
				raw.Close()
				eventually(t, "the connection to end", func() bool { return s.server.Connections() == 0 })
				require.True(t, bytes.Equal(want, s.arena), "cut at %d of %d, head %d", cut, len(whole), head)
				require.Zero(t, s.region.held())
			}
		}
	}
}

// Sizes about those at which slices are sent and received in another way.
var edges = []int{1, 2, 7, 8, 9, StatusSize + HeaderSize, gatherMax - 1, gatherMax, gatherMax + 1,
	directMin - 1, directMin, directMin + 1, smallMessage - 1, smallMessage + 1, serveBuffer - HeaderSize,
	serveBuffer - HeaderSize - rangeSize, serveBuffer, stagingSize - 1, stagingSize, stagingSize + 1,
	maxDirect - 1, maxDirect, maxDirect + 1}

// edgeSlices makes slices of sizes out of edges, in random order, no two of them on top
// of each other, and their local memory of one kind or the other: both halves of local
// are as long as remote, and the second is not for system calls.
func edgeSlices(sizes []int, n int, local, remote arena, seed uint64) []Slice {
	r := rand.New(rand.NewPCG(seed, 11))
	out := []Slice{}
	half := uint64(len(remote))
	first := &within{host{}, local.addr(), local.addr() + half}
	second := &within{behind{}, local.addr() + half, local.end()}
	at := 0
	for range n {
		size := sizes[r.IntN(len(sizes))]
		if at+size > len(remote) {
			continue
		}
		x := Slice{local.addr() + uint64(at), remote.addr() + uint64(at), uint64(size), first}
		if r.IntN(3) == 0 {
			x.Local, x.Mover = x.Local+half, second
		}
		out = append(out, x)
		at += size + r.IntN(3)*61
	}
	r.Shuffle(len(out), func(i, j int) { // the local places do not follow the order of the remote ones
		if out[i].Len == out[j].Len {
			out[i].Local, out[j].Local = out[j].Local, out[i].Local
			out[i].Mover, out[j].Mover = out[j].Mover, out[i].Mover
		}
		out[i], out[j] = out[j], out[i]
	})
	return out
}

// Every size, of both kinds of memory at both ends, all in the same messages, over
// connections that deliver in every kind of pieces.
func TestMoveMixedMessages(t *testing.T) {
	for _, way := range []struct {
		name    string
		pieces  int // of the proxy; 0: none
		tiny    bool
		longest int
		n       int
	}{
		{"whole", 0, false, maxDirect + 1, 300}, {"short", 0, false, directMin + 1, 3000},
		{"tiny buffers", 0, true, stagingSize + 1, 60}, {"random pieces", 3000, false, maxDirect + 1, 60},
		{"small pieces", 40, false, serveBuffer, 60}, {"byte by byte", 1, false, gatherMax + 1, 60},
		{"small pieces, tiny buffers", 100, true, serveBuffer, 60},
	} {
		for _, write := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/write=%v", way.name, write), func(t *testing.T) {
				sizes := []int{}
				for _, size := range edges {
					if size <= way.longest {
						sizes = append(sizes, size)
					}
				}
				m := newMosaic(t, 48, 1<<20)
				server, set := m.server, []func(*PeerConfig, *dialer){many}
				if way.tiny {
					server, set = startTinyServer(t, m.table), append(set, tinyDial)
				}
				addr := server.listener.Addr().String()
				if way.pieces > 0 {
					addr = startProxy(t, addr, way.pieces)
				}
				near := newArena(t, 2*len(m.arena))
				from, to := near, m.arena
				if !write {
					from, to = to, from
				}
				from.fill(3)
				to.poison(0xA5)
				slices := edgeSlices(sizes, way.n, near, m.arena, uint64(way.n))
				src, _ := post(startPeer(t, addr, set...), write, slices)
				src.well(t)
				_, resent := src.counts()
				require.Zero(t, resent)
				moved(t, slices, from, to, write, 0xA5)
				drained(t, m.regions...)
			})
		}
	}
}
