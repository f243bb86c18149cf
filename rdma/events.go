package rdma

// #include "shim.h"
import "C"

import (
	"syscall"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"
)

// EventKind sorts what a device tells of its own accord.
type EventKind int

const (
	EventOther EventKind = iota
	EventPortActive
	EventPortDown
	EventGIDChange
	EventAddressChange // LID, partition key or subnet manager of a port
	EventDeviceFatal
	EventQPBroken
	EventCQBroken
)

// AsyncEvent is one such.
type AsyncEvent struct {
	Kind EventKind
	Text string // verbs'
	Port int    // of an event of a port, else 0
	QP   uint32 // the number, of an event of a QP, else 0
}

var eventKinds = map[uint32]EventKind{
	C.IBV_EVENT_PORT_ACTIVE:   EventPortActive,
	C.IBV_EVENT_PORT_ERR:      EventPortDown,
	C.IBV_EVENT_GID_CHANGE:    EventGIDChange,
	C.IBV_EVENT_LID_CHANGE:    EventAddressChange,
	C.IBV_EVENT_PKEY_CHANGE:   EventAddressChange,
	C.IBV_EVENT_SM_CHANGE:     EventAddressChange,
	C.IBV_EVENT_DEVICE_FATAL:  EventDeviceFatal,
	C.IBV_EVENT_QP_FATAL:      EventQPBroken,
	C.IBV_EVENT_QP_REQ_ERR:    EventQPBroken,
	C.IBV_EVENT_QP_ACCESS_ERR: EventQPBroken,
	C.IBV_EVENT_CQ_ERR:        EventCQBroken,
}

// NextEvent waits for the next event of the device and acknowledges it. Several may
// wait: an event goes to one of them. It fails with ErrStopped once stop is closed
// (nil: it never is), with ErrClosed once the context is closed, and with ErrDevice.
func (c *Context) NextEvent(stop <-chan struct{}) (AsyncEvent, error) {
	if err := c.use(); err != nil {
		return AsyncEvent{}, err
	}
	defer c.leave()
	stopped, err := watch(stop)
	if err != nil {
		return AsyncEvent{}, err
	}
	defer stopped.end()
	for {
		if err := c.awaitEvent(stopped.signal); err != nil {
			return AsyncEvent{}, err
		}
		var event C.struct_mcv_event
		switch errno := syscall.Errno(C.mcv_next_event(c.ptr, &event)); errno {
		case 0:
			return AsyncEvent{
				Kind: eventKinds[uint32(event._type)],
				Text: C.GoString(C.mcv_event_text(event._type)),
				Port: int(event.port),
				QP:   uint32(event.qp),
			}, nil
		case syscall.EAGAIN: // another one took it
		default:
			return AsyncEvent{}, fail("read an event of "+c.name, ErrDevice, errno, "")
		}
	}
}

// awaitEvent blocks until the device seems to have an event.
func (c *Context) awaitEvent(stopped *signal) error {
	fds := []unix.PollFd{
		{Fd: int32(c.closing.fd), Events: unix.POLLIN},
		{Fd: int32(stopped.fd), Events: unix.POLLIN},
		{Fd: int32(c.ptr.async_fd), Events: unix.POLLIN},
	}
	for {
		_, err := unix.Poll(fds, -1)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return errors.Wrap(err, "wait for an event of "+c.name)
		}
		break
	}
	switch {
	case fds[0].Revents != 0:
		return errors.WithMessage(ErrClosed, "wait for an event of "+c.name)
	case fds[1].Revents != 0:
		return errors.WithMessage(ErrStopped, "wait for an event of "+c.name)
	case fds[2].Revents&unix.POLLIN == 0:
		return errors.WithMessagef(ErrDevice, "wait for an event of %s: the device is gone", c.name)
	}
	return nil
}

// watcher makes a signal of a channel.
type watcher struct {
	*signal
	over, gone chan struct{}
}

func watch(stop <-chan struct{}) (*watcher, error) {
	s, err := newSignal()
	if err != nil {
		return nil, err
	}
	w := &watcher{s, make(chan struct{}), make(chan struct{})}
	go func() {
		defer close(w.gone)
		select {
		case <-stop:
			s.set()
		case <-w.over:
		}
	}()
	return w, nil
}

// end returns when nothing uses the signal any more, and closes it.
func (w *watcher) end() {
	close(w.over)
	<-w.gone
	w.signal.close()
}
