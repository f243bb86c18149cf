package core

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"mooncake/core/metadata"
)

// frozenPeer publishes a descriptor like an engine of another implementation, and
// accepts data connections that it never reads from: a process that is stopped.
func frozenPeer(t *testing.T, mem arena) (name string) {
	data, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { data.Close() })
	go func() {
		for {
			c, err := data.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { c.Close() })
		}
	}()
	control, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	name = control.Addr().String()
	d := &metadata.Descriptor{Name: name, Protocol: "tcp", TCPProtoVersion: 2,
		TCPDataPort: uint16(data.Addr().(*net.TCPAddr).Port),
		Buffers:     []metadata.Buffer{{Name: name, Addr: mem.addr(), Length: uint64(len(mem))}}}
	text, err := d.Encode()
	require.NoError(t, err)
	s, err := metadata.Listen(metadata.ServerConfig{Listener: control}, metadata.Handlers{Metadata: func() []byte { return text }})
	require.NoError(t, err)
	t.Cleanup(func() { s.Close() })
	return name
}

// toFrozen submits a batch that cannot proceed.
func toFrozen(t *testing.T, opts Options) (*Engine, *Memory, *Batch) {
	overTCP(t)
	e := openEngine(t, "127.0.0.1", testConfig(nil))
	mem := newArena(t, 32<<20)
	m := register(t, e, mem)
	b, err := openSegment(t, e, frozenPeer(t, mem)).Submit(Write, scatter(mem, mem, 32<<20, []int{0}, []int{0}), opts)
	require.NoError(t, err)
	t.Cleanup(b.Close)
	return e, m, b
}

func TestWaitTimeoutCancelsNothing(t *testing.T) {
	_, _, b := toFrozen(t, Options{Deadline: -1})
	require.ErrorIs(t, b.Wait(20*time.Millisecond), ErrWaitTimeout)
	require.ErrorIs(t, b.Wait(0), ErrWaitTimeout)
	assert.Equal(t, Running, b.Status().State)
}

func TestDeadlineEndsABatchLocallyQuietWhenThePeerIsFrozen(t *testing.T) {
	_, _, b := toFrozen(t, Options{Deadline: 100 * time.Millisecond})
	began := time.Now()
	err := b.Wait(deadline)
	require.ErrorIs(t, err, ErrDeadline)
	assert.Contains(t, err.Error(), "quiet here only")
	s := b.Status()
	assert.Equal(t, Failed, s.State)
	assert.Equal(t, QuietLocal, s.Quiet)
	assert.Less(t, time.Since(began), 3*time.Second)
}

func TestCancelAfterTheEndChangesNothing(t *testing.T) {
	p := newPair(t, 4096, nil)
	b, err := p.seg.Submit(Write, scatter(p.memA, p.memB, 4096, []int{0}, []int{0}), Options{})
	require.NoError(t, err)
	defer b.Close()
	require.NoError(t, b.Wait(deadline))
	b.Cancel()
	assert.NoError(t, b.Err())
	assert.Equal(t, Done, b.Status().State)
}

// Cancelled in the middle: the batch ends quiet at both ends, within the bound,
// and after its end no late byte lands on either side.
func TestCancelIsQuietAtBothEnds(t *testing.T) {
	for _, op := range []Op{Write, Read} {
		p := newPair(t, 64<<20, nil)
		p.memA.poison(1)
		p.memB.poison(1)
		b := underWay(t, p, op)
		began := time.Now()
		b.Cancel()
		err := b.Wait(deadline)
		took := time.Since(began)
		if err == nil {
			t.Logf("op %d: done before the cancel", op)
		} else {
			require.ErrorIs(t, err, ErrCanceled)
			assert.Equal(t, QuietBoth, b.Status().Quiet)
			t.Logf("op %d: quiet after %v, %d of %d bytes", op, took, b.Status().BytesDone, b.Status().Bytes)
		}
		b.Close()
		watchPoison(t, p.memA, p.memB)
		require.NoError(t, move(t, p.seg, op, scatter(p.memA, p.memB, 4096, []int{0}, []int{0})), "the segment stays usable")
	}
}

// underWay submits a batch of many small blocks, and returns it when some of them
// have arrived and, most likely, not all.
func underWay(t *testing.T, p *pair, op Op) *Batch {
	slots := len(p.memA) / 512
	b, err := p.seg.Submit(op, scatter(p.memA, p.memB, 512, evenSlots(slots, 0), evenSlots(slots, 1)), Options{})
	require.NoError(t, err)
	t.Cleanup(b.Close)
	eventually(t, "the first bytes", func() bool { return b.Status().BytesDone > 0 })
	return b
}

