package local

import (
	"context"
	"log/slog"
	"os"
	"sync/atomic"

	"github.com/pkg/errors"
)

// Guest is the way to a server of this very process: a plain copy from memory to
// memory, by the initiator, with both sides registered meanwhile.
type Guest struct {
	server *Server
	copy   Copier
	from   Instance
	name   string
	words  [maxLanes]word
	fences atomic.Uint64
}

// Copier copies ranges of this process's memory, length[i] bytes from src[i] to
// dst[i]. It returns an error, and does not crash, when memory is not accessible.
type Copier func(dst, src, length []uint64) error

// Attach makes the way for an initiator in the server's process; nil: there is no
// room, or the server is closed. A Peer takes it over.
func (s *Server) Attach(from Instance, name string, copy Copier) *Guest {
	g := &Guest{server: s, copy: copy, from: from, name: name}
	for i := range g.words {
		g.words[i] = heapWord()
	}
	if !s.enter(g, nil) {
		return nil
	}
	return g
}

// carry moves slices within the process and says how many bytes.
func (g *Guest) carry(l *lane, po *Posting, slices []Slice) (bytes uint64, err error) {
	l.word.enter()
	defer l.word.leave()
	if g.server.closing.Load() {
		return 0, errClosing
	}
	if g.fences.Load() != po.fence {
		return 0, ErrFenced
	}
	var region Region
	var start, end uint64
	n := 0 // ranges collected, all in region
	flush := func() error {
		done, err := g.flush(l, po.write, region, n)
		bytes += done
		n = 0
		return err
	}
	for i := range slices {
		s := &slices[i]
		for off := uint64(0); off < s.Len; {
			at := s.Remote + off
			if region == nil || at < start || at >= end || n == l.most {
				if err := flush(); err != nil {
					return bytes, err
				}
				region = g.server.cfg.Memory.Find(at)
				if region == nil || (po.write && !region.Writable()) || region.Epoch() > po.epoch.Load() {
					return bytes, rejected(s, "not registered since before the batch")
				}
				start, end = region.Bounds()
			}
			part := min(s.Len-off, end-at)
			l.remote[n], l.local[n] = iovec{at, part}, iovec{s.Local + off, part}
			n++
			off += part
		}
	}
	return bytes, flush()
}

// flush copies n collected ranges, all in one region.
func (g *Guest) flush(l *lane, write bool, region Region, n int) (bytes uint64, err error) {
	if n == 0 {
		return 0, nil
	}
	if !region.Pin() {
		s := Slice{Remote: l.remote[0].base, Len: l.remote[0].length}
		return 0, rejected(&s, "deregistered")
	}
	defer region.Unpin()
	lists := &l.lists
	for i := range n {
		lists[0][i], lists[1][i], lists[2][i] = l.remote[i].base, l.local[i].base, l.local[i].length
		bytes += l.local[i].length
	}
	dst, src := lists[0][:n], lists[1][:n]
	if !write {
		dst, src = src, dst
	}
	if err := g.copy(dst, src, lists[2][:n]); err != nil {
		for i := range n {
			l.slices[i] = Slice{Local: l.local[i].base, Remote: l.remote[i].base, Len: l.local[i].length}
		}
		return 0, errors.WithMessage(faultOf(os.Getpid(), write, l.slices[:n]), err.Error())
	}
	l.word.count(write, bytes)
	return bytes, nil
}

// close gives the way back. No lane uses it any more.
func (g *Guest) close() { g.server.leave(g, nil) }

func (g *Guest) fenced() uint64 {
	if g == nil {
		return 0
	}
	return g.fences.Load()
}

func (g *Guest) who() (Instance, string) { return g.from, g.name }
func (g *Guest) cut()                    { g.fences.Add(1) }
func (g *Guest) hangUp()                 {}

func (g *Guest) await(ctx context.Context) error {
	return awaitOutside(ctx, g.words[:], thisProcess{}, slog.New(slog.DiscardHandler))
}

// thisProcess owns the words of guests.
type thisProcess struct{}

func (thisProcess) dead() bool { return false }
func (thisProcess) left() bool { return false }
func (thisProcess) pid() int   { return os.Getpid() }

func (g *Guest) moved() (written, read uint64) {
	for _, w := range g.words {
		written += w.written.Load()
		read += w.read.Load()
	}
	return written, read
}
