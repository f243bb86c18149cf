package core

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/pkg/errors"

	"mooncake/core/local"
)

// localPath is the way to one peer process on this host. When its connection breaks
// and the process is still there, it is made anew; when that fails, the network has to do.
type localPath struct {
	transport *localTransport
	process   *process
	inside    bool // the peer is in this process
	peer      atomic.Pointer[local.Peer]
	instead   atomic.Pointer[path] // the way over the network, once there is none in memory

	mending sync.Mutex // one mends; guards closed
	closed  bool
}

func (p *localPath) post(op Op, w *work) posting {
	if other := p.instead.Load(); other != nil {
		return (*other).post(op, w)
	}
	c := &p.transport.engine.counts
	if p.inside {
		c.batchesSelf.Add(1)
	} else {
		c.batchesLocal.Add(1)
	}
	return localPosting{p.peer.Load().Post(op == Write, &localSource{work: w, path: p})}
}

func (p *localPath) broken() bool {
	if other := p.instead.Load(); other != nil {
		return (*other).broken()
	}
	return p.peer.Load().Lost()
}

// mend makes the connection anew. The peer has been asked who it is before: the path
// was broken.
func (p *localPath) mend() error {
	if p.instead.Load() != nil || !p.peer.Load().Lost() {
		return nil
	}
	p.mending.Lock()
	defer p.mending.Unlock()
	e := p.transport.engine
	old := p.peer.Load()
	switch {
	case p.closed:
		return errors.WithMessage(ErrClosed, "engine or segment")
	case p.instead.Load() != nil || !old.Lost():
		return nil
	}
	fresh, err := p.transport.connect(p)
	if err != nil {
		return p.detour(err)
	}
	p.peer.Store(fresh)
	return e.inBackground(old.Close)
}

// ready is for the way over the network: in memory there is always a connection.
func (p *localPath) ready(ctx context.Context) error {
	if other := p.instead.Load(); other != nil {
		if c, ok := (*other).(connectablePath); ok {
			return c.ready(ctx)
		}
	}
	return nil
}

// detour gives the way in memory up.
func (p *localPath) detour(why error) error {
	e := p.transport.engine
	p.transport.refused(p.process, why)
	other, err := e.wayTo(p.process, e.remoteTransports())
	if err != nil {
		return err
	}
	p.instead.Store(&other)
	return nil
}

func (p *localPath) close() {
	p.mending.Lock()
	defer p.mending.Unlock()
	if p.closed {
		return
	}
	p.closed = true
	p.transport.engine.counts.peersLocal.Add(-1)
	p.peer.Load().Close()
	if other := p.instead.Load(); other != nil {
		(*other).close()
	}
}

// localPosting adapts a local.Posting.
type localPosting struct{ posting *local.Posting }

func (p localPosting) push()               { p.posting.Kick() }
func (p localPosting) seal()               { p.posting.Seal() }
func (p localPosting) quiesce(cause error) { p.posting.Stop(cause) }
func (p localPosting) renew()              { p.posting.Renew() }
func (p localPosting) waits()              { p.posting.Driven = true }
func (p localPosting) receive()            {} // what the thread could do it has done when it submitted

// localSource shows a batch's work to lanes.
type localSource struct {
	work  *work
	path  *localPath
	given atomic.Uint64 // bytes
}

func (s *localSource) Next(dst []local.Slice, budget uint64) (n int) {
	var scratch [64]slice
	var bytes uint64
	for n < len(dst) && bytes < budget {
		k := s.work.next(scratch[:min(len(dst)-n, len(scratch))], budget-bytes)
		if k == 0 {
			break
		}
		for _, x := range scratch[:k] {
			dst[n] = local.Slice{Local: x.local, Remote: x.remote, Len: x.length, Mover: s.work.regions[x.region]}
			bytes += x.length
			n++
		}
	}
	s.given.Add(bytes)
	return n
}

// Ahead: blocks are counted before they are planned.
func (s *localSource) Ahead() (slices, bytes uint64) {
	all, given := s.work.batch.bytes.Load(), s.given.Load()
	bytes = all - min(all, given)
	if runs, left := s.work.waiting(); left > 0 {
		slices = max(runs*bytes/left, bytes/maxSlice, 1)
	}
	return slices, bytes
}

func (s *localSource) Left() uint64 { return s.work.left.Load() }

func (s *localSource) Done(bytes uint64, packed bool) {
	c := &s.path.transport.engine.counts
	if s.path.inside {
		c.bytesSelf.Add(bytes)
	} else {
		c.bytesLocal.Add(bytes)
	}
	if packed {
		c.bytesPacked.Add(bytes)
	}
	s.work.batch.progressed(bytes)
}

func (s *localSource) Ended(end local.End) {
	e := ending{quiet: end.Quiet}
	if end.Err != nil {
		e.err = localCause(end.Err)
	}
	s.work.batch.finish(e)
}

// localCause puts the error that a posting ended with in this package's terms. A
// cause that the engine itself gave comes back as it is.
func localCause(err error) error {
	kinds := []struct{ from, to error }{
		{local.ErrRestarted, ErrRestarted}, {local.ErrRejected, ErrRejected}, {local.ErrFenced, ErrFenced},
		{local.ErrMemory, ErrAddress}, {local.ErrPeer, ErrPeer}, {local.ErrProtocol, ErrPeer}, {local.ErrClosed, ErrClosed},
		{local.ErrDevice, ErrDevice},
	}
	for _, k := range kinds {
		if errors.Is(err, k.from) {
			return errors.WithMessage(k.to, err.Error())
		}
	}
	return err
}
