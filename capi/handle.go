package main

import (
	"sync"

	"github.com/pkg/errors"

	"mooncake/core"
)

// Kinds of handles, in the top byte: readable in a log, and a batch given as an
// engine is refused.
const (
	engineKind  = 0xe1
	memoryKind  = 0x3e
	segmentKind = 0x5e
	batchKind   = 0xba
	pagesKind   = 0x9a
)

// errHandle: a handle that names nothing, or something of another kind.
var errHandle = errors.New("bad handle")

// table gives out integers for Go values. A handle is its kind and a number that
// is never used again.
type table[T any] struct {
	kind uint8
	noun string

	mu   sync.RWMutex // guards next and live
	next uint64
	live map[uint64]owned[T]
}

// owned is a value and the handle of the engine that owns it.
type owned[T any] struct {
	value T
	owner uint64
}

func newTable[T any](kind uint8, noun string) *table[T] {
	return &table[T]{kind: kind, noun: noun, live: map[uint64]owned[T]{}}
}

// put gives out a handle for v.
func (t *table[T]) put(v T, owner uint64) uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.next++
	h := uint64(t.kind)<<56 | t.next
	t.live[h] = owned[T]{v, owner}
	return h
}

// ownership orders giving out handles of an engine's children against its end:
// none is given out after takeOwned has collected them.
var ownership sync.RWMutex

// putOwned gives out a handle for v, unless the engine that is to own it was closed
// meanwhile.
func putOwned[T any](t *table[T], v T, engine uint64) (uint64, error) {
	ownership.RLock()
	defer ownership.RUnlock()
	if _, _, err := engines.get(engine); err != nil {
		return 0, err
	}
	return t.put(v, engine), nil
}

// takeEngine ends an engine's handle; its children get no new handles after it.
func takeEngine(h uint64) (*core.Engine, error) {
	ownership.Lock()
	defer ownership.Unlock()
	return engines.take(h)
}

// get looks a handle up.
func (t *table[T]) get(h uint64) (T, uint64, error) {
	t.mu.RLock()
	o, ok := t.live[h]
	t.mu.RUnlock()
	if !ok {
		return o.value, 0, t.missing(h)
	}
	return o.value, o.owner, nil
}

// take looks a handle up and ends it.
func (t *table[T]) take(h uint64) (T, error) {
	t.mu.Lock()
	o, ok := t.live[h]
	delete(t.live, h)
	t.mu.Unlock()
	if !ok {
		return o.value, t.missing(h)
	}
	return o.value, nil
}

// takeOwned ends all handles of an owner and returns what they named.
func (t *table[T]) takeOwned(owner uint64) []T {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []T
	for h, o := range t.live {
		if o.owner == owner {
			out = append(out, o.value)
			delete(t.live, h)
		}
	}
	return out
}

// missing words what is wrong with a handle.
func (t *table[T]) missing(h uint64) error {
	kinds := map[uint64]string{
		engineKind: "engine", memoryKind: "memory", segmentKind: "segment", batchKind: "batch", pagesKind: "page pool",
	}
	other, known := kinds[h>>56]
	switch {
	case h == 0:
		return errors.WithMessagef(errHandle, "%s handle is 0", t.noun)
	case h>>56 == uint64(t.kind):
		return errors.WithMessagef(errHandle, "%s handle %#x is closed, or was never given out", t.noun, h)
	case known:
		return errors.WithMessagef(errHandle, "%#x is a %s handle, where a %s handle is needed", h, other, t.noun)
	}
	return errors.WithMessagef(errHandle, "%#x is no %s handle", h, t.noun)
}
