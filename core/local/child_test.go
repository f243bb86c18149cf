package local

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const childSize = 32 << 20

// childPair is a target in another process, and a peer that moves to it.
func childPair(t testing.TB, w way) (c *child, near arena, p *Peer) {
	c = startChild(t, childSize)
	near = newArena(t, childSize)
	r, err := dial(t, c.instance, mode(map[string]Mode{"best": Best, "packed": PackedOnly, "direct": DirectOnly}[w.name]))
	require.NoError(t, err)
	p = NewRemotePeer(PeerConfig{Name: "child", Log: quietLog}, r)
	t.Cleanup(p.Close)
	return c, near, p
}

func TestBlocksArriveInAnotherProcess(t *testing.T) {
	each(t, waysBetween, func(t *testing.T, w way, write bool) {
		c, near, p := childPair(t, w)
		for _, size := range []int{64, 4096, 64 << 10, childSize} {
			blocks := make([]Slice, childSize/size)
			for i := range blocks {
				at := uint64(i * size)
				blocks[i] = Slice{near.addr() + at, c.addr + at, uint64(size), host{}}
			}
			if write {
				near.fill(byte(size%251 + 1))
				c.does("ok", "poison 0")
			} else {
				near.poison(0)
				c.does("ok", "fill %d", size%251+1)
			}
			moved(t, p, write, blocks)
			c.does("true", "is %d", size%251+1)
			want := newArena(t, childSize)
			want.fill(byte(size%251 + 1))
			require.True(t, string(want) == string(near))
		}
	})
}

// Killed in the middle: the posting fails soon, and quiet.
func TestPeerKilled(t *testing.T) {
	each(t, waysBetween, func(t *testing.T, w way, write bool) {
		c, near, p := childPair(t, w)
		src := newSource(scattered(near.addr(), c.addr, childSize/2048, 1024)).publish(-1)
		po := p.Post(write, src)
		if w.name == "packed" {
			c.freeze() // so that there is something in the rings
		}
		po.Kick()
		c.kill()
		po.Seal()
		end := src.end(t)
		if end.Err != nil {
			require.ErrorIs(t, end.Err, ErrPeer)
			require.True(t, end.Quiet)
		}
		watchPoison(t, near)
		eventually(t, "the peer to be lost", p.Lost)
		late, _ := post(p, write, one(near.addr(), c.addr, 64))
		require.ErrorIs(t, late.end(t).Err, ErrPeer)
	})
}

// A target that stands still does not hold up who copies by itself; a posting that
// waits for it ends when it is stopped, and what it had not begun never comes.
func TestPeerFrozen(t *testing.T) {
	t.Run("direct", func(t *testing.T) {
		c, near, p := childPair(t, remoteWay("direct", DirectOnly))
		near.fill(3)
		c.freeze()
		moved(t, p, true, one(near.addr(), c.addr, childSize))
		c.thaw()
		c.does("true", "is 3")
	})
	each(t, []way{remoteWay("packed", PackedOnly)}, func(t *testing.T, w way, write bool) {
		c, near, p := childPair(t, w)
		moved(t, p, write, scattered(near.addr(), c.addr, 1000, 1024))
		c.does("ok", "poison 7")
		c.freeze()
		near.poison(1)
		src, po := post(p, write, scattered(near.addr(), c.addr, 1000, 1024))
		began := time.Now()
		po.Stop(errStop)
		end := src.end(t)
		require.Less(t, time.Since(began), time.Second)
		require.ErrorIs(t, end.Err, errStop)
		require.True(t, end.Quiet, "it had begun nothing")
		c.thaw()
		c.does("true", "watch 7")
		require.True(t, near.all(1), "a late byte")
		moved(t, p, write, scattered(near.addr(), c.addr, 1000, 1024))
	})
}

// The owner deregisters while others copy, and has its pages for itself then.
func TestDeregisterInAnotherProcess(t *testing.T) {
	each(t, waysBetween, func(t *testing.T, w way, write bool) {
		c, near, p := childPair(t, w)
		for range 5 {
			near.poison(1)
			src, _ := post(p, write, scattered(near.addr(), c.addr, childSize/1024, 512))
			large, _ := post(p, write, one(near.addr(), c.addr, childSize))
			c.does("ok", "deregister")
			c.does("ok", "poison 90")
			c.does("true", "watch 90")
			for _, s := range []*source{src, large} {
				if end := s.end(t); end.Err != nil {
					require.ErrorIs(t, end.Err, ErrRejected)
					require.True(t, end.Quiet)
				}
			}
			c.does("ok", "register")
		}
	})
}

// An initiator that dies, or closes, leaves no connection behind.
func TestConnectionsEnd(t *testing.T) {
	c, near, p := childPair(t, remoteWay("best", Best))
	moved(t, p, true, scattered(near.addr(), c.addr, 1000, 512))
	c.does("1", "clients")
	p.Close()
	eventually(t, "the connection to end", func() bool {
		c.begin("clients")
		return c.line() == "0"
	})
}
