package local

import (
	"encoding/binary"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// An initiator that spoils the bells, which it shares with the target, holds nobody up:
// not who strikes them, nor who waits for them, nor who closes.
func TestSpoiledBells(t *testing.T) {
	for name, spoil := range map[string]func(fd int){
		"blocking": func(fd int) { unix.SetNonblock(fd, false) },
		"blocking and full": func(fd int) {
			unix.SetNonblock(fd, true)
			full := binary.NativeEndian.AppendUint64(nil, math.MaxUint64-1)
			for range 10_000 {
				if _, err := unix.Write(fd, full); err != nil {
					break
				}
			}
			unix.SetNonblock(fd, false)
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPair(t, remoteWay("packed", PackedOnly), 1<<20)
			raw, err := dial(t, p.server.cfg.Instance)
			require.NoError(t, err)
			defer raw.close()
			for _, b := range raw.bells {
				spoil(b.fd)
			}
			ring := raw.ring(0)
			for n := range uint64(3) {
				s := ring.slot(n)
				s.field32(slotCount).Store(0)
				ring.wants().Store(n + 1)
				s.state().Store(slotPosted)
				raw.bells[0].strike()
				eventually(t, "an answer", func() bool { return s.state().Load() == slotDone })
			}
			moved(t, p.peer, true, p.scattered(1000, 512))
			closed := make(chan struct{})
			go func() {
				p.server.Close()
				close(closed)
			}()
			select {
			case <-closed:
			case <-time.After(patience):
				require.FailNow(t, "the target does not close")
			}
		})
	}
}
