//go:build cgo

package core

import (
	"context"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/pkg/errors"

	"mooncake/core/endpoint"
	"mooncake/core/metadata"
	"mooncake/rdma"
)

// rdmaVersion is that of connections between two of this kind.
const rdmaVersion = 1

// rdmaTransport moves slices over the RDMA port of this host.
type rdmaTransport struct {
	engine *Engine
	port   *rdmaPort
	store  *endpoint.Store
	stop   chan struct{} // closed when the transport closes
	work   sync.WaitGroup

	mu       sync.Mutex // guards what follows
	lanes    map[*rdma.Lane]watched
	postings map[*rdma.Ticket]*rdmaPosting
}

// watched is a lane in use.
type watched struct {
	lane *rdmaLane
	path *rdmaPath
}

// newRDMATransport opens the port and begins to listen to it.
func newRDMATransport(e *Engine) (transport, error) {
	port, err := openRDMAPort(&e.cfg)
	if err != nil {
		return nil, err
	}
	port.log = e.log
	t := &rdmaTransport{engine: e, port: port, stop: make(chan struct{}),
		lanes: map[*rdma.Lane]watched{}, postings: map[*rdma.Ticket]*rdmaPosting{}}
	port.readdressed = func(now *rdmaAddress, reasons []string) {
		e.described.drop()
		e.log.Warn("rdma: a peer is not reached from the GID so far, another one is used from now on", "device", port.name,
			"gid", now.gidText(), "gid_index", now.gid.Index, "because", strings.Join(reasons, "; "))
	}
	address := port.address.Load()
	t.store, err = endpoint.New(endpoint.Config{
		Server: t.server(), Session: e.name, NIC: port.name, Instance: e.instanceText(),
		QueuePairs: e.cfg.RDMA.QueuePairs, OursPairs: port.cfg.OwnQueuePairs, MaxEndpoints: port.connections(),
		Hardware: port, Ask: e.client.Connect, Describe: t.deviceOf, Log: e.log, Fenced: e.described.drop,
		Timeout: e.cfg.ConnectTimeout,
	})
	if err != nil {
		port.close()
		return nil, errors.WithMessage(ErrInvalid, err.Error())
	}
	if e.cfg.RDMA.RelaxedOrdering && !e.cfg.RDMA.ReadBack {
		e.log.Warn("MC_IB_PCI_RELAXED_ORDERING is on: what a peer writes here may not be visible yet when its batch is done, unless that peer has MC_RDMA_READ_BACK=1. Set both on every node")
	}
	e.memory.enroll, e.memory.dismiss = port.enroll, port.dismiss
	t.work.Add(3)
	go t.reap()
	go t.listen()
	go t.patrol()
	e.log.Info("rdma port open", "device", port.name, "port", e.cfg.RDMA.PortNumber, "gid", address.gidText(), "gid_index", address.gid.Index, "mtu", address.mtu)
	return t, nil
}

// server is the first half of this engine's device paths.
func (t *rdmaTransport) server() string {
	e := t.engine
	if e.cfg.RDMA.Server == "" {
		return e.name
	}
	return e.cfg.RDMA.Server + ":" + strconv.Itoa(int(e.port))
}

func (t *rdmaTransport) name() string { return "rdma" }

func (t *rdmaTransport) describe(d *metadata.Descriptor, s *memories) {
	address := t.port.address.Load()
	d.Protocol = metadata.ProtocolRDMA
	if d.TCPProtoVersion == 0 {
		d.TCPProtoVersion = 1
	}
	if t.engine.cfg.RDMA.Server != "" {
		d.RDMAServerName = t.server()
	}
	d.Devices = []metadata.Device{{Name: t.port.name, LID: address.lid, GID: address.gidText()}}
	d.PriorityMatrix = t.port.matrix
	d.Extension.RDMA, d.Extension.RDMAFences = rdmaVersion, t.store.Fences()
	d.Buffers = d.Buffers[:0]
	for _, m := range s.list {
		at := m.start
		for _, k := range m.keys {
			d.Buffers = append(d.Buffers, metadata.Buffer{Name: t.port.location(m.location), Addr: at, Length: k.end - at,
				RKey: []uint32{k.rkey}, LKey: []uint32{k.lkey}})
			at = k.end
		}
	}
}

