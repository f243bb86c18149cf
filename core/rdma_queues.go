//go:build cgo

package core

import (
	"context"
	"sync"
	"syscall"

	"github.com/pkg/errors"

	"mooncake/core/endpoint"
	"mooncake/rdma"
)

// Attributes of a connection that both ends must agree on, and no message carries: they
// are upstream's.
const (
	rdmaHopLimit      = 16
	rdmaMinRNRTimer   = 12
	rdmaReads         = 16 // at once on a queue pair
	rdmaAckTimeout    = 14 // 4.096 us * 2^14: 67 ms until a packet is sent again; see docs/decisions.md
	rdmaRetries       = 7
	rdmaRetriesOfOurs = 6 // the highest number means for ever to soft-RoCE
	rdmaRNRRetries    = 7
)

// rdmaQueues are the queue pairs of one endpoint. A lane may be attached, which posts to
// them; it must be gone before they are destroyed.
type rdmaQueues struct {
	port    *rdmaPort
	qps     []*rdma.QP
	address *rdmaAddress // the port's when they were made

	mu       sync.Mutex // guards what follows
	lane     *rdma.Lane
	broken   bool
	free     sync.Cond // a lane was detached
	closed   bool
	promised int // to the lane, of the completion queue
}

// NewQueues makes n queue pairs; it is endpoint.Hardware's.
func (p *rdmaPort) NewQueues(n int) (endpoint.Queues, error) {
	return p.newQueues(n, rdma.QPConfig{SendDepth: p.depth(), MaxSGE: p.sges(), MaxInline: int(p.inline.Load())})
}

// NewPassiveQueues makes n queue pairs that only the peer sends to.
func (p *rdmaPort) NewPassiveQueues(n int) (endpoint.Queues, error) {
	return p.newQueues(n, rdma.QPConfig{SendDepth: 1, MaxSGE: 1})
}

func (p *rdmaPort) newQueues(n int, cfg rdma.QPConfig) (endpoint.Queues, error) {
	q := &rdmaQueues{port: p, address: p.address.Load()}
	q.free.L = &q.mu
	for range n {
		qp, err := p.pd.NewQP(p.cq, cfg)
		for errors.Is(err, syscall.EINVAL) && cfg.MaxInline > 0 {
			// Devices do not tell what they take inline.
			cfg.MaxInline /= 2
			if qp, err = p.pd.NewQP(p.cq, cfg); err == nil {
				p.inline.Store(int32(cfg.MaxInline))
			}
		}
		if err != nil {
			q.destroy()
			return nil, notMade(err)
		}
		q.qps = append(q.qps, qp)
	}
	return q, nil
}

func (p *rdmaPort) depth() int { return min(p.cfg.Depth, p.limits.MaxQPWR) }
func (p *rdmaPort) sges() int  { return min(p.cfg.MaxSGE, p.limits.MaxSGE) }

// Numbers are the queue pairs' numbers, in order.
func (q *rdmaQueues) Numbers() []uint32 {
	numbers := make([]uint32, len(q.qps))
	for i, qp := range q.qps {
		numbers[i] = qp.Number()
	}
	return numbers
}

// Address is where the peer is to send to.
func (q *rdmaQueues) Address() endpoint.Address { return q.address.endpoint() }

// Connect brings each queue pair to where it can send to the peer's of the same index.
func (q *rdmaQueues) Connect(r endpoint.Remote) error {
	if len(r.Numbers) != len(q.qps) {
		return errors.WithMessagef(ErrInvalid, "the peer has %d queue pairs for %d of ours", len(r.Numbers), len(q.qps))
	}
	for i, qp := range q.qps {
		if err := q.connect(qp, r, r.Numbers[i]); err != nil {
			return rdmaCause(err)
		}
	}
	return nil
}

func (q *rdmaQueues) connect(qp *rdma.QP, r endpoint.Remote, number uint32) error {
	p := q.port
	if err := p.toRTR(qp, q.address, r, number); err != nil {
		return err
	}
	retries := rdmaRetries
	if r.Ours {
		retries = rdmaRetriesOfOurs
	}
	return qp.ToRTS(rdma.RTSConfig{Timeout: rdmaAckTimeout, RetryCount: retries, RNRRetry: rdmaRNRRetries, MaxReads: p.reads()})
}

// toRTR brings a new queue pair of the port to where it answers the peer's. ErrNoRoute: the
// peer cannot be reached from the address.
func (p *rdmaPort) toRTR(qp *rdma.QP, from *rdmaAddress, r endpoint.Remote, number uint32) error {
	err := qp.ToInit(rdma.InitConfig{Port: p.cfg.PortNumber, PKeyIndex: p.cfg.PKeyIndex,
		Access: rdma.AccessLocalWrite | rdma.AccessRemoteWrite | rdma.AccessRemoteRead | p.atomics()})
	if err != nil {
		return err
	}
	err = qp.ToRTR(rdma.RTRConfig{
		PathMTU: pathMTU(from.mtu, r.MTU), RemoteQP: number, MaxReadsIn: max(1, min(rdmaReads, p.limits.MaxQPReadsIn)), MinRNRTimer: rdmaMinRNRTimer,
		Port: p.cfg.PortNumber, Global: true, GID: r.GID, GIDIndex: from.gid.Index, HopLimit: rdmaHopLimit,
		TrafficClass: p.cfg.TrafficClass, LID: r.LID, ServiceLevel: p.cfg.ServiceLevel,
	})
	if noRoute(err) {
		return &unrouted{err}
	}
	return err
}

