package tcp

import "encoding/binary"

// model is what a server must do with a stream, read off the description of the wire
// rather than from the code: the memory, the answers, and where it ends.
type model struct {
	base    uint64
	mem     []byte
	regions []tile
	out     []byte
	greeted bool
	many    bool
	// abrupt: the connection ended without a last word, so that answers may be lost.
	abrupt  bool
	written uint64
}

// tile is a registered part of the memory, by offsets.
type tile struct {
	from, to int
	readOnly bool
	mover    Mover
}

// run interprets a whole stream that is followed by the end of it.
func (m *model) run(b []byte) {
	for len(b) >= HeaderSize {
		size, addr, op := binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint64(b[8:]), b[16]
		rest, ok := m.request(size, addr, op&0x7f, op&0x80 != 0, b[24:])
		if !ok {
			return
		}
		b = rest
	}
	m.abrupt = len(b) > 0
}

func (m *model) request(size, addr uint64, op uint8, v2 bool, b []byte) (rest []byte, ok bool) {
	switch {
	case op == 0x7e:
		return m.hello(size, addr, v2, b)
	case op == 0 || op == 1:
		if !m.may(addr, size, op == 1) {
			return nil, m.refuse(v2, nil)
		}
		return m.move([]span{{addr, size}}, op == 1, v2, b)
	case (op == 0x7c || op == 0x7d) && v2 && m.many:
		return m.ranges(size, addr, op == 0x7d, b)
	}
	return nil, m.refuse(v2, nil)
}

func (m *model) ranges(size, count uint64, write bool, b []byte) (rest []byte, ok bool) {
	if count == 0 || count > 1024 {
		return nil, m.refuse(true, make([]byte, 8))
	}
	if uint64(len(b)) < 16*count {
		m.abrupt = true
		return nil, false
	}
	var list []span
	var sum uint64
	for i := range count {
		s := span{binary.LittleEndian.Uint64(b[16*i:]), binary.LittleEndian.Uint64(b[16*i+8:])}
		if !m.may(s.addr, s.n, write) {
			return nil, m.refuse(true, binary.LittleEndian.AppendUint64(nil, i))
		}
		list, sum = append(list, s), sum+s.n
	}
	if sum != size {
		return nil, m.refuse(true, make([]byte, 8))
	}
	return m.move(list, write, true, b[16*count:])
}

// move does what an accepted request asks for.
func (m *model) move(list []span, write, v2 bool, b []byte) (rest []byte, ok bool) {
	if !write && v2 {
		m.out = append(m.out, "\x00\x00\x00\x00VTCM"...)
	}
	for _, s := range list {
		at := m.mem[s.addr-m.base:][:s.n]
		if !write {
			m.out = append(m.out, at...)
			continue
		}
		n := copy(at, b)
		b = b[n:]
		if n < len(at) {
			m.abrupt = true
			return nil, false
		}
	}
	if write {
		for _, s := range list {
			m.written += s.n
		}
		if v2 {
			m.out = append(m.out, "\x00\x00\x00\x00VTCM"...)
		}
	}
	return b, true
}

// may tells whether every byte of a range is registered, and may be used so.
func (m *model) may(addr, n uint64, write bool) bool {
	if n == 0 || addr < m.base || addr-m.base >= uint64(len(m.mem)) || n > uint64(len(m.mem))-(addr-m.base) {
		return false
	}
	for at := int(addr - m.base); at < int(addr-m.base+n); {
		next := -1
		for _, r := range m.regions {
			if at >= r.from && at < r.to && !(write && r.readOnly) {
				next = r.to
			}
		}
		if next < 0 {
			return false
		}
		at = next
	}
	return true
}

func (m *model) hello(size, version uint64, v2 bool, b []byte) (rest []byte, ok bool) {
	if size > 4096 || !v2 {
		return nil, m.refuse(v2, nil)
	}
	if uint64(len(b)) < size || size < 34 || size < 34+uint64(binary.LittleEndian.Uint16(b[32:])) {
		m.abrupt = true
		return nil, false
	}
	if Instance(b[:16]) != theirs {
		m.out = append(m.out, "\x03\x00\x00\x00VTCM"...)
		return nil, false
	}
	if m.greeted {
		return nil, m.refuse(true, nil)
	}
	m.greeted, m.many = true, version >= 2
	m.out = append(m.out, greetingBytes...)
	return b[size:], true
}

// refuse ends the stream: with a status, and what follows it, or without a word.
func (m *model) refuse(v2 bool, more []byte) bool {
	if v2 {
		m.out = append(append(m.out, "\x01\x00\x00\x00VTCM"...), more...)
	} else {
		m.abrupt = true
	}
	return false
}
