package local

import (
	"context"
	"log/slog"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/pkg/errors"
)

// An initiator that copies by itself tells the target when: for each of its lanes
// one word that is odd while the lane is inside a copy, in shared memory that only
// the initiator can write. It makes the word odd first and looks at the table
// then; the target changes the table first and looks at the words then. So either
// the initiator sees the change, or the target sees that it must wait.
//
//	64 bytes a lane: word, bytes written, bytes read
const (
	wordSpacing = 64
	wordWritten = 8
	wordRead    = 16
	maxLanes    = 16 // that an initiator may have
)

const wordsSize = maxLanes * wordSpacing

// word is one lane's, as its owner sees it.
type word struct {
	inside, written, read *atomic.Uint64
}

func wordOf(s *shm, lane int) word {
	at := lane * wordSpacing
	return word{s.u64(at), s.u64(at + wordWritten), s.u64(at + wordRead)}
}

// heapWord is for a lane that moves within one process.
func heapWord() word { return word{new(atomic.Uint64), new(atomic.Uint64), new(atomic.Uint64)} }

func (w word) enter() { w.inside.Add(1) }
func (w word) leave() { w.inside.Add(1) }

func (w word) count(write bool, bytes uint64) {
	if write {
		w.written.Add(bytes)
	} else {
		w.read.Add(bytes)
	}
}

const (
	// A copy takes some 100 us, so who is inside one longer is not running.
	patienceInside = time.Second
	// leftAfter is when a look at what the process has mapped is due, and due again.
	leftAfter      = 20 * time.Millisecond
	pauseInside    = 20 * time.Microsecond
	maxPauseInside = time.Millisecond
)

// owner is the process whose words they are.
type owner interface {
	// dead tells whether it has ended. Called often.
	dead() bool
	// left tells whether it has, though it lives, forgotten the words: another
	// program runs in it. Called now and then.
	left() bool
	// pid is its number, for the log.
	pid() int
}

// awaitOutside returns when every lane that is inside a copy now has left it, or its
// process is dead, or ctx ends.
func awaitOutside(ctx context.Context, words []word, who owner, log *slog.Logger) error {
	for _, w := range words {
		seen := w.inside.Load()
		if seen&1 == 0 {
			continue
		}
		began, pause, warned, look := time.Now(), pauseInside, false, leftAfter
		for w.inside.Load() == seen && !who.dead() {
			if ctx.Err() != nil {
				return errors.Wrap(ctx.Err(), "a peer is inside a copy and does not go on")
			}
			if time.Since(began) < pauseInside {
				runtime.Gosched()
				continue
			}
			if time.Since(began) > look {
				if who.left() {
					return nil
				}
				look *= 2
			}
			if !warned && time.Since(began) > patienceInside {
				warned = true
				log.Warn("waiting for a peer on this host that stopped in the middle of a copy: let it go on, or end it", "pid", who.pid())
			}
			time.Sleep(pause)
			pause = min(2*pause, maxPauseInside)
		}
	}
	return nil
}
