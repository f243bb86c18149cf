package main

import (
	"encoding/binary"
	"fmt"
	"io"
	"sync"
)

// A connection carries frames: one byte for the kind, four for the length, and the payload.
const (
	frameStart  = 'c' // a command, in JSON: the first frame
	frameInput  = 'i' // for its standard input; an empty one ends that
	frameSignal = 's' // a signal for it, its number in one byte
	frameOutput = 'o' // from its standard output
	frameErrors = 'e' // from its standard error
	frameEnd    = 'x' // its exit status, in one byte: the last frame
)

const maxFrame = 1 << 20

// command is what a frameStart carries. Without arguments nothing is run, and the status is 0.
type command struct {
	Arguments   []string
	Environment []string
	Folder      string
	Stop        bool // the server ends
}

// frameWriter writes frames of one kind. Safe for concurrent use with others that share its lock.
type frameWriter struct {
	to   io.Writer
	lock *sync.Mutex
	kind byte
}

func (w frameWriter) Write(p []byte) (int, error) {
	for done := 0; done < len(p); {
		n := min(len(p)-done, maxFrame)
		if err := w.frame(p[done : done+n]); err != nil {
			return done, err
		}
		done += n
	}
	return len(p), nil
}

func (w frameWriter) frame(payload []byte) error {
	frame := make([]byte, 5, 5+len(payload))
	frame[0] = w.kind
	binary.BigEndian.PutUint32(frame[1:], uint32(len(payload)))
	w.lock.Lock()
	defer w.lock.Unlock()
	_, err := w.to.Write(append(frame, payload...))
	return err
}

func readFrame(r io.Reader) (kind byte, payload []byte, err error) {
	var head [5]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	length := binary.BigEndian.Uint32(head[1:])
	if length > maxFrame {
		return 0, nil, fmt.Errorf("a frame of %d bytes: at most %d are allowed", length, maxFrame)
	}
	payload = make([]byte, length)
	_, err = io.ReadFull(r, payload)
	return head[0], payload, err
}