// watchPoison poisons pages after a batch has ended and sees that nothing lands.
func watchPoison(t *testing.T, arenas ...arena) {
	for _, a := range arenas {
		a.poison(0xA5)
	}
	for end := time.Now().Add(150 * time.Millisecond); time.Now().Before(end); {
		for i, a := range arenas {
			require.True(t, a.all(0xA5), "a late byte landed in arena %d", i)
		}
	}
}

func TestPeerThatDiesFailsTheBatchSoon(t *testing.T) {
	p := newPair(t, 64<<20, nil)
	b := underWay(t, p, Write)
	began := time.Now()
	p.b.Close()
	err := b.Wait(deadline)
	if err == nil {
		t.Log("done before the peer was gone")
	} else {
		require.ErrorIs(t, err, ErrPeer)
		assert.Equal(t, QuietBoth, b.Status().Quiet, "a closed connection proves that the peer is quiet")
	}
	assert.Less(t, time.Since(began), 2*time.Second)
	watchPoison(t, p.memB)
	require.ErrorIs(t, move(t, p.seg, Write, scatter(p.memA, p.memB, 512, []int{0}, []int{0})), ErrPeer)
}

// A process that starts on the same address is another one: the old segment must
// not write to it, a new one must.
func TestRestartedPeerIsNotMistakenForTheOldOne(t *testing.T) {
	p := newPair(t, 1<<20, nil)
	blocks := scatter(p.memA, p.memB, 4096, []int{0}, []int{0})
	require.NoError(t, move(t, p.seg, Write, blocks))
	port := p.b.Port()
	p.b.Close()
	cfg := testConfig(nil)
	cfg.RPCPort = port
	again := openEngine(t, "127.0.0.1", cfg)
	register(t, again, p.memB)
	p.memB.poison(7)
	err := move(t, p.seg, Write, blocks)
	require.ErrorIs(t, err, ErrRestarted)
	assert.True(t, p.seg.Stale())
	assert.True(t, p.memB.all(7), "nothing was written to the new process")
	seg := openSegment(t, p.a, again.Name())
	require.NoError(t, move(t, seg, Write, blocks))
}

func TestDeregisterWaitsForBatchesThatUseTheMemory(t *testing.T) {
	_, m, b := toFrozen(t, Options{Deadline: 200 * time.Millisecond})
	require.NoError(t, m.Deregister())
	require.NotErrorIs(t, b.Err(), ErrWaitTimeout, "deregistered while the batch ran")
	require.ErrorIs(t, m.Deregister(), ErrClosed)
}

func TestEngineCloseEndsBatchesAndWakesWaiters(t *testing.T) {
	e, _, b := toFrozen(t, Options{Deadline: -1})
	woken := make(chan error, 1)
	go func() { woken <- b.Wait(-1) }()
	began := time.Now()
	require.NoError(t, e.Close())
	assert.Less(t, time.Since(began), 3*time.Second)
	select {
	case err := <-woken:
		require.ErrorIs(t, err, ErrClosed)
	case <-time.After(deadline):
		t.Fatal("the waiter was not woken")
	}
	require.ErrorIs(t, e.Close(), ErrClosed)
	_, err := e.OpenSegment(context.Background(), e.Name())
	require.Error(t, err)
	_, err = e.Register([]Range{{4096, 4096}}, "*")
	require.ErrorIs(t, err, ErrClosed)
}

// Its memory is not registered any more, either, but that is not why.
func TestTransferOfAClosedEngine(t *testing.T) {
	p := newPair(t, 1<<20, nil)
	blocks := scatter(p.memA, p.memB, 512, []int{0}, []int{0})
	require.NoError(t, p.a.Close())
	_, err := p.seg.Submit(Write, blocks, Options{})
	require.ErrorIs(t, err, ErrClosed)
}

// What a peer has begun cannot write any more after Fence, and its later batches work.
func TestFence(t *testing.T) {
	p := newPair(t, 64<<20, nil)
	p.memA.poison(1)
	b := underWay(t, p, Write)
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	require.NoError(t, p.b.Fence(ctx, p.a.Name()))
	watchPoison(t, p.memB)
	if err := b.Wait(deadline); err == nil {
		t.Log("done before the fence")
	} else {
		require.ErrorIs(t, err, ErrFenced)
	}
	require.NoError(t, move(t, p.seg, Write, scatter(p.memA, p.memB, 512, []int{0}, []int{0})), "later batches work")
	assert.True(t, arena(p.memB[:512]).all(1))
}

func TestBatchFDBecomesReadable(t *testing.T) {
	_, _, b := toFrozen(t, Options{Deadline: 50 * time.Millisecond})
	fd, err := b.FD()
	require.NoError(t, err)
	require.False(t, readable(t, fd, 0))
	require.True(t, readable(t, fd, deadline))
	require.Error(t, b.Wait(deadline))
	again, err := b.FD()
	require.NoError(t, err)
	require.Equal(t, fd, again)
}
