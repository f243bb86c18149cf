//go:build cgo

package core

import (
	"context"
	"fmt"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// region is a part of an arena.
func (a arena) region(from, size int) arena { return a[from : from+size : from+size] }

// halves splits a pair's memory: a test's victims get the first half, innocents the other.
func (p *pair) halves() (victim, innocent *pair) {
	half := len(p.memA) / 2
	v, i := *p, *p
	v.memA, v.memB = p.memA.region(0, half), p.memB.region(0, half)
	i.memA, i.memB = p.memA.region(half, half), p.memB.region(half, half)
	return &v, &i
}

// innocents are batches whose bytes must all arrive, whatever happens to others.
type innocents struct {
	pair    *pair
	batches []*Batch
}

func (p *pair) startInnocents(t *testing.T, count int) *innocents {
	p.memA.fill(77)
	p.memB.poison(0)
	in := &innocents{pair: p}
	each := len(p.memA) / count
	for n := range count {
		here, there := p.memA.region(n*each, each), p.memB.region(n*each, each)
		slots := evenSlots(each/512, 3)
		b, err := p.seg.Submit(Write, scatter(here, there, 512, slots, slots), Options{Deadline: deadline})
		require.NoError(t, err)
		t.Cleanup(b.Close)
		in.batches = append(in.batches, b)
	}
	return in
}

func (in *innocents) verify(t *testing.T) {
	t.Helper()
	for i, b := range in.batches {
		require.NoError(t, b.Wait(deadline), "innocent batch %d", i)
	}
	for at := 0; at < len(in.pair.memA); at += 1024 {
		require.Equal(t, in.pair.memA[at:at+512], in.pair.memB[at:at+512], "at %d", at)
	}
}

// A batch that is cancelled ends quiet at both ends within 100 ms, also when the NIC is
// slow and when it does nothing at all; its neighbours do not notice.
func TestRDMACancelSparesNeighbours(t *testing.T) {
	for _, nic := range []string{"rate=40k", "bandwidth=0.2", "latency=20000"} {
		for _, op := range []Op{Write, Read} {
			t.Run(fmt.Sprintf("%s/op %d", nic, op), func(t *testing.T) {
				p := newSoftPair(t, 16<<20, nil)
				require.NoError(t, move(t, p.seg, op, repeated(p, 10)))
				victims, others := p.halves()
				in := others.startInnocents(t, 4)
				setNIC(t, nic)
				slots := evenSlots(len(victims.memA)/512, 1)
				b, err := p.seg.Submit(op, scatter(victims.memA, victims.memB, 512, slots, slots), Options{})
				require.NoError(t, err)
				defer b.Close()
				began := time.Now()
				b.Cancel()
				require.ErrorIs(t, b.Wait(deadline), ErrCanceled)
				took := time.Since(began)
				t.Logf("quiet after %v, %d of %d bytes", took, b.Status().BytesDone, b.Status().Bytes)
				assert.Equal(t, QuietBoth, b.Status().Quiet)
				assert.Less(t, took, slack(100*time.Millisecond))
				setNIC(t, "rate=0", "bandwidth=0", "latency=0")
				watchPoison(t, victims.memA, victims.memB)
				in.verify(t)
			})
		}
	}
}

// slack is a bound as it holds on a machine that has other things to do.
func slack(d time.Duration) time.Duration { return 3 * d }

// A NIC that stands still: deadline and cancel end batches all the same, quiet at both
// ends, because the peer confirms over another way.
func TestRDMADeadlineWhenTheNICStandsStill(t *testing.T) {
	p := newSoftPair(t, 8<<20, nil)
	victims, others := p.halves()
	require.NoError(t, move(t, p.seg, Write, repeated(p, 10)))
	setNIC(t, "freeze=1")
	in := others.startInnocents(t, 2)
	slots := evenSlots(len(victims.memA)/512, 1)
	began := time.Now()
	b, err := p.seg.Submit(Write, scatter(victims.memA, victims.memB, 512, slots, slots), Options{Deadline: 50 * time.Millisecond})
	require.NoError(t, err)
	defer b.Close()
	require.ErrorIs(t, b.Wait(deadline), ErrDeadline)
	took := time.Since(began)
	t.Logf("%v after %v", b.Status().Quiet, took)
	assert.Less(t, took, slack(200*time.Millisecond))
	assert.Equal(t, QuietBoth, b.Status().Quiet)
	setNIC(t, "freeze=0")
	watchPoison(t, victims.memA, victims.memB)
	in.verify(t)
}

// What a peer has begun writes nothing more after a fence, however slowly it goes; and
// what it begins later works.
func TestRDMAFenceWhenTheNICIsSlow(t *testing.T) {
	p := newSoftPair(t, 16<<20, nil)
	p.memA.poison(1)
	setNIC(t, "rate=20k")
	b := underWay(t, p, Write)
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	began := time.Now()
	require.NoError(t, p.b.Fence(ctx, p.a.Name()))
	t.Logf("fenced after %v", time.Since(began))
	watchPoison(t, p.memB)
	require.ErrorIs(t, b.Wait(deadline), ErrFenced)
	assert.Equal(t, QuietBoth, b.Status().Quiet)
	setNIC(t, "rate=0")
	require.NoError(t, move(t, p.seg, Write, scatter(p.memA, p.memB, 512, []int{0}, []int{0})))
	assert.True(t, p.memB.region(0, 512).all(1))
}

// Memory that the peer takes back under a batch: the batch fails and says which bytes were
// refused, what it shares the connection with goes on.
func TestRDMADeregisteredMemoryIsRejected(t *testing.T) {
	p := newRDMAPair(t, 4<<20, nil)
	late := newArena(t, 1<<20)
	m := register(t, p.b, late)
	blocks := scatter(p.memA, late, 4096, []int{0, 1, 2}, []int{4, 8, 16})
	require.NoError(t, move(t, p.seg, Write, blocks))
	require.NoError(t, m.Deregister())
	late.poison(9)
	in := p.startInnocents(t, 4)
	err := move(t, p.seg, Write, blocks)
	require.ErrorIs(t, err, ErrRejected)
	assert.Contains(t, err.Error(), fmt.Sprintf("%#x", late.addr()+4*4096))
	assert.Contains(t, err.Error(), "quiet at both ends")
	in.verify(t)
	assert.True(t, late.all(9))
}

// A key that has gone stale, because the peer registered the memory anew, is not the
// batch's fault, nor that of its neighbours: all of them succeed.
func TestRDMAStaleKeyIsRenewed(t *testing.T) {
	for _, op := range []Op{Write, Read} {
		p := newRDMAPair(t, 4<<20, nil)
		late := newArena(t, 1<<20)
		for round := range 5 {
			m := register(t, p.b, late)
			p.memA.fill(uint64(round))
			late.fill(uint64(round) + 50)
			blocks := scatter(p.memA, late, 4096, []int{0, 2, 4}, []int{4, 8, 16})
			if round > 0 {
				_, others := p.halves()
				in := others.startInnocents(t, 4)
				require.NoError(t, move(t, p.seg, op, blocks), "round %d", round)
				in.verify(t)
			} else {
				require.NoError(t, move(t, p.seg, op, blocks))
			}
			for i := range blocks.Local {
				require.Equal(t, p.memA[i*2*4096:i*2*4096+4096], late[blocks.Remote[i]-late.addr():][:4096])
			}
			require.NoError(t, m.Deregister())
		}
	}
}

// Deregistering while peers write waits for nobody, and lets nobody write afterwards.
func TestRDMADeregisterWhilePeersWrite(t *testing.T) {
	p := newRDMAPair(t, 4<<20, nil)
	late := newArena(t, 1<<20)
	slots := evenSlots(len(late)/512, 1)
	for range 5 {
		m := register(t, p.b, late)
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				for {
					err := move(t, p.seg, Write, scatter(p.memA, late, 512, slots, slots))
					if err != nil {
						assert.True(t, isAny(err, ErrRejected, ErrAddress), "%v", err)
						return
					}
				}
			})
		}
		time.Sleep(5 * time.Millisecond)
		began := time.Now()
		require.NoError(t, m.Deregister())
		assert.Less(t, time.Since(began), time.Second)
		watchPoison(t, late)
		wg.Wait()
	}
}

