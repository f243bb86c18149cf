//go:build cgo

package core

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"mooncake/tests/softnic/nic"
)

// Requests that complete with an error of any kind: a batch then ends well, with every
// byte where it belongs, or with an error that a caller can act on; and what comes after
// it works.
func TestRDMACompletionErrors(t *testing.T) {
	for status := 1; status <= 21; status++ {
		if status == 5 {
			continue // a flush is only ever the second error
		}
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			p := newSoftPair(t, 1<<20, nil)
			for _, op := range []Op{Write, Read} {
				for _, at := range []int{1, 40} {
					setNIC(t, nic.Fail(at, status)...)
					p.memA.fill(1)
					p.memB.fill(2)
					slots := evenSlots(1000, 3)
					err := move(t, p.seg, op, scatter(p.memA, p.memB, 512, slots, slots))
					setNIC(t, "fail_at=0")
					if err != nil {
						require.True(t, isAny(err, ErrPeer, ErrDevice, ErrRejected), "%v", err)
						require.Contains(t, err.Error(), "quiet at both ends")
					} else {
						for _, i := range slots {
							require.Equal(t, p.memA[i*512:i*512+512], p.memB[i*512:i*512+512], "block %d", i)
						}
					}
					require.NoError(t, move(t, p.seg, op, scatter(p.memA, p.memB, 512, slots, slots)))
				}
			}
		})
	}
}

// A connection that breaks now and then is mended each time, and its batches notice
// nothing.
func TestRDMAConnectionsAreMended(t *testing.T) {
	p := newSoftPair(t, 4<<20, nil)
	in := p.startInnocents(t, 8)
	in.verify(t)
	opened := p.a.Stats().ConnectionsOpened
	for round := range 5 {
		setNIC(t, nic.Fail(100+round, statusRetryExceeded)...)
		in = p.startInnocents(t, 8)
		in.verify(t)
	}
	assert.Greater(t, p.a.Stats().ConnectionsOpened, opened)
	assert.Positive(t, p.a.Stats().Retries)
}

const statusRetryExceeded = 12

// A connection that breaks again and again is an error, not a loop.
func TestRDMAABrokenLinkIsAnError(t *testing.T) {
	p := newSoftPair(t, 1<<20, nil)
	setNIC(t, append(nic.Fail(1, statusRetryExceeded), "fail_for=1000000")...)
	began := time.Now()
	err := move(t, p.seg, Write, repeated(p, 100))
	require.ErrorIs(t, err, ErrPeer)
	assert.Less(t, time.Since(began), 5*time.Second)
	setNIC(t, "fail_at=0")
	require.NoError(t, move(t, p.seg, Write, repeated(p, 100)))
}

// Requests whose bytes arrive after the sender's queue pair has broken: once a batch is
// reported, as done or as quiet at both ends, they do not.
func TestRDMALateDelivery(t *testing.T) {
	for _, cancelled := range []bool{false, true} {
		p := newSoftPair(t, 4<<20, nil)
		p.memA.poison(3)
		require.NoError(t, move(t, p.seg, Write, repeated(p, 10)))
		for round := range 3 {
			setNIC(t, append(nic.Fail(60+round, statusRetryExceeded), "late=80", "rate=20k")...)
			slots := evenSlots(4000, 3)
			b, err := p.seg.Submit(Write, scatter(p.memA, p.memB, 512, slots, slots), Options{})
			require.NoError(t, err)
			if cancelled {
				time.Sleep(5 * time.Millisecond)
				b.Cancel()
			}
			err = b.Wait(deadline)
			if err != nil {
				require.True(t, isAny(err, ErrPeer, ErrCanceled), "%v", err)
			}
			if err == nil || b.Status().Quiet == QuietBoth {
				watchPoison(t, p.memB)
			} else {
				t.Log(err)
			}
			b.Close()
			setNIC(t, "fail_at=0", "late=0", "rate=0")
			require.NoError(t, move(t, p.seg, Write, repeated(p, 10)))
		}
	}
}

// A lost peer: nothing of it answers on the wire, but its process lives.
func TestRDMAPeerIsSilent(t *testing.T) {
	for _, how := range []string{"silent=1", "unreachable=1"} {
		p, target := newTarget(t, 4<<20)
		require.NoError(t, move(t, p.seg, Write, target.blocks(p, 512, []int{0}, []int{0})))
		setNIC(t, how, "retry=100")
		began := time.Now()
		err := move(t, p.seg, Write, target.blocks(p, 512, []int{0, 2}, []int{0, 2}))
		require.Error(t, err)
		t.Logf("%s: %v after %v", how, err, time.Since(began))
		require.True(t, isAny(err, ErrPeer, ErrDevice), "%v", err)
		require.Contains(t, err.Error(), "quiet at both ends")
		setNIC(t, how[:len(how)-1]+"0", "retry=0")
		require.NoError(t, move(t, p.seg, Write, target.blocks(p, 512, []int{0}, []int{0})))
	}
}
