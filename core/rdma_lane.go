//go:build cgo

package core

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/pkg/errors"

	"mooncake/core/endpoint"
	"mooncake/rdma"
)

// rdmaLane is a path's connection to its peer: queue pairs that are connected, and the
// lane that posts to them.
type rdmaLane struct {
	*rdma.Lane
	endpoint *endpoint.Endpoint
	queues   *rdmaQueues
	device   string // the peer's
	fenced   uint64 // as endpoint.Fenced, which takes a lock
	ours     bool   // the peer is of this kind: the endpoint serves this path only
	progress uint64 // when the watchdog last looked
	since    time.Time
	breaking time.Time   // when it was found broken, not flushed
	stalled  atomic.Bool // given up, because nothing moved
	flushed  bool        // it broke, and nothing is in flight; guarded by path.mu
}

// dial connects to a device of the peer. It blocks for one message, or two with upstream.
func (p *rdmaPath) dial(ctx context.Context) (*rdmaLane, error) {
	t := p.transport
	if why := t.port.down.Load(); why != nil {
		return nil, errors.WithMessage(ErrDevice, *why)
	}
	d := p.process.known.Load().descriptor
	server := d.Name
	if d.RDMAServerName != "" {
		server = d.RDMAServerName
	}
	ours := d.Extension != nil && d.Extension.RDMA > 0
	var last error
	for _, device := range peerDevices(d.Devices, t.port.name) {
		target := endpoint.Target{Session: p.process.name, NICPath: server + "@" + device}
		if ours {
			target.Instance = d.Extension.Instance
		}
		lane, err := p.connectTo(ctx, target, device)
		if err == nil {
			return lane, nil
		}
		if last = err; errors.Is(err, ErrRestarted) || ctx.Err() != nil {
			break
		}
	}
	if last == nil {
		last = errors.WithMessagef(ErrUnsupported, "%s has no RDMA device", p.process.name)
	}
	return nil, last
}

// connectTries is how often a connection is made that breaks before it is used.
const connectTries = 3

// connectTo connects to one device.
func (p *rdmaPath) connectTo(ctx context.Context, target endpoint.Target, device string) (*rdmaLane, error) {
	t := p.transport
	for try := 1; ; try++ {
		e, err := t.store.Connect(ctx, target)
		if err != nil {
			return nil, p.connectCause(err)
		}
		queues := e.Queues().(*rdmaQueues)
		l := &rdmaLane{endpoint: e, queues: queues, device: device, ours: e.Ours(), fenced: e.Fenced(), since: time.Now()}
		err = queues.attach(ctx, func(lane *rdma.Lane) {
			l.Lane = lane
			t.watch(l, p)
		})
		if err == nil {
			t.engine.counts.opened.Add(1)
			if l.fenced > p.fences() && p.process.refresh(ctx) != nil {
				p.process.suspect.Store(true) // whoever begins now asks first
			}
			return l, nil
		}
		if !errors.Is(err, errBrokeEarly) || try == connectTries {
			return nil, errors.WithMessage(err, p.process.name)
		}
		t.retire(e) // it may have broken without anybody left to do that
	}
}

// connectCause puts an error of the handshake in this package's terms.
func (p *rdmaPath) connectCause(err error) error {
	switch {
	case errors.Is(err, endpoint.ErrRestarted):
		p.process.gone.Store(true)
		return errors.WithMessage(ErrRestarted, p.process.name)
	case errors.Is(err, endpoint.ErrClosed):
		return errors.WithMessage(ErrClosed, "engine")
	case errors.Is(err, endpoint.ErrFull):
		return errors.WithMessage(ErrFull, err.Error())
	case errors.Is(err, ErrDevice), errors.Is(err, ErrFull), errors.Is(err, ErrInvalid):
		return err
	}
	return errors.WithMessagef(ErrPeer, "%s: %v", p.process.name, err)
}

// retireLimit bounds the question whether the peer has given its end of a connection up.
const retireLimit = time.Second

// retire gives an endpoint up; confirmed: the peer has, too.
func (t *rdmaTransport) retire(e *endpoint.Endpoint) (confirmed bool) {
	ctx, cancel := context.WithTimeout(context.Background(), min(retireLimit, t.engine.cfg.ConnectTimeout))
	defer cancel()
	return e.Retire(ctx)
}

// retired tells whether the connection is given up: the lane is going to break.
func (l *rdmaLane) retired() bool {
	select {
	case <-l.endpoint.Done():
		return true
	default:
		return false
	}
}

// detach ends the use of the queue pairs by a lane. It fails while something is in flight.
func (l *rdmaLane) detach() error { return l.queues.detach() }