// A peer that dies: an error within two seconds, and no doubt about our own pages.
func TestRDMAPeerIsKilled(t *testing.T) {
	for _, op := range []Op{Write, Read} {
		p, target := newTarget(t, 16<<20)
		p.memA.poison(1)
		setNIC(t, "rate=20k")
		b := target.underWay(t, p, op)
		began := time.Now()
		target.kill()
		require.ErrorIs(t, b.Wait(deadline), ErrPeer)
		took := time.Since(began)
		t.Logf("failed after %v: %v", took, b.Err())
		assert.Less(t, took, slack(2*time.Second))
		watchPoison(t, p.memA)
		setNIC(t, "rate=0")
		err := move(t, p.seg, op, target.blocks(p, 512, []int{0}, []int{0}))
		require.ErrorIs(t, err, ErrPeer)
	}
}

// A peer that starts anew while a batch is under way: never a byte into the new process.
func TestRDMAPeerRestartsUnderABatch(t *testing.T) {
	p, target := newTarget(t, 16<<20)
	setNIC(t, "rate=20k")
	p.memA.poison(1)
	b := target.underWay(t, p, Write)
	target.restart()
	target.arena.poison(5)
	err := b.Wait(deadline)
	require.Error(t, err)
	assert.True(t, isAny(err, ErrRestarted, ErrPeer), "%v", err)
	setNIC(t, "rate=0")
	err = move(t, p.seg, Write, target.blocks(p, 512, []int{0}, []int{0}))
	require.ErrorIs(t, err, ErrRestarted)
	require.True(t, target.arena.all(5))
	p.seg = openSegment(t, p.a, target.name)
	require.NoError(t, move(t, p.seg, Write, target.blocks(p, 512, []int{0}, []int{0})))
}

