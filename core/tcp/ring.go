package tcp

import "sync/atomic"

// ring holds the slices on a lane in the order they were sent. The sender pushes
// and the reader pops, each without a lock.
type ring struct {
	slots [ringSize]entry
	head  atomic.Uint64 // next to pop; moved by the reader
	tail  atomic.Uint64 // next to push; moved by the sender
}

func (r *ring) room() int { return ringSize - int(r.tail.Load()-r.head.Load()) }

// push appends entries; there must be room.
func (r *ring) push(es []entry) {
	t := r.tail.Load()
	for i := range es {
		r.slots[(t+uint64(i))%ringSize] = es[i]
	}
	r.tail.Store(t + uint64(len(es)))
}

// peek returns the entry skip places behind the oldest, or nil. It stays valid
// until it is popped.
func (r *ring) peek(skip uint64) *entry {
	h := r.head.Load() + skip
	if h >= r.tail.Load() {
		return nil
	}
	return &r.slots[h%ringSize]
}

// pop drops the n oldest and returns their bytes.
func (r *ring) pop(n uint64) (bytes uint64) {
	h := r.head.Load()
	for i := h; i < h+n; i++ {
		e := &r.slots[i%ringSize]
		bytes += e.Len
		e.posting, e.Mover = nil, nil
	}
	r.head.Store(h + n)
	return bytes
}

// drain pops all; neither sender nor reader may be at work.
func (r *ring) drain() []entry {
	var out []entry
	for e := r.peek(0); e != nil; e = r.peek(0) {
		out = append(out, *e)
		r.pop(1)
	}
	return out
}
