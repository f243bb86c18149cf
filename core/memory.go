package core

import (
	"slices"
	"sort"
	"sync"
	"sync/atomic"

	"github.com/pkg/errors"
)

// Range is a stretch of this process's memory.
type Range struct {
	Addr   uint64
	Length uint64 // bytes
}

// Memory is a registered range: usable by batches of its engine, and open to
// peers. It implements what transports ask of a region.
type Memory struct {
	mover
	table    *memoryTable
	start    uint64
	end      uint64
	epoch    uint64 // number of the registration
	location string
	writable bool
	keys     []regionKey // of the RDMA device, if there is one; ascending

	// pins counts users; closing adds deregistered to it. Whoever brings it to
	// exactly that value afterwards has seen the last user go.
	pins    atomic.Int64
	drained chan struct{}
	once    sync.Once
}

const deregistered = 1 << 62

// Bounds returns the first address and the one past the last.
func (m *Memory) Bounds() (start, end uint64) { return m.start, m.end }

// Writable tells whether peers and reads may write.
func (m *Memory) Writable() bool { return m.writable }

// Epoch returns the number of the registration; later ones have higher numbers.
func (m *Memory) Epoch() uint64 { return m.epoch }

// Pin keeps the memory registered until Unpin; false if it no longer is.
func (m *Memory) Pin() bool {
	if m.pins.Add(1) < deregistered {
		return true
	}
	m.Unpin()
	return false
}

// Unpin gives one Pin back.
func (m *Memory) Unpin() {
	if m.pins.Add(-1) == deregistered {
		m.once.Do(func() { close(m.drained) })
	}
}

// Deregister ends the registration and returns when nothing uses the memory any
// more. It waits for batches of this engine that use it, for single system calls
// made for peers, and for those of peers on this host. Twice is ErrClosed.
func (m *Memory) Deregister() error {
	if !m.table.remove([]*Memory{m}) {
		return errors.WithMessage(ErrClosed, "memory")
	}
	m.table.settle()
	<-m.drained
	m.table.dismiss([]*Memory{m})
	return nil
}

// DeregisterAll ends several registrations, published once; those that were ended
// before are passed over and make it return ErrClosed in the end.
func DeregisterAll(ms []*Memory) error {
	byTable := map[*memoryTable][]*Memory{}
	for _, m := range ms {
		byTable[m.table] = append(byTable[m.table], m)
	}
	all := true
	for t, list := range byTable {
		all = t.remove(list) && all
		t.settle()
	}
	for _, m := range ms {
		<-m.drained
	}
	for t, list := range byTable {
		t.dismiss(list)
	}
	if !all {
		return errors.WithMessage(ErrClosed, "memory")
	}
	return nil
}

// memories is one state of the table: sorted, disjoint. Never changed.
type memories struct {
	list  []*Memory
	spans spans // spans[i] is the range of list[i]
}

// memoryTable holds an engine's registered memory. Readers take the current state
// without a lock; changes make a new one.
type memoryTable struct {
	state  atomic.Pointer[memories]
	mu     sync.Mutex // serialises changes; guards closed
	closed bool
	// limit says whether one more state can be published; it guards against
	// descriptions that peers could not fetch.
	limit func(*memories) error
	// changed is told every new state, in order; settle returns when nobody outside
	// this process uses memory that is not in the last of them.
	changed func(*memories)
	settle  func()
	// enroll makes memory known to devices before it is published, all or none; dismiss
	// takes it back when nothing uses it any more, and passes over what is not enrolled.
	enroll  func([]*Memory) error
	dismiss func([]*Memory)
	epoch   uint64 // of the last registration; guarded by mu
}

func newMemoryTable(limit func(*memories) error, changed func(*memories), settle func()) *memoryTable {
	t := &memoryTable{limit: limit, changed: changed, settle: settle,
		enroll: func([]*Memory) error { return nil }, dismiss: func([]*Memory) {}}
	t.state.Store(&memories{})
	return t
}

// close ends all registrations, and lets no more be made.
func (t *memoryTable) close() {
	t.mu.Lock()
	t.closed = true
	t.mu.Unlock()
	for _, m := range t.state.Load().list {
		m.Deregister()
	}
}

func (t *memoryTable) isClosed() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.closed
}

