package tcp

// scatter is a payload on its way into memory: the pieces that it fills, in
// order. Bytes come to it out of a buffer or straight from the socket.
type scatter struct {
	addr, left []uint64 // of each piece: the next byte's address, bytes to come
	mover      []Mover
	at         int    // the piece that the next byte belongs to
	bytes      uint64 // to come, of all pieces
	vec        []iovec
}

const (
	// scatterPieces bounds the pieces named to one system call: the kernel copies
	// their list each time, also when only a little has come.
	scatterPieces = 256
	// directMin is the smallest rest of a payload that is received straight into
	// memory; a shorter one costs less as a copy out of the buffer.
	directMin = 8 << 10
	// maxDirect bounds one system call on memory, and so the time that a
	// deregistration can wait for it.
	maxDirect = 1 << 20
)

// reset forgets all pieces.
func (s *scatter) reset() {
	clear(s.mover) // let go of regions
	s.addr, s.left, s.mover = s.addr[:0], s.left[:0], s.mover[:0]
	s.at, s.bytes = 0, 0
}

// add appends a piece of n bytes, not 0.
func (s *scatter) add(m Mover, addr, n uint64) {
	s.addr = append(s.addr, addr)
	s.left = append(s.left, n)
	s.mover = append(s.mover, m)
	s.bytes += n
}

// direct tells whether the next bytes are to be received straight into memory.
func (s *scatter) direct() bool { return s.bytes >= directMin && s.mover[s.at].Direct() }

// store copies buffered bytes into the pieces and returns how many it took: all of
// p, or all that are to come.
func (s *scatter) store(p []byte) (int, error) {
	p = p[:min(s.bytes, uint64(len(p)))]
	taken := len(p)
	for len(p) > 0 {
		i, n := s.at, uint64(0)
		for i < len(s.addr) && n+s.left[i] <= uint64(len(p)) && s.mover[i] == s.mover[s.at] {
			n += s.left[i]
			i++
		}
		if i == s.at {
			n = min(s.left[i], uint64(len(p)))
			if err := store(s.mover[i], s.addr[i], p[:n]); err != nil {
				return 0, err
			}
		} else if err := storeMany(s.mover[s.at], s.addr[s.at:i], s.left[s.at:i], p[:n]); err != nil {
			return 0, err
		}
		s.received(n)
		p = p[n:]
	}
	return taken, nil
}

// layOut describes memory for the next bytes, and behind it tail for what follows
// the payload, if all of it has room. Only where direct says so. It returns how
// many pieces it names, the iovecs, and how many bytes of memory they are.
func (s *scatter) layOut(tail []byte) (pieces int, vec []iovec, n uint64) {
	s.vec = s.vec[:0]
	i := s.at
	for i < len(s.addr) && n < maxDirect && len(s.vec) < scatterPieces && s.mover[i].Direct() {
		k := min(s.left[i], maxDirect-n)
		s.vec = append(s.vec, iovec{s.addr[i], k})
		n += k
		i++
	}
	if n == s.bytes {
		s.vec = append(s.vec, bytesVec(tail))
	}
	return i - s.at, s.vec, n
}

// received notes that n bytes have come, not more than are to come.
func (s *scatter) received(n uint64) {
	s.bytes -= n
	for n > 0 {
		k := min(n, s.left[s.at])
		s.addr[s.at] += k
		s.left[s.at] -= k
		n -= k
		if s.left[s.at] == 0 {
			s.at++
		}
	}
}
