package tcp

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// tally counts how often each address was asked for after the first connection.
type tally struct {
	mu     sync.Mutex // guards what follows
	served map[uint64]bool
	again  map[uint64]int
}

func newTally() *tally { return &tally{served: map[uint64]bool{}, again: map[uint64]int{}} }

// serveAll serves messages to the end, counting.
func (a *tally) serveAll(c net.Conn) {
	for {
		m, ok := receiveMany(c)
		if !ok {
			return
		}
		a.mu.Lock()
		for _, s := range m.spans {
			a.again[s.addr]++
		}
		a.mu.Unlock()
		m.serve(c)
	}
}

// serveSome serves up to n messages and remembers what they asked for.
func (a *tally) serveSome(c net.Conn, n int) {
	for range n {
		m, ok := receiveMany(c)
		if !ok {
			return
		}
		a.mu.Lock()
		for _, s := range m.spans {
			a.served[s.addr] = true
		}
		a.mu.Unlock()
		m.serve(c)
	}
}

// The connection breaks anywhere in a message or its answer: each slice without an
// answer is sent exactly once more, those with one never, and every byte arrives.
func TestClientSendsEachSliceOnceMore(t *testing.T) {
	const size, n = 700, 4000
	cut := func(bytes int) func(c *net.TCPConn, write bool) { // reads so much of the next message
		return func(c *net.TCPConn, write bool) { io.ReadFull(c, make([]byte, bytes)) }
	}
	ends := map[string]func(c *net.TCPConn, write bool){
		"before a message": func(c *net.TCPConn, write bool) {},
		"in the header":    cut(HeaderSize - 1),
		"behind it":        cut(HeaderSize),
		"in the table":     cut(HeaderSize + 100*rangeSize + 3),
		"before the bytes": cut(HeaderSize + quantum*rangeSize),
		"in the bytes":     cut(HeaderSize + quantum*rangeSize + 100*size + 1),
		"reset":            func(c *net.TCPConn, write bool) { cut(1000)(c, write); reset(c) },
		"in the status":    func(c *net.TCPConn, write bool) { receiveMany(c); c.Write(okBytes[:5]) },
		"in the answer": func(c *net.TCPConn, write bool) {
			receiveMany(c)
			if !write {
				c.Write(append(append([]byte{}, okBytes...), make([]byte, 100*size+1)...))
			}
		},
	}
	for _, write := range []bool{true, false} {
		for name, end := range ends {
			if name == "in the bytes" && !write {
				continue
			}
			for _, before := range []int{0, 2} {
				t.Run(fmt.Sprintf("%s/write=%v/%d", name, write, before), func(t *testing.T) {
					a := newTally()
					s := newScriptedMany(t, 2*n*size, func(i int, c *net.TCPConn) {
						if i > 0 {
							a.serveAll(c)
							return
						}
						a.serveSome(c, before)
						end(c, write)
						if name != "reset" { // nor is it one because of what was not read
							c.CloseWrite()
							swallow(c)
						}
					}, lanes(1))
					slices := s.row(n, size, 2*size)
					src, _ := post(s.peer, write, slices)
					src.well(t)
					same(t, slices)
					_, resent := src.counts()
					require.EqualValues(t, 2, s.accepted.Load())
					a.mu.Lock()
					defer a.mu.Unlock()
					require.LessOrEqual(t, resent, len(a.again))
					for i, x := range slices {
						want := 1
						if a.served[x.Remote] {
							want = 0
						}
						// A reset may take answers with it that had been sent.
						if name == "reset" && want == 0 && a.again[x.Remote] == 1 {
							continue
						}
						require.Equal(t, want, a.again[x.Remote], "slice %d", i)
					}
				})
			}
		}
	}
}

