package endpoint

import (
	"context"
	"encoding/hex"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/pkg/errors"

	"mooncake/core/metadata"
)

// Hardware makes the queue pairs of one device port. Safe for concurrent use; each
// method may take its time.
type Hardware interface {
	// NewQueues makes n reliable connected queue pairs in their first state.
	NewQueues(n int) (Queues, error)
}

// PassiveHardware is Hardware that makes queue pairs for a peer alone: nothing is
// ever posted to them here, so they need hardly any send queue.
type PassiveHardware interface {
	NewPassiveQueues(n int) (Queues, error)
}

// Readdresser is Hardware whose port may have other addresses.
type Readdresser interface {
	// Readdress is called when q could not be connected to r for ErrNoRoute, which is
	// why. It finds an address from which r can be reached and makes it the port's: for
	// queue pairs that are made from now on. The error says why there is none.
	Readdress(q Queues, r Remote, why error) error
}

// Queues are the queue pairs of one side of a connection. Their methods are called
// by one goroutine at a time, but for Numbers and Address.
type Queues interface {
	Numbers() []uint32
	// Address is the port's when they were made: the peer is told it.
	Address() Address
	// Connect brings them to the state in which both directions work. ErrNoRoute: the
	// peer cannot be reached from Address.
	Connect(Remote) error
	// Break brings them to the error state, at once.
	Break()
	// Close destroys them. When it returns, nothing of the peer's can land through
	// them any more. It blocks until own requests are flushed.
	Close()
}

// Remote is the other side of a connection: queue pair i is connected to Numbers[i].
type Remote struct {
	Address
	Numbers []uint32
	Ours    bool // the peer is of this implementation
}

// Address is where a device port is reached.
type Address struct {
	GID GID
	LID uint16
	MTU int // bytes of a packet, at most; 0: unknown, as with upstream
}

// Config says which port a Store connects, and to whom. A zero field stands for the
// default in its comment.
type Config struct {
	Server string // the part before the @ of this engine's device paths
	NIC    string // the device
	// Session is what peers call this engine: "<host>:<port>" of its handshake port.
	// They can fence it off by this name. Default: Server.
	Session  string
	Instance string // as in this engine's descriptor; "" connects as upstream does, always

	QueuePairs   int // of a connection to upstream, MC_NUM_QP_PER_EP; 2
	OursPairs    int // of a connection to a peer of this implementation; 2
	MaxEndpoints int // sets of queue pairs at a time, both directions, MC_MAX_EP_PER_CTX; 65536

	Timeout    time.Duration // of a handshake as initiator; 20 s
	AckTimeout time.Duration // for the peer's ready ack; 10 s

	Hardware Hardware
	// Ask sends a connection message to a peer and returns its reply; see
	// metadata.Client.Connect. It must end with ctx.
	Ask func(ctx context.Context, session string, m *metadata.ConnectionMessage) (*metadata.ConnectionMessage, error)
	// Describe looks a peer's device up in its descriptor: old peers do not say in
	// their messages where they are. Nil: such peers are refused.
	Describe func(ctx context.Context, session, nic string) (Address, error)

	// Fences counts the fences of this engine; stores that share it have one count
	// between them. Nil: the store has a count of its own.
	Fences *atomic.Uint64
	// Fenced is called when a fence has been counted, before it has taken effect. It
	// must not block, nor call the store. May be nil.
	Fenced func()
	Log    *slog.Logger // default: discarded

	morePeers int // how many peers without a connection are remembered; 4096
}

// Target is a peer's device.
type Target struct {
	Session  string // where the peer's handshake port is, "<host>:<port>"
	NICPath  string // "<server>@<device>", as the peer's descriptor has it
	Instance string // of the peer's descriptor; "" for upstream
}

// Identity is what is known about a peer that is to be fenced off.
type Identity struct {
	Instance string   // "" if unknown
	Names    []string // its sessions, or servers in its device paths
}

func (c *Config) setDefaults() {
	setDefault(&c.Session, c.Server)
	setDefault(&c.QueuePairs, 2)
	setDefault(&c.OursPairs, 2)
	setDefault(&c.MaxEndpoints, 65536)
	setDefault(&c.morePeers, 4096)
	setDefault(&c.Timeout, 20*time.Second)
	setDefault(&c.AckTimeout, 10*time.Second)
	if c.Fences == nil {
		c.Fences = new(atomic.Uint64)
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

func (c *Config) check() error {
	switch {
	case c.Server == "" || c.NIC == "":
		return errors.WithMessagef(ErrArgument, "server %q, device %q: neither may be empty", c.Server, c.NIC)
	case len(NICPath(c.Server, c.NIC)) > metadata.MaxNICPath:
		return errors.WithMessagef(ErrArgument, "server and device are longer than %d bytes", metadata.MaxNICPath)
	case c.Hardware == nil || c.Ask == nil:
		return errors.WithMessage(ErrArgument, "no hardware, or nothing to ask peers with")
	case c.Instance != "" && !validInstance(c.Instance):
		return errors.WithMessagef(ErrArgument, "instance %q is not 32 lower-case hex digits", c.Instance)
	case c.MaxEndpoints < 0 || c.Timeout < 0 || c.AckTimeout < 0:
		return errors.WithMessage(ErrArgument, "limits must not be negative")
	}
	for _, n := range []int{c.QueuePairs, c.OursPairs} {
		if n < 1 || n > metadata.MaxQPNum {
			return errors.WithMessagef(ErrArgument, "%d queue pairs; MC_NUM_QP_PER_EP must be within 1 to %d", n, metadata.MaxQPNum)
		}
	}
	return nil
}

func validInstance(text string) bool {
	raw, err := hex.DecodeString(text)
	return err == nil && len(raw) == 16 && hex.EncodeToString(raw) == text
}