// location is a place that the matrix has: peers find no device for another one.
func (p *rdmaPort) location(wanted string) string {
	for _, n := range p.nodes {
		if n == wanted {
			return n
		}
	}
	return p.nodes[0]
}

// deviceOf finds out where a peer's device is from its descriptor.
func (t *rdmaTransport) deviceOf(ctx context.Context, session, device string) (endpoint.Address, error) {
	d, err := t.engine.client.Fetch(ctx, session)
	if err != nil {
		return endpoint.Address{}, err
	}
	for _, x := range d.Devices {
		if x.Name == device {
			gid, err := endpoint.ParseGID(x.GID)
			return endpoint.Address{GID: gid, LID: x.LID}, err
		}
	}
	return endpoint.Address{}, errors.Errorf("%s has no device %q", session, device)
}

func (t *rdmaTransport) reach(p *process) (path, error) {
	d := p.known.Load().descriptor
	if len(d.Devices) == 0 {
		return nil, nil
	}
	rp := &rdmaPath{transport: t, process: p, live: map[*rdmaPosting]struct{}{}, hint: -1}
	rp.idle.L = &rp.mu
	// A connection that is made after a fence holds what began before it against this
	// engine. So the path says whether to ask, also before there was any.
	p.reached.Store(true)
	return rp, nil
}

func (t *rdmaTransport) fence(ctx context.Context, who peerIdentity) (met bool, err error) {
	met, err = t.store.Fence(ctx, endpoint.Identity{Instance: who.instance, Names: who.names})
	if err != nil {
		return met, errors.WithMessage(ErrWaitTimeout, err.Error())
	}
	return met, nil
}

func (t *rdmaTransport) counters(s *Stats) {
	s.Messages += t.port.port.Counters().WorkRequests
	s.Connections += uint64(t.store.Len())
}

// answer answers a peer that wants to connect.
func (t *rdmaTransport) answer(request metadata.ConnectionRequest) metadata.ConnectionReply {
	return *t.store.Answer(&request)
}

func (t *rdmaTransport) close() {
	t.store.Close()
	close(t.stop)
	if err := t.port.port.Close(); err != nil {
		t.engine.log.Error("bug in mooncake: rdma is still in use when its engine closes", "err", err)
		t.port.port.Interrupt() // a leak is better than a Close that never returns
	}
	t.work.Wait()
}

func (t *rdmaTransport) release() { t.port.release() }

// newTicket makes the account of a posting's pieces.
func (t *rdmaTransport) newTicket(po *rdmaPosting) *rdma.Ticket {
	op := rdma.Write
	if po.op == Read {
		op = rdma.Read
	}
	ticket := t.port.port.NewTicket(op)
	t.mu.Lock()
	t.postings[ticket] = po
	t.mu.Unlock()
	return ticket
}

// postingOf finds the posting of a ticket that has not ended.
func (t *rdmaTransport) postingOf(ticket *rdma.Ticket) *rdmaPosting {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.postings[ticket]
}

// ticketEnded ends a posting; called exactly once for a ticket.
func (t *rdmaTransport) ticketEnded(ticket *rdma.Ticket) {
	t.mu.Lock()
	po := t.postings[ticket]
	delete(t.postings, ticket)
	t.mu.Unlock()
	p := po.path
	p.mu.Lock()
	po.moved, po.ticket = ticket.Done(), nil
	done := p.conclude(po)
	po.free(ticket)
	p.mu.Unlock()
	done.report()
}

// watch takes a lane into the books.
func (t *rdmaTransport) watch(lane *rdmaLane, p *rdmaPath) {
	t.mu.Lock()
	t.lanes[lane.Lane] = watched{lane, p}
	t.mu.Unlock()
}

func (t *rdmaTransport) forget(lane *rdmaLane) {
	t.mu.Lock()
	delete(t.lanes, lane.Lane)
	t.mu.Unlock()
}

func (t *rdmaTransport) watchedOf(lane *rdma.Lane) (watched, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	w, ok := t.lanes[lane]
	return w, ok
}