// Answers that are not the protocol end the posting, and only it; nothing is sent
// again, and nothing of a false answer to a read counts.
func TestClientRefusesWrongAnswersToMessages(t *testing.T) {
	for name, answer := range map[string]string{
		"zeros":          "\x00\x00\x00\x00\x00\x00\x00\x00",
		"unknown status": "\x05\x00\x00\x00VTCM",
		"another's":      "\x03\x00\x00\x00VTCM",
		"other magic":    "\x00\x00\x00\x00VTCN and much that follows",
	} {
		for _, write := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/write=%v", name, write), func(t *testing.T) {
				s := newScriptedMany(t, 1<<20, func(i int, c *net.TCPConn) {
					receiveMany(c)
					c.Write([]byte(answer))
					c.CloseWrite()
					swallow(c)
				})
				s.near.poison(0xA5)
				src, _ := post(s.peer, write, s.row(500, 1000, 2000))
				end := src.end(t)
				require.ErrorIs(t, end.Err, ErrProtocol)
				require.True(t, end.Quiet)
				require.EqualValues(t, 1, s.accepted.Load())
				done, resent := src.counts()
				require.Zero(t, done+resent)
				require.True(t, s.near.all(0xA5))
			})
		}
	}
}

// The answer to a refused message names the slice; an index that cannot be is taken
// for the first. Whatever follows the index is of no interest.
func TestClientBlamesTheRefusedSlice(t *testing.T) {
	for _, c := range []struct{ said, blamed uint64 }{
		{0, 0}, {1, 1}, {37, 37}, {99, 99}, {100, 0}, {maxRanges, 0}, {1<<63 + 5, 0}, {1<<64 - 1, 0},
	} {
		for _, write := range []bool{true, false} {
			t.Run(fmt.Sprintf("%d/write=%v", c.said, write), func(t *testing.T) {
				s := newScriptedMany(t, 1<<20, func(i int, conn *net.TCPConn) {
					m, _ := receiveMany(conn)
					if len(m.spans) != 100 {
						t.Errorf("%d ranges", len(m.spans))
					}
					conn.Write(append(refusedAt(c.said), "and so on"...))
					conn.CloseWrite()
					swallow(conn)
				})
				slices := s.row(100, 1000, 2000)
				for i := range slices {
					slices[i].Len += uint64(i)
				}
				src, _ := post(s.peer, write, slices)
				end := src.end(t)
				require.ErrorIs(t, end.Err, ErrRejected)
				x := slices[c.blamed]
				require.ErrorContains(t, end.Err, fmt.Sprintf("%d bytes at %#x", x.Len, x.Remote))
				require.True(t, end.Quiet)
			})
		}
	}
}

// A refusal whose index never comes is a broken connection: it may have been the
// index of any slice.
func TestClientTakesHalfARefusalForABreak(t *testing.T) {
	s := newScriptedMany(t, 1<<20, func(i int, c *net.TCPConn) {
		if i == 0 {
			receiveMany(c)
			c.Write(refusedAt(5)[:StatusSize+3])
			return
		}
		honestMany(c, -1)
	})
	slices := s.row(100, 1000, 2000)
	src, _ := post(s.peer, true, slices)
	src.well(t)
	same(t, slices)
	_, resent := src.counts()
	require.Equal(t, 100, resent)
}

// An answer too many is nobody's: what was confirmed stays so, the connection is
// given up, and the next posting has another.
func TestClientAnsweredTwice(t *testing.T) {
	for _, write := range []bool{true, false} {
		s := newScriptedMany(t, 1<<20, func(i int, c *net.TCPConn) {
			m, ok := receiveMany(c)
			if !ok {
				return
			}
			m.serve(c)
			if i == 0 {
				c.Write(okBytes)
			}
			honestMany(c, -1)
		})
		slices := s.row(100, 1000, 2000)
		src, _ := post(s.peer, write, slices)
		src.well(t)
		same(t, slices)
		eventually(t, "the lane to be given up", func() bool {
			s.peer.mu.Lock()
			defer s.peer.mu.Unlock()
			return len(s.peer.lanes) == 0 && s.peer.breaks == 1
		})
		src, _ = post(s.peer, write, slices)
		src.well(t)
		require.EqualValues(t, 2, s.accepted.Load())
	}
}

