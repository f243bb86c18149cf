package metadata

import (
	"strconv"

	"github.com/pkg/errors"
)

// Why a call failed. Compare with errors.Is; the text says more.
var (
	// ErrArgument: a value given by the caller is malformed.
	ErrArgument = errors.New("invalid argument")
	// ErrNoPort: no port to listen on is free.
	ErrNoPort = errors.New("no free port")
	// ErrResolve: the host name does not resolve.
	ErrResolve = errors.New("host name does not resolve")
	// ErrConnect: no connection (refused, unreachable, timed out), or it broke
	// or fell silent before the answer was complete.
	ErrConnect = errors.New("peer cannot be reached")
	// ErrProtocol: the peer closed the connection instead of answering, or its
	// answer is malformed.
	ErrProtocol = errors.New("peer broke the protocol")
	// ErrRejected: the peer refused the notification or the connection.
	ErrRejected = errors.New("peer rejected the request")
	// ErrNoDescriptor: the peer runs but publishes no descriptor yet.
	ErrNoDescriptor = errors.New("peer publishes no descriptor yet")
	// ErrMailboxFull: the mailbox holds as much as it may.
	ErrMailboxFull = errors.New("mailbox is full")
)

// kindError is an error of one of the kinds above with the cause that explains
// it. errors.Is finds both, so that a caller can also ask for context.Canceled.
type kindError struct {
	kind, cause error
}

func (e *kindError) Error() string   { return e.kind.Error() + ": " + e.cause.Error() }
func (e *kindError) Unwrap() []error { return []error{e.kind, e.cause} }

// fail says that cause is a failure of the given kind.
func fail(kind, cause error) error { return &kindError{kind: kind, cause: cause} }

// failf is fail with a cause made of text.
func failf(kind error, format string, args ...any) error {
	return fail(kind, errors.Errorf(format, args...))
}

// memberError says where in a JSON text something is wrong: "buffers[3].addr".
type memberError struct {
	path  string
	cause error
}

func (e *memberError) Error() string { return e.path + ": " + e.cause.Error() }
func (e *memberError) Unwrap() error { return e.cause }

// atMember says that err concerns the member key of an object, or something
// within it. It keeps nil.
func atMember(err error, key string) error {
	inner, ok := err.(*memberError)
	switch {
	case err == nil:
		return nil
	case !ok:
		return &memberError{path: key, cause: err}
	case inner.path[0] == '[':
		return &memberError{path: key + inner.path, cause: inner.cause}
	}
	return &memberError{path: key + "." + inner.path, cause: inner.cause}
}

// atIndex is atMember for an element of an array.
func atIndex(err error, index int) error {
	if err == nil {
		return nil
	}
	return atMember(err, "["+strconv.Itoa(index)+"]")
}