// reap takes what the port has to tell, until it is closed.
func (t *rdmaTransport) reap() {
	defer t.work.Done()
	var events [64]rdma.PortEvent
	for n := t.port.port.Wait(events[:]); n > 0; n = t.port.port.Wait(events[:]) {
		for _, event := range events[:n] {
			t.happened(event)
		}
	}
}

func (t *rdmaTransport) happened(event rdma.PortEvent) {
	if event.Kind == rdma.TicketEnded {
		t.ticketEnded(event.Ticket)
		return
	}
	w, ok := t.watchedOf(event.Lane)
	if !ok {
		return
	}
	switch event.Kind {
	case rdma.LaneRoom:
		w.path.serve(nil)
	case rdma.LaneBroken:
		w.path.flushed(w.lane)
	}
}

const (
	patrolEvery = 250 * time.Millisecond
	// stallLimit is how long a lane may have requests in flight without one completing:
	// devices report a lost peer sooner.
	stallLimit = 10 * time.Second
	// flushLimit is how long the requests on a broken lane may take to come back; devices
	// need microseconds.
	flushLimit = 2 * time.Second
)

// limits are those two, as the configuration has them.
func (t *rdmaTransport) limits() (stall, flush time.Duration) {
	if d := t.engine.cfg.patience; d > 0 {
		return d, d
	}
	return stallLimit, flushLimit
}

// patrol looks after lanes on which nothing happens.
func (t *rdmaTransport) patrol() {
	defer t.work.Done()
	tick := time.NewTicker(patrolEvery)
	defer tick.Stop()
	stall, flush := t.limits()
	for {
		select {
		case <-t.stop:
			return
		case now := <-tick.C:
			for _, w := range t.all() {
				w.lane.inspect(now, stall, flush)
			}
		}
	}
}

func (t *rdmaTransport) all() (list []watched) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, w := range t.lanes {
		list = append(list, w)
	}
	return list
}

// inspect breaks a lane that makes no progress, and gives one up that does not flush.
func (l *rdmaLane) inspect(now time.Time, stall, flush time.Duration) {
	retired, inFlight, broken, ok := l.queues.look(l.Lane)
	switch {
	case !ok:
	case inFlight == 0 || retired != l.progress:
		l.progress, l.since, l.breaking = retired, now, time.Time{}
	case broken:
		if l.breaking.IsZero() {
			l.breaking = now
		} else if now.Sub(l.breaking) > flush {
			l.queues.abandon(l.Lane)
		}
	case now.Sub(l.since) > stall:
		l.stalled.Store(true)
		l.queues.Break()
	}
}

// listen acts on what the device says about itself.
func (t *rdmaTransport) listen() {
	defer t.work.Done()
	for {
		event, err := t.port.device.NextEvent(t.stop)
		if err != nil {
			return
		}
		t.device(event)
	}
}

// device acts on an event. A port that is down is left by all lanes at once: their
// requests would otherwise take the device's retry time to fail, and on a completion queue
// that is lost they would never come back. A device may have ports that are not used here.
func (t *rdmaTransport) device(event rdma.AsyncEvent) {
	log := t.engine.log
	if event.Port != 0 && event.Port != t.engine.cfg.RDMA.PortNumber {
		return
	}
	switch event.Kind {
	case rdma.EventPortDown, rdma.EventDeviceFatal, rdma.EventCQBroken:
		why := t.port.name + ": " + event.Text
		t.port.down.Store(&why)
		log.Warn("rdma: nothing can be sent", "device", t.port.name, "event", event.Text)
		for _, w := range t.all() {
			w.lane.queues.Break()
		}
	case rdma.EventPortActive, rdma.EventGIDChange, rdma.EventAddressChange:
		if event.Kind == rdma.EventGIDChange {
			t.port.pardon()
		}
		if err := t.port.look(); err != nil {
			log.Warn("rdma: the port changed and cannot be used", "device", t.port.name, "err", err)
			return
		}
		address := t.port.address.Load()
		t.engine.described.drop()
		log.Info("rdma: the port changed", "device", t.port.name, "event", event.Text, "gid", address.gidText())
	default:
		log.Debug("rdma: event", "device", t.port.name, "event", event.Text, "queue_pair", event.QP)
	}
}
