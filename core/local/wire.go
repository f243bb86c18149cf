package local

import (
	"encoding/binary"

	"github.com/pkg/errors"
)

// Instance identifies one start of one engine.
type Instance [16]byte

// Version of the handshake, and of what lies in shared memory. Others are refused:
// both processes are on one host, and tcp is there for those that differ.
const Version = 1

const (
	magic        = 0x4C4F4F4D // "MOOL"
	maxName      = 1024
	maxReason    = 256
	maxHandshake = 4096
)

// hello is what an initiator says first, together with the descriptor of its words.
type hello struct {
	target, from Instance
	name         string // its own segment name, by which it can be fenced
	rings        int    // that it would like to have
	direct       bool   // it means to copy by itself if it may
}

// welcome is the answer, together with the descriptors of the table, of the rings
// and of a bell for each ring.
type welcome struct {
	instance Instance
	refusal  string // why there is no connection; then nothing else counts
	place    int    // in the table's fences
	entries  int    // the table has room for
	rings    int
	// direct: the initiator may copy by itself. At nonceAt in the target's memory it
	// finds the nonce, which says that it reads the right process, and behind it the
	// secret, which it sends back to prove that it could.
	direct  bool
	nonceAt uint64
	nonce   [16]byte
}

// ready says how the initiator will move bytes. It waits for one more message
// before it does.
type ready struct {
	direct bool
	secret [16]byte
}

// writer and reader walk the fields of a message.
type writer struct{ b []byte }

func (w *writer) u32(v uint32) { w.b = binary.LittleEndian.AppendUint32(w.b, v) }
func (w *writer) u64(v uint64) { w.b = binary.LittleEndian.AppendUint64(w.b, v) }
func (w *writer) raw(p []byte) { w.b = append(w.b, p...) }
func (w *writer) flag(v bool) {
	if v {
		w.u32(1)
	} else {
		w.u32(0)
	}
}
func (w *writer) text(s string, most int) {
	s = s[:min(len(s), most)]
	w.u32(uint32(len(s)))
	w.raw([]byte(s))
}

type reader struct {
	b     []byte
	short bool
}

func (r *reader) take(n int) []byte {
	if r.short || n > len(r.b) {
		r.short = true
		return make([]byte, min(n, 16))
	}
	p := r.b[:n]
	r.b = r.b[n:]
	return p
}

func (r *reader) u32() uint32 { return binary.LittleEndian.Uint32(r.take(4)) }
func (r *reader) u64() uint64 { return binary.LittleEndian.Uint64(r.take(8)) }
func (r *reader) flag() bool  { return r.u32() != 0 }

func (r *reader) text(most int) string {
	n := r.u32()
	if n > uint32(most) {
		r.short = true
		return ""
	}
	p := r.take(int(n))
	if r.short {
		return ""
	}
	return string(p)
}

// small reads a number that must be at most most.
func (r *reader) small(most int) int {
	n := r.u32()
	if n > uint32(most) {
		r.short = true
		return 0
	}
	return int(n)
}

func (r *reader) start(what string) error {
	m, v := r.u32(), r.u32()
	switch {
	case r.short || m != magic:
		return errors.WithMessagef(ErrProtocol, "%s that is none", what)
	case v != Version:
		return errors.WithMessagef(ErrProtocol, "%s of version %d, not %d", what, v, Version)
	}
	return nil
}

func (r *reader) end(what string) error {
	if r.short {
		return errors.WithMessagef(ErrProtocol, "malformed %s", what)
	}
	return nil // later versions may append fields
}

func (h *hello) encode() []byte {
	var w writer
	w.u32(magic)
	w.u32(Version)
	w.raw(h.target[:])
	w.raw(h.from[:])
	w.u32(uint32(h.rings))
	w.flag(h.direct)
	w.text(h.name, maxName)
	return w.b
}

func decodeHello(b []byte) (*hello, error) {
	r := reader{b: b}
	if err := r.start("hello"); err != nil {
		return nil, err
	}
	h := &hello{}
	copy(h.target[:], r.take(16))
	copy(h.from[:], r.take(16))
	h.rings = r.small(1 << 16)
	h.direct = r.flag()
	h.name = r.text(maxName)
	return h, r.end("hello")
}

func (m *welcome) encode() []byte {
	var w writer
	w.u32(magic)
	w.u32(Version)
	w.raw(m.instance[:])
	w.text(m.refusal, maxReason)
	w.u32(uint32(m.place))
	w.u32(uint32(m.entries))
	w.u32(uint32(m.rings))
	w.flag(m.direct)
	w.u64(m.nonceAt)
	w.raw(m.nonce[:])
	return w.b
}

// maxEntries bounds the address space that a peer's table may take here: 4 GiB.
const maxEntries = 128 << 20

func decodeWelcome(b []byte) (*welcome, error) {
	r := reader{b: b}
	if err := r.start("welcome"); err != nil {
		return nil, err
	}
	m := &welcome{}
	copy(m.instance[:], r.take(16))
	m.refusal = r.text(maxReason)
	m.place = r.small(maxConns - 1)
	m.entries = r.small(maxEntries)
	m.rings = r.small(maxRings)
	m.direct = r.flag()
	m.nonceAt = r.u64()
	copy(m.nonce[:], r.take(16))
	return m, r.end("welcome")
}

// goAhead is the last message of the handshake.
var goAhead = []byte("go")

func (m ready) encode() []byte {
	var w writer
	w.u32(magic)
	w.u32(Version)
	w.flag(m.direct)
	w.raw(m.secret[:])
	return w.b
}

func decodeReady(b []byte) (ready, error) {
	r := reader{b: b}
	if err := r.start("last word of the handshake"); err != nil {
		return ready{}, err
	}
	m := ready{direct: r.flag()}
	copy(m.secret[:], r.take(16))
	return m, r.end("last word of the handshake")
}
