package tcp

// sender is a lane's sending half; the lane's sender lock guards it. It takes a
// quantum of slices from the postings, and lays out what is to be sent of it piece
// by piece: heads, and of writes the payload, long slices from where they lie,
// short ones, and those from memory that system calls cannot read, copied into a
// row.
type sender struct {
	entries [quantum]entry
	slices  [quantum]Slice
	heads   [quantum * HeaderSize]byte
	suspect bool // the entries broke a connection before; see Posting.suspect

	vec  [maxIovecs]iovec
	left []iovec // of vec: not sent yet

	body       []entry // slices of the quantum that are not laid out yet
	off        uint64  // bytes of body[0] that are
	many       bool    // the quantum is one message
	next       int     // slice in the quantum that body[0] is
	staging    []byte
	addr, size [quantum]uint64 // the ranges of one copy
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
		if len(s.body) > 0 {
			if err := s.layOut(0); err != nil {
				return err
			}
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
		if more, err := s.refill(l); err != nil || !more {
			return err
		}
	}
}

// posting is whose slices are being sent.
func (s *sender) posting() *Posting { return s.entries[0].posting }

// refill takes the next slices from the peer's postings and lays them out; not
// more: there are none, or the window is full.
func (s *sender) refill(l *lane) (more bool, err error) {
	room := l.ring.room()
	out := l.outstanding()
	alone := room == ringSize
	if room < quantum || out >= laneWindow || s.suspect && !alone {
		return false, nil // the reader kicks when there is room again
	}
	p := l.peer
	p.mu.Lock()
	n, ended := p.take(taker{l, l.fenced, l.born, alone, l.many}, s.entries[:], s.slices[:], min(quantumBytes, laneWindow-out))
	if n > 0 && len(p.ring) > 0 {
		p.openLanes()
	}
	p.mu.Unlock()
	if ended != nil {
		ended.report()
		return true, nil
	}
	if n == 0 {
		return false, nil
	}
	s.suspect = s.entries[0].attempt > 0
	return true, s.begin(l, s.entries[:n])
}

// begin makes entries, all of one posting, the lane's: counted, in the ring, and
// the first piece of them laid out.
func (s *sender) begin(l *lane, es []entry) error {
	write := es[0].posting.write
	s.many = l.many
	var bytes uint64
	for i := range es {
		es[i].row = 1
		bytes += es[i].Len
	}
	heads := s.heads[:len(es)*HeaderSize]
	messages := uint64(len(es))
	if s.many {
		messages = 1
		es[0].row = int32(len(es))
		heads = s.headMany(es, write, bytes)
	} else {
		s.headsEach(es, write)
	}
	l.peer.cfg.Messages.Add(messages)
	l.sentB.Add(bytes)
	l.ring.push(es)
	if !es[0].posting.waits.Load() {
		l.fetch()
	}
	var n int
	if s.many || !write { // else each head goes before its slice
		s.vec[0] = bytesVec(heads)
		n = 1
	}
	if write {
		s.body, s.off, s.next = es, 0, 0
	}
	return s.layOut(n)
}

// headMany writes the head of one message for all entries.
func (s *sender) headMany(es []entry, write bool, bytes uint64) []byte {
	op := uint8(opReadMany | flagV2)
	if write {
		op = opWriteMany | flagV2
	}
	header{bytes, uint64(len(es)), op}.put(s.heads[:])
	for i := range es {
		putRange(s.heads[:], i, es[i].Remote, es[i].Len)
	}
	return s.heads[:HeaderSize+len(es)*rangeSize]
}

// headsEach writes a request's header for every entry.
func (s *sender) headsEach(es []entry, write bool) {
	op := uint8(opRead | flagV2)
	if write {
		op = opWrite | flagV2
	}
	for i := range es {
		header{es[i].Len, es[i].Remote, op}.put(s.heads[i*HeaderSize:])
	}
}
