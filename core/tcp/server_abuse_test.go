package tcp

import (
	"bytes"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// alive checks that the server serves others within moments.
func (s *served) alive(t *testing.T) {
	t.Helper()
	began := time.Now()
	raw := dialRaw(t, s.server)
	raw.send(request(opRead|flagV2, s.region.start, 1))
	raw.expect(okBytes, s.arena[:1])
	raw.Close()
	require.Less(t, time.Since(began), 2*time.Second)
}

// watchPoison poisons arenas and sees for a while that nothing lands there.
func watchPoison(t *testing.T, arenas ...arena) {
	t.Helper()
	for _, a := range arenas {
		a.poison(0xA5)
	}
	for end := time.Now().Add(200 * time.Millisecond); time.Now().Before(end); {
		for i, a := range arenas {
			require.True(t, a.all(0xA5), "a late byte landed in arena %d", i)
		}
	}
}

// Deregistered in the middle of a payload: the request is refused, and nothing of it
// lands any more, not even in memory registered anew at the same place.
func TestDeregisterInMidPayload(t *testing.T) {
	for _, size := range []uint64{1000, 1 << 20} { // through the buffer, and straight
		s := newServed(t, 1<<20)
		raw := dialRaw(t, s.server)
		raw.send(request(opWrite|flagV2, s.arena.addr(), size), bytes.Repeat([]byte{7}, int(size/2)))
		eventually(t, "the first half", func() bool { return s.arena[size/2-1] == 7 })
		s.region.deregister()
		again := s.table.add(newRegion(host{}, s.arena.addr(), s.arena.end()))
		s.arena.poison(0xA5)
		raw.Write(bytes.Repeat([]byte{7}, int(size/2)))
		raw.expect(rejectedBytes)
		raw.expectClose()
		watchPoison(t, s.arena)
		require.Zero(t, again.total())
		s.alive(t)
	}
}

// Reads end the same way when their memory goes.
func TestDeregisterInMidRead(t *testing.T) {
	s := newServed(t, 64<<20)
	raw := dialRaw(t, s.server)
	raw.send(request(opRead|flagV2, s.arena.addr(), 64<<20))
	raw.expect(okBytes)
	s.region.deregister()
	n, _ := raw.WriteTo(discard{})
	require.Less(t, n, int64(64<<20))
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }

// Deregistering waits for single system calls only, not for a peer that dawdles.
func TestDeregisterDoesNotWaitForPeers(t *testing.T) {
	s := newServed(t, 8<<20)
	raw := dialRaw(t, s.server)
	raw.send(request(opWrite|flagV2, s.arena.addr(), 4<<20), []byte{1})
	reader := dialRaw(t, s.server)
	for range 4 {
		reader.send(request(opRead|flagV2, s.arena.addr(), 8<<20))
	}
	eventually(t, "the first byte", func() bool { return s.arena[0] == 1 })
	began := time.Now()
	s.region.deregister()
	require.Less(t, time.Since(began), time.Second)
}

func TestSlowDripIsServed(t *testing.T) {
	s := newServed(t, 4096)
	raw := dialRaw(t, s.server)
	for _, b := range append(request(opWrite|flagV2, s.arena.addr(), 3), "abc"...) {
		raw.send([]byte{b})
	}
	raw.expect(okBytes)
	require.Equal(t, "abc", string(s.arena[:3]))
}

// A connection that stops within a request ends; an idle one stays.
func TestStallTimeout(t *testing.T) {
	s := newServed(t, 1<<20, func(cfg *ServerConfig) { cfg.StallTimeout = 200 * time.Millisecond })
	idle := dialRaw(t, s.server)
	idle.send(request(opRead|flagV2, s.arena.addr(), 1))
	idle.expect(okBytes, []byte{0})
	for _, part := range [][]byte{
		request(opWrite|flagV2, s.arena.addr(), 1)[:7],
		request(opWrite|flagV2, s.arena.addr(), 1),
		append(request(opWrite|flagV2, s.arena.addr(), 1<<20), make([]byte, 1<<19)...),
		request(opHello|flagV2, HelloVersion, 34),
	} {
		raw := dialRaw(t, s.server)
		raw.send(part)
		raw.expectClose()
	}
	idle.send(request(opRead|flagV2, s.arena.addr(), 1))
	idle.expect(okBytes, []byte{0})
}

func TestTooManyConnections(t *testing.T) {
	s := newServed(t, 4096, func(cfg *ServerConfig) { cfg.MaxConns = 3 })
	var held []rawClient
	for range 3 {
		raw := dialRaw(t, s.server)
		raw.send(request(opRead|flagV2, s.arena.addr(), 1))
		raw.expect(okBytes, []byte{0})
		held = append(held, raw)
	}
	for range 5 {
		dialRaw(t, s.server).expectClose()
	}
	require.Equal(t, 3, s.server.Connections())
	held[0].Close()
	eventually(t, "room", func() bool { return s.server.Connections() == 2 })
	s.alive(t)
}

func TestRandomGarbage(t *testing.T) {
	s := newServed(t, 1<<20)
	s.arena.poison(0xA5)
	r := rand.New(rand.NewPCG(1, 2))
	var wg sync.WaitGroup
	for range 60 {
		b := make([]byte, 24+r.IntN(4000))
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		wg.Go(func() {
			raw := dialRaw(t, s.server)
			raw.Write(b)
			raw.CloseWrite()
			raw.WriteTo(discard{})
		})
	}
	s.alive(t)
	wg.Wait()
	require.True(t, s.arena.all(0xA5))
	eventually(t, "the connections to end", func() bool { return s.server.Connections() == 0 })
}

// Half-closed in mid-payload: the server closes at once, having answered what was
// complete. Initiators rely on that to be sure that nothing lands any more.
func TestHalfCloseInMidPayload(t *testing.T) {
	for _, size := range []int{1000, 1 << 20} {
		s := newServed(t, 2<<20)
		raw := dialRaw(t, s.server)
		raw.send(request(opWrite|flagV2, s.arena.addr(), 4), []byte("good"),
			request(opWrite|flagV2, s.arena.addr()+1<<20, uint64(size)), bytes.Repeat([]byte{7}, size/2))
		raw.CloseWrite()
		began := time.Now()
		raw.expect(okBytes)
		raw.expectClose()
		require.Less(t, time.Since(began), time.Second)
		require.Equal(t, "good", string(s.arena[:4]))
		watchPoison(t, s.arena)
	}
}

// Close with half-received payloads and untaken answers.
func TestServerCloseIsQuiet(t *testing.T) {
	s := newServed(t, 8<<20)
	writer, reader := dialRaw(t, s.server), dialRaw(t, s.server)
	writer.send(request(opWrite|flagV2, s.arena.addr(), 4<<20), []byte{1})
	for range 4 {
		reader.send(request(opRead|flagV2, s.arena.addr(), 8<<20))
	}
	eventually(t, "the first byte", func() bool { return s.arena[0] == 1 })
	began := time.Now()
	s.server.Close()
	require.Less(t, time.Since(began), time.Second)
	writer.Write(make([]byte, 1<<20))
	watchPoison(t, s.arena)
	require.Zero(t, s.region.held())
	require.Zero(t, s.server.Connections())
}