// find returns the memory that holds addr, or nil.
func (t *memoryTable) find(addr uint64) *Memory {
	s := t.state.Load()
	i := s.spans.seek(addr, -1)
	if i < 0 {
		return nil
	}
	return s.list[i]
}

// add registers ranges, all or none. The error names the index at fault.
func (t *memoryTable) add(ranges []Range, location string) ([]*Memory, error) {
	if t.isClosed() {
		return nil, errors.WithMessage(ErrClosed, "engine")
	}
	if len(ranges) == 0 {
		return nil, nil
	}
	fresh := make([]*Memory, len(ranges))
	maps := &hostMaps{}
	for i, r := range ranges {
		if err := r.valid(i); err != nil {
			return nil, err
		}
		writable, err := maps.check(i, r)
		if err != nil {
			return nil, err
		}
		fresh[i] = &Memory{mover: hostMover{}, table: t, start: r.Addr, end: r.Addr + r.Length,
			location: location, writable: writable, drained: make(chan struct{})}
	}
	// A look ahead: devices may take long to register what would be refused.
	if _, err := t.state.Load().with(fresh); err != nil {
		return nil, err
	}
	if err := t.enroll(fresh); err != nil {
		return nil, err
	}
	if err := t.admit(fresh); err != nil {
		t.dismiss(fresh)
		return nil, err
	}
	return fresh, nil
}

// admit publishes memory that devices know.
func (t *memoryTable) admit(fresh []*Memory) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return errors.WithMessage(ErrClosed, "engine")
	}
	next, err := t.state.Load().with(fresh)
	if err != nil {
		return err
	}
	if err := t.limit(next); err != nil {
		return err
	}
	t.epoch++
	for _, m := range fresh {
		m.epoch = t.epoch
	}
	t.state.Store(next)
	t.changed(next)
	return nil
}

// remove takes memories out and marks them deregistered; false if one of them
// was out already. The caller waits for drained.
func (t *memoryTable) remove(ms []*Memory) (all bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	gone := map[*Memory]bool{}
	all = true
	for _, m := range ms {
		if m.pins.Load() >= deregistered || gone[m] {
			all = false
			continue
		}
		gone[m] = true
	}
	next := t.state.Load().without(gone)
	t.state.Store(next)
	for m := range gone {
		// One pin of our own while closing, so that Unpin sees the last user go
		// even when there is none.
		m.pins.Add(deregistered + 1)
		m.Unpin()
	}
	if len(gone) > 0 {
		t.changed(next)
	}
	return all
}

// valid checks the numbers of a range.
func (r Range) valid(i int) error {
	switch {
	case r.Addr == 0:
		return errors.WithMessagef(ErrInvalid, "address of range %d is 0", i)
	case r.Length == 0:
		return errors.WithMessagef(ErrInvalid, "length of range %d at %#x is 0", i, r.Addr)
	case r.Addr+r.Length < r.Addr:
		return errors.WithMessagef(ErrInvalid, "range %d at %#x of %d bytes wraps around", i, r.Addr, r.Length)
	}
	return nil
}

// with returns a state that holds more memories, or ErrOverlap.
func (s *memories) with(more []*Memory) (*memories, error) {
	list := append(slices.Clone(s.list), more...)
	sort.SliceStable(list, func(i, j int) bool { return list[i].start < list[j].start })
	for i := 1; i < len(list); i++ {
		a, b := list[i-1], list[i]
		if b.start < a.end {
			// At least one of the two is new; of two new ones the later is at fault.
			at := max(slices.Index(more, a), slices.Index(more, b))
			other := a
			if more[at] == a {
				other = b
			}
			return nil, errors.WithMessagef(ErrOverlap, "range %d, [%#x, %#x), and [%#x, %#x)",
				at, more[at].start, more[at].end, other.start, other.end)
		}
	}
	return newMemories(list), nil
}

// without returns a state that lacks some memories.
func (s *memories) without(gone map[*Memory]bool) *memories {
	list := make([]*Memory, 0, len(s.list))
	for _, m := range s.list {
		if !gone[m] {
			list = append(list, m)
		}
	}
	return newMemories(list)
}

func newMemories(list []*Memory) *memories {
	s := &memories{list: list, spans: make(spans, len(list))}
	for i, m := range list {
		s.spans[i] = span{m.start, m.end}
	}
	return s
}
