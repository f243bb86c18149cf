package tcp

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pkg/errors"
	"github.com/stretchr/testify/require"
)

// Only the posting with the refused range fails; what else was on the lane is sent
// again. The server may close the way upstream's does, without draining.
func TestClientRejectionHitsOnePosting(t *testing.T) {
	const bad = 0xbad000
	rude := func(n int, c *net.TCPConn) {
		for {
			var b [HeaderSize]byte
			if _, err := io.ReadFull(c, b[:]); err != nil {
				return
			}
			h := parseHeader(b[:])
			if h.addr == bad {
				c.Write(rejectedBytes)
				return
			}
			if h.op&^flagV2 == opWrite {
				if _, err := io.ReadFull(c, hostBytes(h.addr, int(h.size))); err != nil {
					return
				}
			}
			answer(c, h)
		}
	}
	run := func(t *testing.T, p *Peer, near, far arena, write bool, n, size int) {
		all := row(host{}, near.addr(), far.addr(), 4*n, size, 2*size)
		guilty := append([]Slice(nil), all[2*n:]...)
		guilty[n].Remote = bad
		first, _ := post(p, write, all[:n])
		hit, _ := post(p, write, guilty)
		second, _ := post(p, write, all[n:2*n])
		end := hit.end(t)
		if errors.Is(end.Err, ErrPeer) {
			t.Log("the reset destroyed the refusal: ", end.Err)
		} else {
			require.ErrorIs(t, end.Err, ErrRejected)
			require.ErrorContains(t, end.Err, fmt.Sprintf("%d bytes at 0xbad000", size))
		}
		require.True(t, end.Quiet)
		first.well(t)
		second.well(t)
		same(t, all[:2*n])
	}
	t.Run("upstream's way", func(t *testing.T) {
		both(t, func(t *testing.T, write bool) {
			for range 3 {
				s := newScripted(t, 4*500*2*8000, rude, lanes(1))
				run(t, s.peer, s.near, s.far, write, 500, 8000)
			}
		})
	})
	t.Run("ours", func(t *testing.T) {
		both(t, func(t *testing.T, write bool) {
			for range 3 {
				p := newPair(t, 4*500*2*8000)
				p.near.fill(1)
				p.peer.cfg.Lost = func() { t.Error("our server's refusal was lost to a reset") }
				run(t, p.peer, p.near, p.far, write, 500, 8000)
			}
		})
	})
}

// A peer whose ranges were cut in another way meanwhile refuses slices that span
// two of them. They are cut anew and sent once more; a second refusal counts.
func TestClientCutsRejectedSlicesAnew(t *testing.T) {
	const n, size = 100, 8192
	run := func(t *testing.T, write bool, cut uint64) (end End, slices []Slice) {
		var asked atomic.Int64
		s := newScripted(t, n*size, func(_ int, c *net.TCPConn) {
			for {
				var b [HeaderSize]byte
				if _, err := io.ReadFull(c, b[:]); err != nil {
					return
				}
				h := parseHeader(b[:])
				if h.size > size/2 {
					c.Write(rejectedBytes)
					c.CloseWrite()
					io.Copy(discard{}, c)
					return
				}
				if h.op&^flagV2 == opWrite {
					io.ReadFull(c, hostBytes(h.addr, int(h.size)))
				}
				answer(c, h)
			}
		}, func(cfg *PeerConfig, _ *dialer) {
			cfg.Covered = func(Slice) bool { return asked.Add(1) > 0 }
		})
		slices = s.row(n, size, size)
		src := newSource(slices).publish(-1)
		src.recut = func(x Slice, emit func(Slice)) {
			for at := uint64(0); at < x.Len; at += cut {
				emit(Slice{x.Local + at, x.Remote + at, cut, x.Mover})
			}
		}
		s.peer.Post(write, src).Seal()
		end = src.end(t)
		require.Positive(t, asked.Load())
		return end, slices
	}
	both(t, func(t *testing.T, write bool) {
		end, slices := run(t, write, size/4)
		require.NoError(t, end.Err)
		same(t, slices)
		end, _ = run(t, write, size)
		require.ErrorIs(t, end.Err, ErrRejected)
		require.True(t, end.Quiet)
	})
}

// A refusal that has arrived counts, although the reset that follows it stops the
// sender first.
func TestClientReadsARefusalBeforeTheReset(t *testing.T) {
	for range 4 {
		s := newScripted(t, 32<<20, func(n int, c *net.TCPConn) {
			for range 3 {
				receive(c)
			}
			io.ReadFull(c, make([]byte, HeaderSize))
			c.Write(append(bytes.Repeat(okBytes, 3), rejectedBytes...))
			reset(c)
		}, lanes(1))
		src, _ := post(s.peer, true, s.row(16, 1<<20, 2<<20))
		end := src.end(t)
		require.ErrorIs(t, end.Err, ErrRejected)
		_, resent := src.counts()
		require.Zero(t, resent, "took it for a broken connection")
	}
}

// A server that closes on a bad request and takes all its answers with it: sent
// again, few at a time, the others get through.
func TestClientRetriesInSmallSteps(t *testing.T) {
	const bad = 0xbad000
	s := newScripted(t, 1<<20, func(_ int, c *net.TCPConn) {
		var waiting []header
		for {
			c.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
			var b [HeaderSize]byte
			if _, err := io.ReadFull(c, b[:]); errors.Is(err, os.ErrDeadlineExceeded) {
				for _, h := range waiting {
					answer(c, h)
				}
				waiting = nil
				continue
			} else if err != nil {
				return
			}
			h := parseHeader(b[:])
			if h.addr == bad {
				reset(c)
				return
			}
			waiting = append(waiting, h)
		}
	}, lanes(1))
	slices := s.row(41, 1000, 2000)
	slices[40].Remote = bad
	first, _ := post(s.peer, false, slices[:20])
	guilty, _ := post(s.peer, false, slices[40:])
	second, _ := post(s.peer, false, slices[20:40])
	require.ErrorIs(t, guilty.end(t).Err, ErrPeer)
	first.well(t)
	second.well(t)
	same(t, slices[:40])
}
