package tcp

// sender is a lane's sending half; the lane's sender lock guards it.
type sender struct {
	headers [quantum * HeaderSize]byte
	entries [quantum]entry
	slices  [quantum]Slice
	vec     [2 * quantum]iovec
	left    []iovec // of vec: not sent yet
	suspect bool    // the entries broke a connection before; see Posting.suspect
	staging []byte  // for memory that system calls cannot read
	staged  []entry // writes from such memory that wait for the staging buffer
	at      uint64  // bytes of staged[0] sent
}

// pump sends until there is nothing to send, the window is full, rounds quanta
// were taken (errMore), or, without wait, the socket is full (errAgain). The sender
// lock is held.
func (s *sender) pump(l *lane, wait bool, rounds int) error {
	for {
		for len(s.left) > 0 {
			n, err := l.sock.writev(s.left, nil, wait)
			if err != nil {
				return err
			}
			s.left = advance(s.left, uint64(n))
		}
		if more, err := s.stage(); err != nil {
			return err
		} else if more {
			continue
		}
		select {
		case <-l.stop:
			return nil
		default:
		}
		if rounds == 0 {
			return errMore
		}
		rounds--
		if !s.refill(l) {
			return nil
		}
	}
}

// posting is whose slices are being sent.
func (s *sender) posting() *Posting { return s.entries[0].posting }

// refill takes the next slices from the peer's postings and lays out their
// requests; false: there are none, or the window is full.
func (s *sender) refill(l *lane) bool {
	room := l.ring.room()
	out := l.outstanding()
	alone := room == ringSize
	if room < quantum || out >= laneWindow || s.suspect && !alone {
		return false // the reader kicks when there is room again
	}
	p := l.peer
	p.mu.Lock()
	n, ended := p.take(l, l.fenced, l.born, alone, s.entries[:], s.slices[:], min(quantumBytes, laneWindow-out))
	if n > 0 && len(p.ring) > 0 {
		p.openLanes()
	}
	p.mu.Unlock()
	if ended != nil {
		ended.report()
		return true
	}
	if n == 0 {
		return false
	}
	s.suspect = s.entries[0].attempt > 0
	s.layOut(l, s.entries[:n])
	return true
}

// layOut makes entries the lane's: counted, in the ring, and as iovecs.
func (s *sender) layOut(l *lane, es []entry) {
	var bytes uint64
	vec := s.vec[:0]
	for i := range es {
		e := &es[i]
		bytes += e.Len
		h := s.headers[i*HeaderSize : (i+1)*HeaderSize]
		op := uint8(opRead | flagV2)
		if e.posting.write {
			op = opWrite | flagV2
		}
		header{e.Len, e.Remote, op}.put(h)
		switch {
		case !e.posting.write && len(vec) > 0 && i > 0 && !es[i-1].posting.write:
			vec[len(vec)-1].len += HeaderSize // headers lie in a row
		case e.posting.write && e.Mover.Direct():
			vec = append(vec, bytesVec(h), iovec{e.Local, e.Len})
		default:
			vec = append(vec, bytesVec(h))
		}
	}
	// One posting's slices are of one kind of batch, but its memory may be of
	// several kinds: from the first that must be staged on, all wait in line.
	for i := range es {
		if es[i].posting.write && !es[i].Mover.Direct() {
			s.staged = append(s.staged[:0], es[i:]...)
			s.at = 0
			vec = vec[:2*i]
			break
		}
	}
	l.sentB.Add(bytes)
	l.ring.push(es)
	s.left = vec
}

// stage lays out the next piece of the writes that must be copied out of their
// memory first; more: there is something to send.
func (s *sender) stage() (more bool, err error) {
	if len(s.staged) == 0 {
		return false, nil
	}
	if s.staging == nil {
		s.staging = make([]byte, stagingSize)
	}
	e := &s.staged[0]
	s.left = s.vec[:0]
	if s.at == 0 {
		header{e.Len, e.Remote, opWrite | flagV2}.put(s.headers[:])
		s.left = append(s.left, bytesVec(s.headers[:HeaderSize]))
	}
	n := min(e.Len-s.at, stagingSize)
	if err := load(e.Mover, s.staging[:n], e.Local+s.at); err != nil {
		return false, err
	}
	s.left = append(s.left, bytesVec(s.staging[:n]))
	if s.at += n; s.at == e.Len {
		s.staged, s.at = s.staged[1:], 0
	}
	return true, nil
}
