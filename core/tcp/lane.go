package tcp

import (
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pkg/errors"
)

const (
	// quantum is how many slices a lane takes from one posting before the next
	// posting has its turn; with their headers they fit one system call.
	quantum = 512
	// quantumBytes bounds the same in bytes.
	quantumBytes = 1 << 20
	// laneWindow bounds the bytes sent, or asked for, and not yet confirmed.
	laneWindow = 8 << 20
	// ringSize bounds the slices not yet confirmed. A status is 8 bytes, so all
	// of them fit the socket buffers, and the peer never waits for us to read.
	ringSize = 4096
	// fenceTime is how long a half-closed lane waits for the peer to close on
	// behalf of a posting that has to end.
	fenceTime = 500 * time.Millisecond
	// kickRounds bounds how many quanta a submitting thread sends, some of which
	// may be other postings'.
	kickRounds = 4
	noLimit    = math.MaxInt
)

// lane is one version 2 connection: requests go out pipelined within a window
// while statuses and read payloads come in.
//
// Sending is done by whoever has the sender lock: the submitting thread, the
// reader after it made room, or the lane's writer when the socket is full.
// Nobody waits for that lock: wanted tells its holder to look again.
type lane struct {
	peer   *Peer
	sock   *socket
	many   bool   // slices go many to a message
	fenced uint64 // the peer's last fence of this engine, when the lane opened
	born   uint64 // how many connections of the peer had broken before

	wanted  atomic.Bool
	stalled atomic.Bool // the socket is full; only the writer goes on
	sending sync.Mutex  // the sender lock; guards the sender's fields
	send    sender

	reading sync.Mutex // the reader lock; guards reader
	reader  reader
	away    atomic.Bool   // the reader goroutine has left the lane
	shared  atomic.Bool   // a thread wants to receive for itself
	call    chan struct{} // for the reader goroutine while it is away

	ring    ring
	sentB   atomic.Uint64 // bytes of slices handed out, ever
	ackedB  atomic.Uint64 // bytes of slices confirmed, ever
	wake    chan struct{} // for the writer
	stop    chan struct{} // closed by end
	once    sync.Once
	workers sync.WaitGroup // reader and writer
	loss    loss           // set before stop is closed
}

// loss is why and how a lane was lost.
type loss struct {
	cause error
	// culprit is the posting at fault where the cause is not the connection.
	culprit *Posting
	slice   uint64 // the slice that was rejected, counted from the oldest
	example entry  // the slice itself
	// recut: the slice was rejected, but its range is registered after all.
	recut  bool
	fenced bool   // the peer is known to have closed its end
	after  uint64 // the peer's count of broken connections, this one included
}

func newLane(p *Peer, link Link) (*lane, error) {
	link.Conn.SetNoDelay(true)
	sock, err := newSocket(link.Conn, p.cfg.StallTimeout, p.cfg.SocketBuffer)
	if err != nil {
		return nil, err
	}
	l := &lane{peer: p, sock: sock, many: link.Many, fenced: link.Fenced,
		call: make(chan struct{}, 1), wake: make(chan struct{}, 1), stop: make(chan struct{})}
	l.reader.l, l.reader.idle = l, l.reader.beforeWait
	return l, nil
}

// start runs the lane's goroutines; peer.mu is held.
func (l *lane) start() {
	l.peer.wg.Add(1)
	l.workers.Add(2)
	go l.write()
	go l.read()
	go l.retire()
}

// outstanding estimates the bytes on the lane.
func (l *lane) outstanding() uint64 { return l.sentB.Load() - l.ackedB.Load() }

// kick sends what there is to send, as far as that goes without blocking and
// within rounds quanta; the writer does the rest. If someone else is sending, they
// will look again.
func (l *lane) kick(rounds int) {
	l.wanted.Store(true)
	if l.stalled.Load() || !l.sending.TryLock() {
		return
	}
	l.sendSome(rounds)
	if l.wanted.Load() { // someone asked while the lock was held
		l.wakeUp()
	}
}

// sendSome sends without waiting. It is entered with the sender lock, and gives it
// back, also in a panic: retire must get it.
func (l *lane) sendSome(rounds int) {
	defer l.sending.Unlock()
	l.wanted.Store(false)
	switch err := l.send.pump(l, false, rounds); err {
	case nil:
	case errAgain:
		l.stalled.Store(true)
		l.wakeUp()
	case errMore:
		l.wakeUp()
	default:
		l.sendFailed(err)
	}
}

