package metadata

import (
	"context"
	"net"
	"time"

	"github.com/pkg/errors"
)

// defaultReplyTimeout is long because upstream's server handles one connection
// at a time, and a client that is silent holds it up for 5 s.
const defaultReplyTimeout = 20 * time.Second

// Client asks peers. The zero value works, with the defaults in the comments.
// Safe for concurrent use; it keeps no connection open.
//
// Every call names the peer "<host>:<port>", opens a connection of its own and
// closes it when the reply is complete. It blocks until then, at most for
// ConnectTimeout per address of the host plus ReplyTimeout, and no longer than
// ctx. Errors: ErrArgument (the name is malformed or has no port), ErrResolve,
// ErrConnect, ErrProtocol, and what the call says itself. If ctx ended the call,
// its error is found in the result as well.
type Client struct {
	ConnectTimeout time.Duration // for each address; 5 s
	ReplyTimeout   time.Duration // from the connection to the complete reply; 20 s
	MaxLength      uint64        // of a frame; DefaultMaxLength
	PreferIPv6     bool          // try IPv6 addresses before those of IPv4
}

// Fetch reads the peer's descriptor of this moment. It is ErrNoDescriptor if the
// peer has none yet.
func (c *Client) Fetch(ctx context.Context, name string) (*Descriptor, error) {
	// A sender's own descriptor is what the protocol names as the body, but no
	// release looks at it, and a large one would exceed the peer's limit.
	body, err := c.ask(ctx, name, TypeMetadata, []byte("{}"))
	if err != nil {
		return nil, err
	}
	d, err := DecodeDescriptor(body)
	if errors.Is(err, ErrNoDescriptor) {
		return nil, errors.WithMessage(err, excerptString(name))
	}
	if err != nil {
		return nil, failPeer(ErrProtocol, name, err)
	}
	return d, nil
}

// Notify leaves a notification with the peer, at most once. It is ErrRejected if
// the peer does not take it, for example because its list is full, and
// ErrArgument if n is not UTF-8 or too long for a frame.
func (c *Client) Notify(ctx context.Context, name string, n Notification) error {
	request, err := encodeNotification(n)
	if err != nil {
		return err
	}
	body, err := c.ask(ctx, name, TypeNotify, request)
	if err != nil {
		return err
	}
	// null is what upstream answers when nobody there takes notifications.
	if value, err := jsonValue(body); err == nil && isNull(value) {
		return failPeer(ErrRejected, name, errors.New("it takes no notifications"))
	}
	reply, err := decodeNotification(body)
	if err != nil {
		return failPeer(ErrProtocol, name, err)
	}
	if reply.Message == "" {
		return failPeer(ErrRejected, name, errors.New("it may hold too many that wait to be taken"))
	}
	return nil
}

// Connect sends a connection request and returns the peer's reply. If the peer
// rejects it, the error is ErrRejected with the peer's reason, and the reply comes
// with it. ErrArgument if the request cannot be sent as it is.
//
// A reply without rejection is not yet a connection: a peer without RDMA may send an
// empty one. The caller compares the paths in it.
func (c *Client) Connect(ctx context.Context, name string, request *ConnectionRequest) (*ConnectionReply, error) {
	if err := request.check(); err != nil {
		return nil, fail(ErrArgument, errors.WithMessage(err, "connection"))
	}
	body, err := c.ask(ctx, name, TypeConnection, encodeConnection(request))
	if err != nil {
		return nil, err
	}
	// null is what upstream answers when nobody there takes connections.
	if value, err := jsonValue(body); err == nil && isNull(value) {
		return nil, failPeer(ErrRejected, name, errors.New("it takes no rdma connections"))
	}
	reply, err := decodeConnection(body)
	if err != nil {
		return nil, failPeer(ErrProtocol, name, err)
	}
	if reply.ReplyMsg != "" {
		return reply, failPeer(ErrRejected, name, errors.New(excerptUpTo(reply.ReplyMsg, maxReason)))
	}
	return reply, nil
}

// Probe asks the peer for a sign of life. Upstream releases before 0.3.10.post2
// do not know probes and close the connection: ErrProtocol or ErrConnect.
func (c *Client) Probe(ctx context.Context, name string) error {
	body, err := c.ask(ctx, name, TypeProbe, []byte("{}"))
	if err != nil {
		return err
	}
	if _, err := jsonValue(body); err != nil {
		return failPeer(ErrProtocol, name, err)
	}
	return nil
}

// ask sends one request to the first address of the peer that accepts a
// connection and returns the body of the reply.
func (c *Client) ask(ctx context.Context, name string, t Type, body []byte) ([]byte, error) {
	if length := frameLength(t, body); length > c.maxLength() {
		return nil, failf(ErrArgument, "%s request of %d bytes is longer than %d; a larger limit is set by MC_HANDSHAKE_MAX_LENGTH, for the peer as well", t, length, c.maxLength())
	}
	host, port, err := SplitName(name, 0)
	if err != nil {
		return nil, err
	}
	if port == 0 {
		return nil, failf(ErrArgument, "name %s: no port; write host:port, with the peer's handshake port", excerptString(name))
	}
	conn, err := c.dial(ctx, host, port)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	reply, err := c.exchange(ctx, conn, t, body)
	if err != nil {
		return nil, errors.WithMessagef(err, "%s request to %s at %s", t, excerptString(name), conn.RemoteAddr())
	}
	return reply, nil
}

// exchange sends the request and reads the reply.
func (c *Client) exchange(ctx context.Context, conn net.Conn, t Type, body []byte) ([]byte, error) {
	conn.SetDeadline(time.Now().Add(c.replyTimeout()))
	// A deadline in the past ends reads and writes in progress at once.
	release := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer release()

	if _, err := conn.Write(AppendFrame(nil, t, body)); err != nil {
		return nil, c.broken(ctx, errors.Wrap(err, "send request"))
	}
	answered, reply, err := ReadFrame(conn, c.maxLength())
	if err != nil {
		return nil, c.broken(ctx, err)
	}
	if answered != t {
		return nil, failf(ErrProtocol, "the reply is of type %s", answered)
	}
	return reply, nil
}

// broken classifies the failure of an exchange.
func (c *Client) broken(ctx context.Context, err error) error {
	if end := ended(ctx); end != nil {
		return fail(ErrConnect, end)
	}
	var network net.Error
	switch {
	case isEOF(err):
		return failf(ErrProtocol, "it closed the connection before its reply was complete")
	case !errors.As(err, &network):
		return fail(ErrProtocol, err)
	case network.Timeout():
		return failf(ErrConnect, "no complete reply within %v", c.replyTimeout())
	}
	return fail(ErrConnect, err)
}

func failPeer(kind error, name string, cause error) error {
	return fail(kind, errors.WithMessage(cause, excerptString(name)))
}

func (c *Client) replyTimeout() time.Duration {
	if c.ReplyTimeout > 0 {
		return c.ReplyTimeout
	}
	return defaultReplyTimeout
}

func (c *Client) connectTimeout() time.Duration {
	if c.ConnectTimeout > 0 {
		return c.ConnectTimeout
	}
	return defaultTimeout
}

func (c *Client) maxLength() uint64 {
	if c.MaxLength > 0 {
		return c.MaxLength
	}
	return DefaultMaxLength
}