// A peer that stands still cannot confirm anything: the end is bounded, quiet here, and
// says so.
func TestRDMAPeerStandsStill(t *testing.T) {
	p, target := newTarget(t, 16<<20)
	require.NoError(t, move(t, p.seg, Write, target.blocks(p, 512, []int{0}, []int{0})))
	target.signal(syscall.SIGSTOP)
	defer target.signal(syscall.SIGCONT)
	require.NoError(t, move(t, p.seg, Write, target.blocks(p, 512, evenSlots(2000, 0), evenSlots(2000, 1))), "a NIC needs nobody's help")
	setNIC(t, "freeze=1")
	slots := evenSlots(2000, 1)
	b, err := p.seg.Submit(Write, target.blocks(p, 512, slots, slots), Options{Deadline: 50 * time.Millisecond})
	require.NoError(t, err)
	defer b.Close()
	began := time.Now()
	require.ErrorIs(t, b.Wait(deadline), ErrDeadline)
	t.Logf("%v after %v", b.Status().Quiet, time.Since(began))
	assert.Equal(t, QuietLocal, b.Status().Quiet)
	assert.Contains(t, b.Err().Error(), "quiet here only")
	assert.Less(t, time.Since(began), 3*time.Second)
	setNIC(t, "freeze=0")
	target.signal(syscall.SIGCONT)
	eventually(t, "transfers to work again", func() bool {
		return move(t, p.seg, Write, target.blocks(p, 512, []int{0}, []int{0})) == nil
	})
}

// A peer that cannot be connected to because it stands still is given up in time.
func TestRDMAConnectToAPeerThatStandsStill(t *testing.T) {
	p, target := newTarget(t, 1<<20)
	target.signal(syscall.SIGSTOP)
	defer target.signal(syscall.SIGCONT)
	began := time.Now()
	err := move(t, p.seg, Write, target.blocks(p, 512, []int{0}, []int{0}))
	require.ErrorIs(t, err, ErrPeer)
	assert.Less(t, time.Since(began), 8*time.Second)
}
