//go:build cgo

package core

import (
	"slices"

	"github.com/pkg/errors"

	"mooncake/rdma"
)

// line is postings that may have slices to give to the same queue pairs of a lane, served
// in turn. A line whose queue pairs are full holds up no other.
type line struct {
	waiting []*rdmaPosting
	turn    int
}

// The lines of a path, as package rdma chooses queue pairs.
const (
	smallLine = iota
	writeLine
	readLine
	lineKinds
)

// feedRounds bounds the feedings, of each line, between which others get at the path.
const feedRounds = 8

// kick queues a posting and feeds the lane.
func (p *rdmaPath) kick(po *rdmaPosting, seal bool) {
	p.mu.Lock()
	po.sealed = po.sealed || seal
	switch {
	case p.closed:
		po.fail(errors.WithMessage(ErrClosed, "engine or segment"), true)
	case po.cause == nil && !po.over:
		p.enqueue(po)
	}
	p.connectIfNeeded()
	p.mu.Unlock()
	p.serve(po)
	po.leaveIfFailed()
}

// serve feeds the lane a little, and leaves the rest to a goroutine: who calls has something
// else to do. But a thread that is going to wait for po has not, and goes on while that
// has something to give.
func (p *rdmaPath) serve(po *rdmaPosting) {
	for keen := true; keen; {
		p.mu.Lock()
		more := p.feed(feedRounds)
		keen = more && po != nil && po.awaited && po.line != nil
		if more && !keen && !p.pumping {
			p.pumping = true
			go p.pump()
		}
		done := p.settle()
		p.mu.Unlock()
		report(done)
	}
}

// pump feeds the lane until it is full or nothing is left. There is one at a time.
func (p *rdmaPath) pump() {
	for more := true; more; {
		p.mu.Lock()
		more = p.feed(feedRounds)
		p.pumping = more
		done := p.settle()
		p.mu.Unlock()
		report(done)
	}
}

func report(done []*rdmaEnd) {
	for _, e := range done {
		e.report()
	}
}

// feed serves each line so many times, as long as the lane has room for it; more: there is
// room for others. p.mu is held.
func (p *rdmaPath) feed(rounds int) (more bool) {
	if p.lane == nil {
		return false
	}
	var full [lineKinds]bool
	for more = true; more && rounds > 0; rounds-- {
		more = false
		for i := range p.lines {
			l := &p.lines[i]
			if !full[i] && len(l.waiting) > 0 {
				full[i] = !p.feedNext(l) // the lane tells when it has room
				more = more || !full[i] && len(l.waiting) > 0
			}
		}
	}
	return more
}

// feedNext serves the next posting of a line; room: the lane took all that it was given.
// p.mu is held.
func (p *rdmaPath) feedNext(l *line) (room bool) {
	l.turn %= len(l.waiting)
	po := l.waiting[l.turn]
	if po.fences < p.lane.fenced {
		po.fail(errors.WithMessage(ErrFenced, p.process.name), true)
		return true
	}
	more, room := po.feed(p.lane)
	switch {
	case !room:
	case !more:
		p.dequeue(po)
	case p.lineOf(po) != l: // it has grown
		p.dequeue(po)
		p.enqueue(po)
	default:
		l.turn++
	}
	return room
}

// lineOf is where a posting has to wait.
func (p *rdmaPath) lineOf(po *rdmaPosting) *line {
	switch {
	case po.class() == rdma.Small:
		return &p.lines[smallLine]
	case po.op == Read:
		return &p.lines[readLine]
	}
	return &p.lines[writeLine]
}

// waits tells whether a posting is in line. p.mu is held.
func (p *rdmaPath) waits() bool {
	return slices.ContainsFunc(p.lines[:], func(l line) bool { return len(l.waiting) > 0 })
}

// enqueue puts a posting in line. p.mu is held.
func (p *rdmaPath) enqueue(po *rdmaPosting) {
	if po.line == nil {
		po.line = p.lineOf(po)
		po.line.waiting = append(po.line.waiting, po)
	}
}

// dequeue takes a posting out of line. p.mu is held.
func (p *rdmaPath) dequeue(po *rdmaPosting) {
	if po.line == nil {
		return
	}
	if i := slices.Index(po.line.waiting, po); i >= 0 {
		po.line.waiting = slices.Delete(po.line.waiting, i, i+1)
	}
	po.line = nil
}
