//go:build cgo

package core

import (
	"syscall"

	"github.com/pkg/errors"

	"mooncake/core/endpoint"
	"mooncake/rdma"
)

// connections is how many the device has room for, at most as many as are wanted: the
// smallest have the queue pairs that there are for one peer.
func (p *rdmaPort) connections() int {
	pairs := max(1, min(p.cfg.QueuePairs, p.cfg.OwnQueuePairs))
	if p.limits.MaxQP <= 0 { // it does not say
		return p.cfg.Endpoints
	}
	return min(p.cfg.Endpoints, max(1, p.limits.MaxQP/pairs))
}

// Use tells whether a lane is on the queue pairs, and has something in flight.
func (q *rdmaQueues) Use() endpoint.Use {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.lane == nil {
		return endpoint.Unused
	}
	if _, inFlight := q.lane.Progress(); inFlight > 0 {
		return endpoint.Busy
	}
	return endpoint.Idle
}

// Broken tells whether a queue pair is in the error state. The device moves those of a
// peer there when a request of the peer's is not allowed.
func (q *rdmaQueues) Broken() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.broken || q.closed {
		return true
	}
	for _, qp := range q.qps {
		if state, err := qp.State(); err == nil && state == rdma.QPError {
			return true
		}
	}
	return false
}

// notMade is the error of queue pairs that could not be made. It tells whether that is
// because there are too many.
func notMade(err error) error {
	cause := rdmaCause(err)
	if errors.Is(err, rdma.ErrFull) && (errors.Is(err, syscall.ENOMEM) || errors.Is(err, syscall.ENOSPC)) {
		return noRoom{cause}
	}
	return cause
}

// noRoom is an error that is also endpoint.ErrNoRoom.
type noRoom struct{ error }

func (e noRoom) Unwrap() []error { return []error{e.error, endpoint.ErrNoRoom} }