// wakeUp has the writer look for work.
func (l *lane) wakeUp() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// write is the lane's writer: it sends when the socket was full, and when others
// ask for help.
func (l *lane) write() {
	defer l.workers.Done()
	defer recovered(l.peer.cfg.Log, "a lane's writer", l.bug)
	for {
		select {
		case <-l.stop:
			return
		case <-l.wake:
		}
		l.sendAll()
		if l.wanted.Load() {
			l.kick(noLimit) // whoever asked while the lock was held
		}
	}
}

// sendAll sends until there is nothing more, waiting while the socket is full.
func (l *lane) sendAll() {
	l.sending.Lock()
	defer l.sending.Unlock()
	for more := true; more; {
		l.wanted.Store(false)
		err := l.send.pump(l, true, noLimit)
		if err != nil {
			l.sendFailed(err)
		}
		more = err == nil && l.wanted.Load()
	}
	l.stalled.Store(false)
}

// sendFailed gives the lane up, but for a connection that the peer has closed:
// answers may have come before that, a rejection among them, so the reader goes
// on to the end of the stream, which is near. The sender lock is held.
func (l *lane) sendFailed(err error) {
	switch {
	case hangup(err):
	case errors.Is(err, ErrMemory):
		l.end(loss{cause: err, culprit: l.send.posting()})
	default:
		l.end(loss{cause: err})
	}
}

// end stops the lane; retire does the rest. The first call counts.
func (l *lane) end(why loss) {
	l.once.Do(func() {
		l.loss = why
		l.sock.interrupt()
		close(l.stop)
	})
}

// bug ends the lane for a panic of ours.
func (l *lane) bug(err error) { l.end(loss{cause: err}) }

// giveUp ends the lane for a posting that must not wait for it.
func (l *lane) giveUp(cause error) { l.end(loss{cause: cause}) }

// retire waits until the lane has ended, stops its goroutines, fences it if that
// is still to do, and hands back what it carried.
func (l *lane) retire() {
	defer l.peer.wg.Done()
	defer recovered(l.peer.cfg.Log, "the end of a lane", nil)
	<-l.stop
	l.loss.after = l.peer.leave(l)
	l.workers.Wait()
	l.sending.Lock() // never unlocked: nobody sends on this lane again, nor receives
	l.reading.Lock()
	entries, loud := l.ring.drain(), false
	if len(entries) > 0 {
		if l.loss.culprit == nil {
			l.loss.culprit = entries[0].posting // answers come in the order of sending
		}
		if l.loss.slice >= uint64(entries[0].row) {
			l.loss.slice = 0 // a peer may say anything
		}
		l.loss.example = entries[l.loss.slice]
		entries = l.fence(entries)
		loud = !l.loss.fenced
	}
	if loud {
		l.sock.closeAtOnce()
	} else {
		l.sock.close()
	}
	if l.loss.fenced && errors.Is(l.loss.cause, ErrRejected) {
		// The question takes a while, for which nobody else has to wait.
		entries = l.peer.retireSome(l, entries, l.loss, func(po *Posting) bool { return po != l.loss.culprit })
		l.loss.recut = len(entries) > 0 && l.peer.covered(&l.loss.example)
	}
	l.peer.blame(entries, l.loss)
	l.peer.retired(l, entries, l.loss)
}

// fence waits until the peer has closed its end, and returns the slices that are
// still the lane's then. Those of postings that have to end wait for fenceTime; the
// others have nothing to do with that, and cannot be sent again before, so they
// wait for as long as a stalled connection may last.
func (l *lane) fence(entries []entry) []entry {
	if l.loss.fenced && !l.sock.forlorn.Load() {
		return entries
	}
	l.loss.fenced = false
	stalled := time.Now().Add(l.peer.cfg.StallTimeout)
	for wait := fenceTime; len(entries) > 0; wait = fenceTime / 5 {
		if l.loss.fenced = l.sock.fenceByClose(wait); l.loss.fenced {
			break
		}
		if l.sock.forlorn.Load() || time.Now().After(stalled) {
			break
		}
		l.peer.blame(entries, l.loss)
		entries = l.peer.retireSome(l, entries, l.loss, func(po *Posting) bool { return po.cause != nil })
	}
	return entries
}
