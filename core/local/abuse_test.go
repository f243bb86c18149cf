package local

import (
	"fmt"
	"math/rand/v2"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// raw is a connection that says what a test wants.
type raw struct {
	*net.UnixConn
	t testing.TB
}

func dialRaw(t testing.TB, s *Server) *raw {
	c, err := net.DialUnix("unixpacket", nil, address(s.cfg.Instance))
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(patience))
	return &raw{c, t}
}

// closed checks that the server ends the connection.
func (r *raw) closed(why string) {
	r.t.Helper()
	for {
		n, err := r.Read(make([]byte, 4096))
		if n == 0 && err == nil {
			continue
		}
		if err != nil {
			require.NotErrorIs(r.t, err, unix.ETIMEDOUT, why)
			require.NotContains(r.t, err.Error(), "timeout", why)
			return
		}
	}
}

func sealedWords(t testing.TB, size, seals int) int {
	s, err := createShm("test", size, seals)
	require.NoError(t, err)
	t.Cleanup(s.close)
	return s.fd
}

func TestHandshakesThatAreRefused(t *testing.T) {
	x := startTarget(t)
	arena := newArena(t, 4096)
	x.register(arena.addr(), arena.end(), true)
	good := &hello{target: x.server.cfg.Instance, from: Instance{1}, name: "n", rings: 1, direct: true}
	words := sealedWords(t, wordsSize, sealMine)
	pipe := make([]int, 2)
	require.NoError(t, unix.Pipe(pipe))
	t.Cleanup(func() { closeAll(pipe) })
	for name, try := range map[string]struct {
		message []byte
		fds     []int
	}{
		"garbage":       {[]byte("GET / HTTP/1.0\r\n\r\n"), []int{words}},
		"empty":         {[]byte{0}, []int{words}},
		"no words":      {good.encode(), nil},
		"two words":     {good.encode(), []int{words, words}},
		"a pipe":        {good.encode(), pipe[:1]},
		"not sealed":    {good.encode(), []int{sealedWords(t, wordsSize, unix.F_SEAL_SEAL)}},
		"writable":      {good.encode(), []int{sealedWords(t, wordsSize, sealFixed)}},
		"too small":     {good.encode(), []int{sealedWords(t, 64, sealMine)}},
		"another place": {(&hello{target: Instance{9}, rings: 1}).encode(), []int{words}},
		"too long":      {make([]byte, maxHandshake+1), []int{words}},
	} {
		r := dialRaw(t, x.server)
		require.NoError(t, send(r.UnixConn, try.message, try.fds...), name)
		r.closed(name)
	}
	// Rights that are claimed, and not proved.
	r := dialRaw(t, x.server)
	require.NoError(t, send(r.UnixConn, good.encode(), words))
	message, fds, err := receive(r.UnixConn, -1)
	require.NoError(t, err)
	closeAll(fds)
	w, err := decodeWelcome(message)
	require.NoError(t, err)
	require.True(t, w.direct)
	require.NoError(t, send(r.UnixConn, ready{direct: true}.encode()))
	r.closed("a claim")
	eventually(t, "no connection", func() bool { return x.server.Connections() == 0 })
	p := reach(t, x.server.cfg.Instance)
	moved(t, p, true, one(arena.addr()+100, arena.addr(), 50))
}

// Connections that say nothing are given up, and there is a limit to them.
func TestFlood(t *testing.T) {
	x := startTarget(t)
	for range usualConns {
		dialRaw(t, x.server)
	}
	eventually(t, "no more room", func() bool { return x.server.Connections() == usualConns })
	_, err := dial(t, x.server.cfg.Instance)
	require.ErrorIs(t, err, ErrPeer)
	eventually(t, "the silent ones to be gone", func() bool { return x.server.Connections() == 0 })
	reach(t, x.server.cfg.Instance)
}

func TestNobodyThere(t *testing.T) {
	_, err := dial(t, newInstance(t))
	require.ErrorIs(t, err, ErrElsewhere)
	x := startTarget(t)
	x.server.Close()
	_, err = dial(t, x.server.cfg.Instance)
	require.ErrorIs(t, err, ErrElsewhere)
	require.Nil(t, x.server.Attach(Instance{1}, "n", copyRanges))
}

// A message that is none ends the connection, and nothing else.
func TestMessagesThatAreNone(t *testing.T) {
	arena := newArena(t, 1<<20)
	for name, spoil := range map[string]func(s slot){
		"too many ranges":  func(s slot) { s.field32(slotCount).Store(maxRanges + 1) },
		"too many bytes":   func(s slot) { s.field64(slotBytes).Store(maxPayload + 1) },
		"a different sum":  func(s slot) { s.field64(slotBytes).Store(7) },
		"a range too long": func(s slot) { s.ranges()[0][1] = 1 << 63 },
	} {
		x := startTarget(t)
		x.register(arena.addr(), arena.end(), true)
		p := reach(t, x.server.cfg.Instance)
		s := p.remote.ring(0).slot(0)
		s.field32(slotOp).Store(1)
		s.field32(slotCount).Store(1)
		s.field64(slotBytes).Store(100)
		s.ranges()[0] = [2]uint64{arena.addr(), 100}
		spoil(s)
		s.state().Store(slotPosted)
		p.lanes[0].pack.bell.strike()
		eventually(t, name, func() bool { return p.Lost() && x.server.Connections() == 0 })
		again := reach(t, x.server.cfg.Instance)
		moved(t, again, true, scattered(arena.addr()+1<<19, arena.addr(), 100, 64))
	}
}

