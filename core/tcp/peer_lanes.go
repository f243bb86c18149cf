package tcp

import (
	"slices"

	"golang.org/x/sys/unix"
)

// backlog estimates the bytes waiting for a lane, as far as enough. p.mu is held.
func (p *Peer) backlog(enough uint64) uint64 {
	var n uint64
	for _, po := range p.ring {
		n += po.src.Left()
		for i := 0; i < len(po.redo) && n < enough; i++ {
			n += po.redo[i].Len
		}
		if n >= enough {
			break
		}
	}
	return n
}

// HungUp tells whether a connection has been closed by the peer, also when the
// lane's reader has not come to see it yet. What begins now would be sent on it.
func (p *Peer) HungUp() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hups = p.hups[:0]
	for _, l := range p.lanes {
		p.hups = append(p.hups, unix.PollFd{Fd: int32(l.sock.fd), Events: unix.POLLRDHUP})
	}
	n, err := unix.Poll(p.hups, 0)
	return err == nil && n > 0
}

// pickLane returns the lane with the least outstanding, or nil. p.mu is held.
func (p *Peer) pickLane() *lane {
	var best *lane
	for _, l := range p.lanes {
		if best == nil || l.outstanding() < best.outstanding() {
			best = l
		}
	}
	return best
}

// idleLanes returns the lanes that should help: with a long backlog, and with
// slices to be sent again, for which others may be too old. p.mu is held.
func (p *Peer) idleLanes(but *lane) []*lane {
	after, again := p.firstRedo()
	long := len(p.lanes) > 1 && p.backlog(laneBacklog) >= laneBacklog
	var out []*lane
	for _, l := range p.lanes {
		if l != but && l.outstanding() == 0 && (long || again && l.born >= after) {
			out = append(out, l)
		}
	}
	return out
}

// firstRedo returns how young a lane must be at least to take any of the slices
// that are to be sent again; again: there are some. p.mu is held.
func (p *Peer) firstRedo() (after uint64, again bool) {
	for _, po := range p.ring {
		if len(po.redo) > 0 && (!again || po.redoAfter < after) {
			after, again = po.redoAfter, true
		}
	}
	return after, again
}

// openLanes dials when there is work and no lane, or more work than the lanes
// there are should carry. p.mu is held.
func (p *Peer) openLanes() {
	if p.closed || len(p.ring) == 0 {
		return
	}
	if p.cfg.Version == 1 {
		for n := p.v1Wanted(); p.v1 < n; p.v1++ {
			p.wg.Add(1)
			go p.runV1()
		}
		return
	}
	have := len(p.lanes) + p.dialing
	if have == 0 || (p.dialing == 0 && (slices.ContainsFunc(p.ring, p.stuck) || have < p.cfg.Lanes && p.backlog(laneBacklog) >= laneBacklog)) {
		p.dialing++
		p.wg.Add(1)
		go p.openLane(p.breaks)
	}
}

// rouse gets lanes to work on what waits.
func (p *Peer) rouse() {
	p.mu.Lock()
	p.openLanes()
	first := p.pickLane()
	others := p.idleLanes(first)
	p.mu.Unlock()
	for _, l := range others {
		l.wakeUp()
	}
	if first != nil {
		first.wakeUp()
	}
}

// stuck tells whether slices of a posting wait to be sent again that no lane may
// take: a peer that goes away breaks all its connections, so they must not go to
// one that was open when theirs broke. p.mu is held.
func (p *Peer) stuck(po *Posting) bool {
	if len(po.redo) == 0 {
		return false
	}
	for _, l := range p.lanes {
		if l.born >= po.redoAfter {
			return false
		}
	}
	return true
}

// openLane connects one lane and sets it to work. born is how many connections
// had broken before.
func (p *Peer) openLane(born uint64) {
	defer p.wg.Done()
	defer recovered(p.cfg.Log, "a dial", p.dialPanicked)
	link, err := p.cfg.Dial(p.ctx)
	var l *lane
	if err == nil {
		if l, err = newLane(p, link); err != nil {
			link.Conn.Close()
		}
	}
	p.mu.Lock()
	p.dialing--
	if err == nil && p.closed {
		l.sock.close()
		err = ErrClosed
	}
	if err != nil {
		ended := p.dialFailed(err)
		p.mu.Unlock()
		for _, e := range ended {
			e.report()
		}
		return
	}
	l.born = born
	p.lanes = append(p.lanes, l)
	l.start()
	p.mu.Unlock()
	l.kick(kickRounds)
	p.mu.Lock()
	p.openLanes() // what this one could not take at once may be worth another
	p.mu.Unlock()
}

// dialPanicked is dialFailed for a bug of ours.
func (p *Peer) dialPanicked(err error) {
	p.mu.Lock()
	p.dialing--
	ended := p.dialFailed(err)
	p.mu.Unlock()
	for _, e := range ended {
		e.report()
	}
}

// dialFailed fails what waits, unless other lanes can carry it. p.mu is held.
func (p *Peer) dialFailed(err error) []*finishedPosting {
	alone := len(p.lanes) == 0 && p.dialing == 0
	if !alone {
		p.cfg.Log.Info("one lane less", "peer", p.cfg.Name, "err", err)
	}
	var out []*finishedPosting
	for _, po := range slices.Clone(p.ring) {
		if alone || p.stuck(po) {
			po.fail(err, true)
			out = append(out, po.settle())
		}
	}
	return out
}
