package core

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/pkg/errors"

	"mooncake/core/metadata"
)

// description is this engine's encoded descriptor, made when somebody asks and
// kept until the registered memory changes.
type description struct {
	mu      sync.Mutex
	memory  *memories // as peers are told; nil: nothing yet
	text    []byte
	version int // counts drops, so that a text made meanwhile is not kept
}

func (d *description) drop() {
	d.mu.Lock()
	d.text = nil
	d.version++
	d.mu.Unlock()
}

// change has peers told of another state of the memory.
func (d *description) change(s *memories) {
	d.mu.Lock()
	d.memory = s
	d.mu.Unlock()
	d.drop()
}

// describe returns the descriptor that peers are told.
func (e *Engine) describe() []byte {
	d := &e.described
	d.mu.Lock()
	text, version, memory := d.text, d.version, d.memory
	d.mu.Unlock()
	if text != nil {
		return text
	}
	if memory == nil {
		memory = &memories{}
	}
	text, err := e.descriptor(memory).Encode()
	if err != nil {
		e.log.Error("describe this engine", "err", err)
		return nil
	}
	d.mu.Lock()
	if d.version == version {
		d.text = text
	}
	d.mu.Unlock()
	return text
}

// descriptor describes the engine with a state of its memory.
func (e *Engine) descriptor(s *memories) *metadata.Descriptor {
	d := &metadata.Descriptor{
		Name:      e.name,
		Buffers:   make([]metadata.Buffer, len(s.list)),
		Timestamp: metadata.TimestampOf(time.Now()),
		Extension: &metadata.Extension{Instance: e.instanceText(), Version: 1},
	}
	for i, m := range s.list {
		d.Buffers[i] = metadata.Buffer{Name: e.name, Addr: m.start, Length: m.end - m.start}
	}
	// The best transport last: its name is the descriptor's.
	for i := len(e.transports) - 1; i >= 0; i-- {
		e.transports[i].describe(d, s)
	}
	return d
}

// bufferBytes is what one range takes in a descriptor, at most: its JSON with two numbers
// of 20 digits, two keys, and the name.
const bufferBytes = 128

// fitsMessage refuses a state of the memory that peers could not be told of.
func (e *Engine) fitsMessage(s *memories) error {
	if uint64(len(s.list))*uint64(bufferBytes+len(e.name))+4096 < e.cfg.MaxMessage {
		return nil
	}
	text, err := e.descriptor(s).Encode()
	if err != nil {
		return errors.WithMessage(ErrInvalid, err.Error())
	}
	if uint64(len(text))+1 > e.cfg.MaxMessage {
		return errors.WithMessagef(ErrFull,
			"describing %d ranges takes %d bytes, and peers accept %d: register fewer, larger ranges, or raise MC_HANDSHAKE_MAX_LENGTH on every node",
			len(s.list), len(text), e.cfg.MaxMessage)
	}
	return nil
}

// notReadyPause is how long to wait for a peer whose transport is still starting.
const notReadyPause = 20 * time.Millisecond

// fetch asks a peer for its descriptor.
func (e *Engine) fetch(ctx context.Context, name string) (*metadata.Descriptor, error) {
	ctx, cancel := context.WithTimeout(ctx, e.cfg.ConnectTimeout)
	defer cancel()
	for {
		d, err := e.client.Fetch(ctx, name)
		if err == nil {
			return d, nil
		}
		if e.ctx.Err() != nil {
			return nil, errors.WithMessage(ErrClosed, "engine")
		}
		if !errors.Is(err, metadata.ErrNoDescriptor) {
			return nil, controlError(err)
		}
		select {
		case <-ctx.Done():
			return nil, controlError(err)
		case <-time.After(notReadyPause):
		}
	}
}

// controlError puts an error of the control plane in this package's terms.
func controlError(err error) error {
	kind := ErrPeer
	switch {
	case errors.Is(err, metadata.ErrResolve):
		kind = ErrNotFound
	case errors.Is(err, metadata.ErrArgument):
		kind = ErrInvalid
	}
	return errors.WithMessage(kind, reason(err))
}

// reason is the text of a control plane's error without the kind that ErrInvalid
// says again.
func reason(err error) string {
	return strings.TrimPrefix(err.Error(), metadata.ErrArgument.Error()+": ")
}