// pathMTU is the smaller one of two ports. Upstream's is not known: it must be the same.
func pathMTU(own, peers int) int {
	if peers == 0 {
		return own
	}
	return min(own, peers)
}

// atomics is the access that upstream asks for, too, where the device has it.
func (p *rdmaPort) atomics() rdma.Access {
	if p.limits.Atomics {
		return rdma.AccessRemoteAtomic
	}
	return 0
}

// reads is how many reads a queue pair may have in flight.
func (p *rdmaPort) reads() int { return max(1, min(rdmaReads, p.limits.MaxQPReads)) }

// attach makes a lane on the queue pairs. Where the path before has not let go of them yet
// it waits for that, until ctx ends. made hears of the lane before it can break.
func (q *rdmaQueues) attach(ctx context.Context, made func(*rdma.Lane)) error {
	defer context.AfterFunc(ctx, func() {
		q.mu.Lock() // so that nobody is between the look at ctx and the wait
		defer q.mu.Unlock()
		q.free.Broadcast()
	})()
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.lane != nil && ctx.Err() == nil {
		q.free.Wait()
	}
	switch {
	case q.broken || q.closed:
		return errBrokeEarly
	case q.lane != nil:
		return errors.WithMessage(ErrDevice, "another path still uses the connection")
	}
	p, qps := q.port, q.posting()
	cfg := rdma.LaneConfig{Depth: p.share(len(qps)), Gather: p.sges(), Scatter: min(p.sges(), max(1, p.limits.MaxSGERead)),
		ReadDepth: p.reads(), GatherBytes: gatherBytes, Ring: laneRing, Inline: p.cfg.Inline, ReadBack: p.scratch}
	lane, err := p.port.NewLane(qps, cfg)
	if err != nil {
		p.giveBack(cfg.Depth * len(qps))
		return errors.WithMessagef(rdmaCause(err), "a lane over %s: close segments, or raise MC_MAX_CQE_PER_CTX", p.name)
	}
	q.lane, q.promised = lane, cfg.Depth*len(qps)
	made(lane)
	return nil
}

// posting are the queue pairs that a lane posts to. Upstream may have more than one takes; to
// the rest only the peer posts.
func (q *rdmaQueues) posting() []*rdma.QP { return q.qps[:min(len(q.qps), rdma.MostLaneQPs)] }

// share is the depth of a lane of so many queue pairs. All that is in flight must fit into
// the completion queue. The first lanes have the full depth; once they hold a quarter of
// it, each gets a small part of what is left, so that some hundred more find room.
func (p *rdmaPort) share(queues int) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	depth, room := p.depth(), p.cq.Depth()-p.promised
	if p.promised+depth*queues > p.cq.Depth()/4 {
		depth = min(depth, max(leastDepth, room/(64*queues)))
	}
	p.promised += depth * queues
	return depth
}

// giveBack makes room for other lanes.
func (p *rdmaPort) giveBack(promised int) {
	p.mu.Lock()
	p.promised -= promised
	p.mu.Unlock()
}

const (
	gatherBytes = 256 << 10 // of a work request of several pieces: progress and cancelling wait for it
	laneRing    = 2048      // pieces that wait on a queue pair
	leastDepth  = 8
)

// errBrokeEarly: there may be another connection by now.
var errBrokeEarly = errors.WithMessage(ErrPeer, "the connection broke while it was made")

// detach closes the lane, which fails while something is in flight.
func (q *rdmaQueues) detach() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if err := q.lane.Close(); err != nil {
		return err
	}
	q.port.giveBack(q.promised)
	q.lane = nil
	q.free.Broadcast()
	return nil
}

// abandon gives up a lane that does not flush: without its queue pairs nothing can come.
func (q *rdmaQueues) abandon(lane *rdma.Lane) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.lane != lane {
		return
	}
	q.closed = true
	for _, qp := range q.qps {
		qp.Close()
	}
	lane.Abandon()
}

// look tells how a lane does, false if it is gone.
func (q *rdmaQueues) look(lane *rdma.Lane) (retired uint64, inFlight int, broken, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.lane != lane {
		return 0, 0, false, false
	}
	retired, inFlight = lane.Progress()
	return retired, inFlight, lane.Failure().Cause != 0, true
}

// Break makes the queue pairs send and accept nothing more. It does not block for the
// flushes.
func (q *rdmaQueues) Break() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed || q.broken {
		return
	}
	q.broken = true
	rest := q.qps
	if q.lane != nil {
		q.lane.Break()
		rest = q.qps[len(q.posting()):]
	}
	for _, qp := range rest {
		qp.ToError()
	}
}

// Close destroys the queue pairs, after the lane on them has let go: then nothing of the
// peer's can land through them, and nothing of ours leaves.
func (q *rdmaQueues) Close() {
	q.Break()
	q.mu.Lock()
	for q.lane != nil {
		q.free.Wait()
	}
	q.mu.Unlock()
	q.destroy()
}

// destroy may be called twice.
func (q *rdmaQueues) destroy() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return
	}
	q.closed = true
	for _, qp := range q.qps {
		qp.Close()
	}
}
