package tcp

// layOut describes the next bytes to send of the body, behind the n iovecs that are
// there already.
func (s *sender) layOut(n int) error {
	staged := 0
	for len(s.body) > 0 && n+2 <= len(s.vec) {
		e := &s.body[0]
		if e.Len > gatherMax && e.Mover.Direct() {
			if !s.many {
				s.vec[n] = bytesVec(s.head())
				n++
			}
			s.vec[n] = iovec{e.Local, e.Len}
			n++
			s.drop(1)
			continue
		}
		from := staged
		if !s.many && s.off == 0 {
			if stagingSize-staged <= HeaderSize {
				break
			}
			staged += copy(s.room(staged), s.head())
		}
		k, err := s.stage(staged)
		if err != nil {
			return err
		}
		if staged += k; staged == from {
			break // the staging buffer is full
		}
		v := bytesVec(s.staging[from:staged])
		if n > 0 && from > 0 && s.vec[n-1].base+s.vec[n-1].len == v.base {
			s.vec[n-1].len += v.len
		} else {
			s.vec[n] = v
			n++
		}
	}
	s.left = s.vec[:n]
	return nil
}

// head is the header of body[0], where each slice has its own.
func (s *sender) head() []byte { return s.heads[s.next*HeaderSize : (s.next+1)*HeaderSize] }

// room is the staging buffer from at on.
func (s *sender) room(at int) []byte {
	if s.staging == nil {
		s.staging = make([]byte, stagingSize)
	}
	return s.staging[at:]
}

// stage copies the next bytes of the body to the staging buffer from at on, and
// returns how many: of one slice, or of a row of short ones.
func (s *sender) stage(at int) (int, error) {
	p := s.room(at)
	e := &s.body[0]
	if !s.many || e.Len > gatherMax {
		p = p[:min(uint64(len(p)), e.Len-s.off)]
		if err := load(e.Mover, p, e.Local+s.off); err != nil {
			return 0, err
		}
		if s.off += uint64(len(p)); s.off == e.Len {
			s.drop(1)
		}
		return len(p), nil
	}
	var i int
	var sum uint64
	for ; i < len(s.body); i++ {
		x := &s.body[i]
		if x.Len > gatherMax || x.Mover != e.Mover || sum+x.Len > uint64(len(p)) {
			break
		}
		s.addr[i], s.size[i] = x.Local, x.Len
		sum += x.Len
	}
	if i > 0 {
		if err := loadMany(e.Mover, p[:sum], s.addr[:i], s.size[:i]); err != nil {
			return 0, err
		}
		s.drop(i)
	}
	return int(sum), nil
}

// drop takes slices that are laid out off the body.
func (s *sender) drop(n int) {
	s.body = s.body[n:]
	s.next += n
	s.off = 0
}
