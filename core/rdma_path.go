//go:build cgo

package core

import (
	"context"
	"sync"

	"github.com/pkg/errors"

	"mooncake/rdma"
)

// rdmaPath is the way to one peer process: one lane, made when there is something to send,
// and the postings that wait for it, served in turn.
type rdmaPath struct {
	transport  *rdmaTransport
	process    *process
	mu         sync.Mutex // guards what follows, and the fields of every posting
	lane       *rdmaLane  // nil: none
	connecting bool
	live       map[*rdmaPosting]struct{} // those that have not ended
	lines      [lineKinds]line           // of them, those that may have slices to give
	pumping    bool                      // a goroutine feeds the lane
	failed     []*rdmaPosting            // that may have ended without a ticket
	waiting    []chan error              // calls that want a connection, of capacity 1
	broke      *breakage                 // while a lane that broke is repaired
	closed     bool
	busy       int       // goroutines that connect or repair
	idle       sync.Cond // nothing is live, nobody is busy, or the lane is gone

	// Scratch of a feeding.
	slices [feedPieces]slice
	pieces []rdma.Piece
	areas  rdmaAreas
	keys   *remoteKeys
	keyed  string // the device that keys are of
	hint   int
}

func (p *rdmaPath) post(op Op, w *work) posting {
	po := &rdmaPosting{path: p, work: w, op: op, fences: p.fences()}
	p.transport.engine.counts.batchesRDMA.Add(1)
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.closed {
		p.live[po] = struct{}{}
	}
	return po
}

// fences is how many of the peer's fences are known.
func (p *rdmaPath) fences() uint64 {
	if ext := p.process.known.Load().descriptor.Extension; ext != nil {
		return ext.RDMAFences
	}
	return 0
}

// broken tells whether there is no connection that is known to stand: the peer may have
// fenced this engine off, or be another process.
func (p *rdmaPath) broken() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.lane == nil || p.lane.retired()
}

// settle ends postings that must end and have nothing in flight. p.mu is held.
func (p *rdmaPath) settle() (done []*rdmaEnd) {
	for _, po := range p.failed {
		if e := p.ended(po); e != nil {
			done = append(done, e)
		}
	}
	p.failed = p.failed[:0]
	return done
}

// ended ends a posting whose ticket is over, or which never had one. p.mu is held.
func (p *rdmaPath) ended(po *rdmaPosting) *rdmaEnd {
	if po.over || po.ticket != nil || po.cause == nil {
		return nil
	}
	return p.conclude(po)
}

// conclude takes a posting off the books. p.mu is held.
func (p *rdmaPath) conclude(po *rdmaPosting) *rdmaEnd {
	po.over = true
	p.dequeue(po)
	delete(p.live, po)
	if len(p.live) == 0 {
		p.idle.Broadcast()
	}
	return &rdmaEnd{po, ending{err: po.cause, quiet: po.cause == nil || !po.loud}, po.moved}
}

// remoteKeys gives the peer's keys as they are known now. p.mu is held.
func (p *rdmaPath) remoteKeys(device string) *remoteKeys {
	known := p.process.known.Load()
	if p.keys == nil || p.keys.of != known || p.keyed != device {
		if p.keys = newRemoteKeys(known, device); p.keys == nil {
			p.keys = &remoteKeys{of: known}
		}
		p.keyed, p.hint = device, -1
	}
	return p.keys
}

// ready makes a connection before there is something to send.
func (p *rdmaPath) ready(ctx context.Context) error {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return errors.WithMessage(ErrClosed, "engine or segment")
	}
	if p.lane != nil && !p.lane.retired() {
		p.mu.Unlock()
		return nil
	}
	told := make(chan error, 1)
	p.waiting = append(p.waiting, told)
	p.connectIfNeeded()
	p.mu.Unlock()
	select {
	case err := <-told:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// tell answers the calls that wait for a connection. p.mu is held.
func (p *rdmaPath) tell(err error) {
	for _, told := range p.waiting {
		told <- err
	}
	p.waiting = nil
}

// connectIfNeeded makes a connection when there is something to send, or when somebody
// wants one. p.mu is held.
func (p *rdmaPath) connectIfNeeded() {
	if p.lane != nil || p.connecting || p.closed || !p.waits() && len(p.waiting) == 0 {
		return
	}
	p.connecting = true
	p.run(p.connect)
}

// run runs what close waits for. p.mu is held.
func (p *rdmaPath) run(do func()) {
	p.busy++
	go func() {
		defer func() {
			p.mu.Lock()
			p.busy--
			p.idle.Broadcast()
			p.mu.Unlock()
		}()
		do()
	}()
}

// use takes a lane into use. It may have broken before anybody knew it. p.mu is held.
func (p *rdmaPath) use(lane *rdmaLane) {
	p.lane = lane
	if lane.flushed {
		p.run(func() { p.repair(lane) })
	}
}

// flushed hears that nothing is in flight any more on a lane that broke.
func (p *rdmaPath) flushed(lane *rdmaLane) {
	p.mu.Lock()
	defer p.mu.Unlock()
	lane.flushed = true
	if p.lane == lane {
		p.run(func() { p.repair(lane) })
	}
}

// connect makes the lane, or fails those who wait for it.
func (p *rdmaPath) connect() {
	ctx, cancel := context.WithTimeout(p.transport.engine.ctx, p.transport.engine.cfg.ConnectTimeout)
	defer cancel()
	lane, err := p.dial(ctx)
	if err != nil && errors.Is(err, ErrPeer) {
		// Another process may be there by now.
		if e := p.process.refresh(ctx); errors.Is(e, ErrRestarted) {
			err = e
		}
	}
	p.connected(lane, err)
}

// connected takes a connection into use, or fails those who wait for it.
func (p *rdmaPath) connected(lane *rdmaLane, err error) {
	p.mu.Lock()
	p.connecting = false
	if err != nil {
		p.process.suspect.Store(true)
		for po := range p.live {
			po.fail(err, true)
		}
	} else {
		p.use(lane)
	}
	p.tell(err)
	done := p.settle()
	p.mu.Unlock()
	report(done)
	if err == nil {
		p.serve(nil)
	}
}

// close ends the path, when no batch is left on it.
func (p *rdmaPath) close() {
	p.mu.Lock()
	p.closed = true
	p.tell(errors.WithMessage(ErrClosed, "engine or segment"))
	for po := range p.live {
		po.fail(errors.WithMessage(ErrClosed, "engine or segment"), true)
	}
	done := p.settle()
	p.mu.Unlock()
	report(done)
	p.mu.Lock()
	for len(p.live) > 0 || p.connecting {
		p.idle.Wait()
	}
	lane := p.lane
	over := lane != nil && (lane.ours || lane.Failure().Cause != 0) // others may use an endpoint to upstream
	if lane != nil && lane.detach() == nil {
		p.lane = nil
		p.mu.Unlock()
		p.transport.forget(lane)
		if over && p.transport.engine.ctx.Err() == nil { // an engine that closes retires all at once
			p.transport.retire(lane.endpoint)
		}
		return
	}
	if lane != nil { // something is still in flight: repair lets go of it
		lane.queues.Break()
	}
	for p.lane != nil || p.busy > 0 {
		p.idle.Wait()
	}
	p.mu.Unlock()
}
