package core

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// repeated is count blocks of 16 bytes, all between the same two places, which
// cannot be merged.
func repeated(p *pair, count int) Blocks {
	var b Blocks
	for i := range count {
		at := uint64(i % 64 * 32)
		b.Local = append(b.Local, p.memA.addr()+at)
		b.Remote = append(b.Remote, p.memB.addr()+at)
		b.Length = append(b.Length, 16)
	}
	return b
}

// Up to checkedTogether blocks, a bad one at the end means that nothing moved; in a
// longer call it means that nothing moves any more when the error is there.
func TestABadBlockAtTheEnd(t *testing.T) {
	for _, count := range []int{checkedTogether, 3 * checkedTogether} {
		for _, bad := range []side{localSide, remoteSide} {
			p := newPair(t, 8192, nil)
			p.memA.fill(1)
			p.memB.poison(9)
			blocks := repeated(p, count)
			if bad == localSide {
				blocks.Local[count-1] = p.memA.addr() + 8190
			} else {
				blocks.Remote[count-1] = p.memB.addr() + 8190
			}
			_, err := p.seg.Submit(Write, blocks, Options{})
			require.ErrorIs(t, err, ErrAddress)
			assert.ErrorContains(t, err, fmt.Sprintf("block %d: %s", count-1, bad))
			if count <= checkedTogether {
				assert.True(t, p.memB.all(9), "nothing moved")
			}
			assert.Zero(t, p.a.Stats().BatchesOpen)
			// Nothing is pinned, and nothing is sent any more.
			ended := make(chan error, 1)
			go func() { ended <- p.regA.Deregister() }()
			select {
			case err := <-ended:
				assert.NoError(t, err)
			case <-time.After(deadline):
				t.Fatal("the memory is still in use")
			}
		}
	}
}

// Blocks may come in pieces; neighbours are merged across them, and the batch is
// one, with one outcome.
func TestBlocksInPieces(t *testing.T) {
	for _, op := range []Op{Write, Read} {
		p := newPair(t, 1<<20, nil)
		p.memA.fill(1)
		p.memB.fill(2)
		want := append([]byte(nil), p.memA...)
		if op == Read {
			want = append([]byte(nil), p.memB...)
		}
		b, err := p.seg.Open(op, Options{})
		require.NoError(t, err)
		defer b.Close()
		for at := uint64(0); at < 1<<20; at += 4096 {
			require.NoError(t, b.Add(Blocks{Local: []uint64{p.memA.addr() + at}, Remote: []uint64{p.memB.addr() + at}, Length: []uint64{4096}}))
		}
		assert.ErrorIs(t, b.Wait(10*time.Millisecond), ErrWaitTimeout, "not sealed")
		b.Seal()
		b.Seal()
		require.NoError(t, b.Wait(deadline))
		s := b.Status()
		assert.EqualValues(t, 256, s.Blocks)
		assert.EqualValues(t, 1<<20, s.Bytes)
		assert.EqualValues(t, 1, s.Runs, "merged across pieces")
		assert.Equal(t, want, []byte(p.memA))
		assert.Equal(t, want, []byte(p.memB))
		assert.ErrorIs(t, b.Add(repeated(p, 1)), ErrInvalid)
	}
}

func TestAnEmptyOpenBatchIsDone(t *testing.T) {
	p := newPair(t, 8192, nil)
	for _, add := range []Blocks{{}, {Local: []uint64{1}, Remote: []uint64{2}, Length: []uint64{0}}} {
		b, err := p.seg.Open(Write, Options{})
		require.NoError(t, err)
		require.NoError(t, b.Add(add))
		b.Seal()
		require.NoError(t, b.Wait(deadline))
		b.Close()
	}
	assert.Zero(t, p.a.Stats().BatchesOpen)
}

// A bad piece fails the whole batch, and the error counts blocks from its first one.
func TestABadPieceFailsTheBatch(t *testing.T) {
	p := newPair(t, 8192, nil)
	b, err := p.seg.Open(Write, Options{})
	require.NoError(t, err)
	defer b.Close()
	require.NoError(t, b.Add(repeated(p, 100)))
	bad := repeated(p, 10)
	bad.Remote[7] = p.memB.addr() + 8190
	err = b.Add(bad)
	require.ErrorIs(t, err, ErrAddress)
	assert.ErrorContains(t, err, "block 107: remote")
	assert.ErrorIs(t, b.Wait(deadline), ErrAddress)
	assert.NoError(t, b.Add(bad), "the outcome is told already")
	b.Seal()
	assert.Equal(t, Failed, b.Status().State)
}

// An open batch ends by its deadline, by cancelling, by closing it, and with its engine.
func TestAnOpenBatchEnds(t *testing.T) {
	p := newPair(t, 8192, nil)
	open := func(d time.Duration) *Batch {
		b, err := p.seg.Open(Write, Options{Deadline: d})
		require.NoError(t, err)
		require.NoError(t, b.Add(repeated(p, 1000)))
		return b
	}
	late := open(20 * time.Millisecond)
	assert.ErrorIs(t, late.Wait(deadline), ErrDeadline)
	late.Seal()
	late.Close()
	cancelled := open(0)
	cancelled.Cancel()
	assert.ErrorIs(t, cancelled.Wait(deadline), ErrCanceled)
	assert.NoError(t, cancelled.Add(repeated(p, 10)))
	cancelled.Close()
	open(-1).Close()
	last := open(-1)
	require.NoError(t, p.a.Close())
	assert.ErrorIs(t, last.Wait(deadline), ErrClosed)
	assert.NoError(t, last.Add(repeated(p, 10)))
	last.Close()
	assert.Zero(t, p.a.Stats().BatchesOpen)
}

// Batches that are cancelled while blocks are added leave neither memory pinned nor
// another batch's runs in their place.
func TestCancelWhileBlocksAreAdded(t *testing.T) {
	p := newPair(t, 8192, nil)
	p.memA.fill(3)
	for range 100 {
		b, err := p.seg.Open(Write, Options{})
		require.NoError(t, err)
		cancelled := make(chan struct{})
		go func() {
			defer close(cancelled)
			for b.Status().BytesDone == 0 && b.Status().Blocks < 3000 {
			}
			b.Cancel()
		}()
		for range 5 {
			require.NoError(t, b.Add(repeated(p, 1500)))
		}
		b.Seal()
		<-cancelled
		if err := b.Wait(deadline); err != nil {
			require.ErrorIs(t, err, ErrCanceled)
		}
		b.Close()
		require.NoError(t, move(t, p.seg, Write, repeated(p, 3000)))
	}
	assert.Equal(t, p.memA[:16], p.memB[:16])
	require.NoError(t, p.regA.Deregister())
}

// A batch that grew after it began may take longer, by default.
func TestTheDefaultDeadlineGrowsWithTheBytes(t *testing.T) {
	p := newPair(t, 8192, nil)
	b, err := p.seg.Open(Write, Options{})
	require.NoError(t, err)
	defer b.Close()
	before := b.deadline()
	require.NoError(t, b.Add(repeated(p, 1000)))
	b.Seal()
	assert.Equal(t, before+16000*time.Nanosecond, b.deadline())
	assert.NoError(t, b.Wait(deadline))
}