// What the target writes into a slot may be anything.
func TestAnswersThatAreNone(t *testing.T) {
	for _, state := range []uint32{slotBack + 1, ^uint32(0), slotFree} {
		p := newPair(t, remoteWay("packed", PackedOnly), 1<<20)
		release := holdRings(t, p.server)
		src, _ := post(p.peer, true, p.scattered(1, 64))
		at := -1 // whichever lane was free
		eventually(t, "a message", func() bool {
			for i := range p.peer.remote.count {
				if p.peer.remote.ring(i).slot(0).state().Load() == slotBegun {
					at = i
				}
			}
			return at >= 0
		})
		p.peer.remote.ring(at).slot(0).state().Store(state)
		p.peer.lanes[at].wakeUp()
		end := src.end(t)
		require.ErrorIs(t, end.Err, ErrProtocol)
		require.False(t, end.Quiet, "the target had begun")
		release()
	}
}

// A target that lies about its memory, or stops in the middle of a change of it.
func TestTablesThatAreNone(t *testing.T) {
	for name, spoil := range map[string]func(x *table){
		"count": func(x *table) { x.u64(tableCount).Store(1 << 40) },
		"order": func(x *table) { x.u64(tableEntries + 8).Store(1) },
	} {
		p := newPair(t, remoteWay("direct", DirectOnly), 1<<20)
		p.server.table.u64(tableGeneration).Add(2)
		spoil(p.server.table)
		src, _ := post(p.peer, true, p.scattered(10, 64))
		require.ErrorIs(t, src.end(t).Err, ErrProtocol, name)
		require.True(t, p.peer.Lost())
	}
	p := newPair(t, remoteWay("direct", DirectOnly), 1<<20)
	p.server.table.u64(tableGeneration).Add(1)
	src, po := newSource(p.scattered(10, 64)), (*Posting)(nil)
	po = p.peer.Post(true, src.publish(-1))
	time.AfterFunc(50*time.Millisecond, func() { po.Stop(errStop) })
	po.Seal()
	require.Error(t, src.end(t).Err)
}

// Random messages touch nothing but what is registered.
func FuzzMessage(f *testing.F) {
	memory, err := mapArena(3 << 20)
	require.NoError(f, err)
	inner := memory[1<<20 : 2<<20]
	x := &target{}
	x.server, err = NewServer(ServerConfig{Memory: x, Instance: newInstance(f), Log: quietLog, MaxRanges: 10})
	require.NoError(f, err)
	f.Cleanup(x.server.Close)
	x.register(inner.addr(), inner.addr()+1<<19, true)
	x.register(inner.addr()+1<<19, inner.end(), false)
	mem := make([]byte, ringSize)
	f.Add(uint64(1), uint32(10), uint32(1), uint64(500))
	f.Fuzz(func(t *testing.T, seed uint64, count, op uint32, sum uint64) {
		memory.poison(0x11)
		r := &ringServer{conn: &conn{server: x.server}, ring: ring{&shm{mem: mem, fd: -1}, 0}}
		s := r.ring.slot(0)
		random := rand.New(rand.NewPCG(seed, 1))
		var total uint64
		for i := range min(count, maxRanges) {
			at := memory.addr() + random.Uint64N(3<<20)
			n := random.Uint64N(200)
			s.ranges()[i] = [2]uint64{at, n}
			total += n
		}
		if sum%3 != 0 {
			sum = total
		}
		s.field32(slotOp).Store(op)
		s.field32(slotCount).Store(count)
		s.field64(slotBytes).Store(sum)
		s.field64(slotEpoch).Store(seed % 4)
		if err := r.serve(s); err != nil {
			require.ErrorIs(t, err, ErrProtocol)
		}
		require.True(t, memory[:1<<20].all(0x11) && memory[3<<19:].all(0x11), "touched what is not registered, or read-only")
		require.LessOrEqual(t, s.field32(slotStatus).Load(), wentNowhere)
	})
}

func TestWhatIsExplained(t *testing.T) {
	r := &Remote{other: &other{uid: unix.Getuid(), fd: -1}}
	require.Contains(t, r.explain(unix.EPERM), "SYS_PTRACE")
	require.Contains(t, r.explain(unix.ENOSYS), "seccomp")
	require.Contains(t, r.explain(unix.ESRCH), "PID namespace")
	require.Contains(t, r.explain(unix.EIO), "input/output error")
	r.other.uid++
	require.Contains(t, r.explain(unix.EPERM), fmt.Sprintf("user %d", r.other.uid))
}