// A peer whose ranges were cut in another way refuses a message for one slice. It
// is that slice about which the peer is asked; all of the message are cut anew and
// sent once more. A second refusal counts, and names the piece.
func TestClientCutsRefusedMessagesAnew(t *testing.T) {
	const n, size = 200, 4096 // one message
	for _, write := range []bool{true, false} {
		for _, cut := range []uint64{size / 4, size} {
			t.Run(fmt.Sprintf("write=%v/%d", write, cut), func(t *testing.T) {
				var asked []Slice // by one lane's retirement at a time
				var mu sync.Mutex
				s := newScriptedMany(t, n*size, func(_ int, c *net.TCPConn) {
					for {
						m, ok := receiveMany(c)
						if !ok {
							return
						}
						for i, x := range m.spans {
							if i >= 7 && x.n > size/2 {
								c.Write(refusedAt(uint64(i)))
								c.CloseWrite()
								swallow(c)
								return
							}
						}
						m.serve(c)
					}
				}, lanes(1), func(cfg *PeerConfig, _ *dialer) {
					cfg.Covered = func(x Slice) bool {
						mu.Lock()
						defer mu.Unlock()
						asked = append(asked, x)
						return true
					}
				})
				slices := s.row(n, size, size)
				src := newSource(slices).publish(-1)
				src.recut = func(x Slice, emit func(Slice)) {
					for at := uint64(0); at < x.Len; at += cut {
						emit(Slice{x.Local + at, x.Remote + at, cut, x.Mover})
					}
				}
				s.peer.Post(write, src).Seal()
				end := src.end(t)
				mu.Lock()
				defer mu.Unlock()
				require.NotEmpty(t, asked)
				require.Equal(t, slices[7], asked[0], "the slice that was asked about")
				if cut < size {
					require.NoError(t, end.Err)
					same(t, slices)
				} else {
					require.ErrorIs(t, end.Err, ErrRejected)
					require.ErrorContains(t, end.Err, fmt.Sprintf("%d bytes at %#x", size, slices[7].Remote))
					require.True(t, end.Quiet)
				}
			})
		}
	}
}

// One posting's refused message costs its neighbours on the lane nothing but the
// way: each of their slices arrives.
func TestRefusedMessageHitsOnePosting(t *testing.T) {
	for _, write := range []bool{true, false} {
		p := newPair(t, 16<<20, lanes(1))
		p.near.fill(1)
		p.far.fill(2)
		all := p.row(6000, 600, 1200)
		guilty := append([]Slice(nil), all[:2000]...)
		guilty[777] = Slice{guilty[777].Local, 0x1234000, 333, host{}}
		first, _ := post(p.peer, write, all[2000:4000])
		bad, _ := post(p.peer, write, guilty)
		second, _ := post(p.peer, write, all[4000:])
		end := bad.end(t)
		require.ErrorIs(t, end.Err, ErrRejected)
		require.ErrorContains(t, end.Err, "333 bytes at 0x1234000")
		require.True(t, end.Quiet)
		first.well(t)
		second.well(t)
		same(t, all[2000:])
	}
}

// What a server sees of slices: messages of one posting each, within their limits,
// and no slice twice.
func TestClientFillsMessages(t *testing.T) {
	const n = 20_000
	type seen struct{ ranges, bytes uint64 }
	var mu sync.Mutex
	var messages []seen
	s := newScriptedMany(t, 8<<20, func(_ int, c *net.TCPConn) {
		for {
			m, ok := receiveMany(c)
			if !ok {
				return
			}
			mu.Lock()
			messages = append(messages, seen{m.addr, m.size})
			mu.Unlock()
			m.serve(c)
		}
	}, lanes(1))
	src, _ := post(s.peer, true, s.row(n, 256, 400))
	src.well(t)
	mu.Lock()
	defer mu.Unlock()
	var ranges, bytes uint64
	for _, m := range messages {
		require.LessOrEqual(t, m.ranges, uint64(maxRanges))
		ranges += m.ranges
		bytes += m.bytes
	}
	require.EqualValues(t, n, ranges)
	require.EqualValues(t, n*256, bytes)
	require.Len(t, messages, (n+quantum-1)/quantum, "messages are as full as they can be")
	require.LessOrEqual(t, quantum, maxRanges, "a server of this kind refuses longer ones")
	require.EqualValues(t, culpritSize, binary.Size(uint64(0)))
}
