package metadata

import (
	"runtime/debug"

	"github.com/pkg/errors"
)

// Handlers answer the requests that a server receives. Each is called from the
// goroutine of its connection, several at once. One that is nil has the answer
// said here. A panic ends the connection of its request, and is logged.
type Handlers struct {
	// Metadata returns the encoded descriptor, which must not change later; nil
	// while there is none.
	Metadata func() []byte
	// Notify takes a notification; an error rejects it. Nil rejects all.
	Notify func(Notification) error
	// Connection answers an RDMA connection request; it may take its time, but
	// Server.Close waits for it. Nil answers that this engine has no RDMA.
	Connection func(ConnectionRequest) ConnectionReply
	// Probe is told of a probe; an error closes the connection without a reply.
	// Nil answers all.
	Probe func() error
}

// noRDMA is the reply of an engine that has no RDMA. The empty paths in it make
// also those peers notice who do not read the text.
var noRDMA = ConnectionReply{ReplyMsg: "this engine has no rdma; open its segment over tcp"}

var (
	nullBody    = []byte("null\n")
	probeOKBody = []byte(`{"status":"success"}` + "\n")
)

// answer is the body of the reply. An error means that there is none: the
// request is malformed, or its handler panicked or refused.
func (h *Handlers) answer(t Type, body []byte) (reply []byte, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = &handlerPanic{value: p, stack: debug.Stack()}
		}
	}()
	switch t {
	case TypeConnection, TypeLegacy:
		return h.answerConnection(body)
	case TypeMetadata:
		if err := checkIgnored(body); err != nil {
			return nil, err
		}
		return h.answerMetadata(), nil
	case TypeNotify:
		return h.answerNotify(body)
	case TypeProbe:
		if err := checkIgnored(body); err != nil {
			return nil, err
		}
		if h.Probe != nil {
			return probeOKBody, h.Probe()
		}
		return probeOKBody, nil
	}
	return nil, errors.Errorf("no handler for type %d", t)
}

func (h *Handlers) answerConnection(body []byte) ([]byte, error) {
	request, err := decodeConnection(body)
	if err != nil {
		return nil, err
	}
	reply := noRDMA
	if h.Connection != nil {
		reply = h.Connection(*request)
	}
	return encodeConnection(&reply), nil
}

func (h *Handlers) answerMetadata() []byte {
	if h.Metadata != nil {
		if body := h.Metadata(); body != nil {
			return body
		}
	}
	return nullBody
}

func (h *Handlers) answerNotify(body []byte) ([]byte, error) {
	n, err := decodeNotification(body)
	if err != nil {
		return nil, err
	}
	var reply Notification
	if h.Notify != nil && h.Notify(n) == nil {
		reply.Message = notifyAccepted
	}
	return encodeNotification(reply)
}

// checkIgnored checks a body whose content nobody reads: an object, or null,
// which a JSON library may write for an object without members.
func checkIgnored(body []byte) error {
	value, err := jsonValue(body)
	if err != nil || isNull(value) {
		return err
	}
	return readMembers(value, func(string, []byte) error { return nil })
}

// handlerPanic is what a handler panicked with.
type handlerPanic struct {
	value any
	stack []byte
}

func (p *handlerPanic) Error() string { return errors.Errorf("panic: %v", p.value).Error() }
