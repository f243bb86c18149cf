package tcp

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"
)

// goneLane stands for a lane that was lost, in the books of its posting.
type goneLane struct{}

func (goneLane) giveUp(error) {}

// Slices to be sent again wake the lane that may take them, also when an older one,
// which may not, is just as idle.
func TestRedoWakesALaneThatIsYoungEnough(t *testing.T) {
	p := newPair(t, 1<<20, lanes(4))
	old, _ := post(p.peer, true, p.row(1, 4096, 4096))
	old.well(t)
	src := newSource(p.row(1, 4096, 4096)).publish(-1)
	po := p.peer.Post(true, src)
	var slice [1]Slice

	p.peer.mu.Lock()
	po.sealed = true
	src.Next(slice[:], 1<<20)
	po.carry(goneLane{}, 1)
	why := loss{cause: errors.New("broken"), fenced: true}
	why.after = p.peer.count(why.cause, true)
	p.peer.dialing++
	p.peer.wg.Add(1)
	go p.peer.openLane(p.peer.breaks)
	p.peer.mu.Unlock()
	eventually(t, "the young lane", func() bool {
		p.peer.mu.Lock()
		defer p.peer.mu.Unlock()
		return len(p.peer.lanes) == 2
	})

	p.peer.retired(goneLane{}, []entry{{Slice: slice[0], posting: po}}, why)
	require.NoError(t, src.end(t).Err)
}
