package core

import (
	"context"
	"encoding/hex"
	"net"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/pkg/errors"

	"mooncake/core/metadata"
	"mooncake/core/tcp"
)

// tcpTransport adapts core/tcp to the engine: it turns slices into its terms, and
// knows how to find the right process behind a descriptor.
type tcpTransport struct {
	engine *Engine
	server *tcp.Server
	hello  int // the highest version of the hello that this engine will use
}

func newTCPTransport(e *Engine) (*tcpTransport, error) {
	listener, err := e.cfg.bind(0)
	if err != nil {
		return nil, errors.Wrap(ErrDevice, "data listener: "+err.Error())
	}
	t := &tcpTransport{engine: e, hello: tcp.HelloVersion}
	if e.cfg.PlainFraming {
		t.hello = tcp.HelloFirst
	}
	t.server = tcp.NewServer(listener, tcp.ServerConfig{Memory: regionsOf{e.memory}, Instance: e.instance, Log: e.log,
		SocketBuffer: e.cfg.SocketBuffer,
		Fenced:       e.described.drop}) // the descriptor says how many fences there were
	return t, nil
}

// regionsOf shows the memory table as the server's regions.
type regionsOf struct{ table *memoryTable }

func (r regionsOf) Find(addr uint64) tcp.Region {
	if m := r.table.find(addr); m != nil {
		return m
	}
	return nil
}

func (t *tcpTransport) name() string { return "tcp" }

func (t *tcpTransport) describe(d *metadata.Descriptor, _ *memories) {
	d.Protocol = metadata.ProtocolTCP
	d.TCPDataPort = t.server.Port()
	d.TCPProtoVersion = 2
	d.Extension.Hello = t.hello
	d.Extension.Fences = t.server.Fences()
}

func (t *tcpTransport) counters(s *Stats) {
	c := &t.server.Counters
	s.ServedWritten += c.Written.Load()
	s.ServedRead += c.Read.Load()
	s.ServedRejected += c.Rejected.Load()
	s.Connections += uint64(t.server.Connections())
}

func (t *tcpTransport) fence(ctx context.Context, who peerIdentity) (met bool, err error) {
	id := tcp.Identity{Names: who.names, Addrs: who.addrs}
	if b, err := hex.DecodeString(who.instance); err == nil {
		copy(id.Instance[:], b)
	}
	met, err = t.server.Fence(ctx, id)
	if err != nil {
		return met, errors.WithMessage(ErrWaitTimeout, err.Error())
	}
	return met, nil
}

func (t *tcpTransport) close() { t.server.Close() }

// reach prepares the way to a peer that offers tcp.
func (t *tcpTransport) reach(p *process) (path, error) {
	d := p.known.Load().descriptor
	if d.TCPDataPort == 0 {
		return nil, nil
	}
	dial := &tcpDialer{transport: t, process: p, version: 1}
	if d.TCPProtoVersion >= 2 && !t.engine.cfg.ForceV1 {
		dial.version = 2
	}
	peer := tcp.NewPeer(tcp.PeerConfig{
		Name: p.name, Dial: dial.dial, Version: dial.version, Log: t.engine.log, Lanes: t.engine.cfg.Lanes,
		StallTimeout: t.engine.cfg.StatusTimeout, Lost: func() { p.suspect.Store(true) }, Fences: p.fences,
		Covered: dial.covered, SocketBuffer: t.engine.cfg.SocketBuffer,
		Messages: &t.engine.counts.messages,
	})
	return &tcpPath{peer, t.engine, d.Extension != nil && d.Extension.Hello >= 1}, nil
}

// tcpDialer connects to the data port of one peer process.
type tcpDialer struct {
	transport *tcpTransport
	process   *process
	version   int

	verified atomic.Pointer[time.Time] // when the process behind the port was last seen to be the right one
}

const (
	// verifyEvery bounds how often a version 1 peer, which needs a connection a
	// slice, is asked who it is.
	verifyEvery = time.Second
	// coveredTimeout bounds the question after a rejection, since the batch at
	// fault cannot end before it is answered.
	coveredTimeout = time.Second
	keepAlive      = 15 * time.Second
)

// dial connects and makes sure that the process which was opened answers. A
// connection that fails is looked into, since the peer may be gone or another one
// there, and tried once more: a peer that fences also closes connections that are
// just being made.
func (t *tcpDialer) dial(ctx context.Context) (tcp.Link, error) {
	e := t.transport.engine
	ctx, cancel := context.WithTimeout(ctx, e.cfg.ConnectTimeout)
	defer cancel()
	link, err := t.attempt(ctx)
	if err != nil && !errors.Is(err, tcp.ErrRestarted) {
		if e := t.process.refresh(ctx); e != nil {
			return tcp.Link{}, tcpCause(e)
		}
		link, err = t.attempt(ctx)
	}
	if err != nil {
		return tcp.Link{}, err
	}
	e.counts.opened.Add(1)
	t.process.reached.Store(true)
	return link, nil
}

// attempt is one connection, verified.
func (t *tcpDialer) attempt(ctx context.Context) (tcp.Link, error) {
	conn, err := t.connect(ctx)
	if err != nil {
		return tcp.Link{}, err
	}
	link, err := t.verify(ctx, conn)
	if err != nil {
		conn.Close()
		return tcp.Link{}, err
	}
	return link, nil
}

// connect tries the host that the peer names for its data port, or that of its own
// name, then the one it was opened by.
func (t *tcpDialer) connect(ctx context.Context) (*net.TCPConn, error) {
	d := t.process.known.Load().descriptor
	var last error
	tried := ""
	for _, name := range []string{d.TCPDataHost, d.Name, t.process.name} {
		host, err := metadata.HostOf(name)
		if err != nil || host == tried {
			continue
		}
		tried = host
		dialer := net.Dialer{KeepAlive: keepAlive}
		conn, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(int(d.TCPDataPort))))
		if err == nil {
			return conn.(*net.TCPConn), nil
		}
		last = err
	}
	return nil, &dialError{t.process.name, last}
}

// dialError keeps the system's error for those who look for it.
type dialError struct {
	name  string
	cause error
}

func (e *dialError) Error() string {
	return tcp.ErrPeer.Error() + ": " + e.name + ": data connection: " + e.cause.Error()
}
func (e *dialError) Unwrap() []error { return []error{tcp.ErrPeer, e.cause} }

// verify finds out who answers on a fresh connection.
func (t *tcpDialer) verify(ctx context.Context, conn *net.TCPConn) (tcp.Link, error) {
	link := tcp.Link{Conn: conn, Version: t.version}
	ext := t.process.known.Load().descriptor.Extension
	if ext != nil && ext.Hello >= 1 && t.version == 2 {
		e := t.transport.engine
		hello := tcp.Hello{Version: t.helloVersion(ext), From: e.instance, Name: e.name}
		target, err := hex.DecodeString(ext.Instance)
		if err != nil {
			return link, errors.WithMessage(tcp.ErrProtocol, "instance: "+err.Error())
		}
		copy(hello.Target[:], target)
		greeting, err := tcp.Greet(ctx, conn, hello)
		if errors.Is(err, tcp.ErrRestarted) {
			t.process.gone.Store(true)
		}
		link.Fenced, link.Many = greeting.Fenced, hello.Version >= tcp.HelloMany
		if greeting.Fenced > t.process.fences() {
			t.process.suspect.Store(true) // later batches must know of it
		}
		return link, errors.WithMessage(err, t.process.name)
	}
	// Others cannot be asked on the connection. But a process that is the same
	// now as before, with the same data port, held that port all the time, so it
	// is the one that accepted.
	last := t.verified.Load()
	if t.version == 1 && last != nil && time.Since(*last) < verifyEvery {
		return link, nil
	}
	if err := t.process.refresh(ctx); err != nil {
		return link, tcpCause(err)
	}
	now := time.Now()
	t.verified.Store(&now)
	return link, nil
}

// helloVersion is the hello for a peer: the best that both sides know.
func (t *tcpDialer) helloVersion(ext *metadata.Extension) int {
	return min(ext.Hello, t.transport.hello)
}

// covered asks the peer for its ranges and tells whether it has all of a slice
// registered.
func (t *tcpDialer) covered(s tcp.Slice) bool {
	e := t.transport.engine
	ctx, cancel := context.WithTimeout(e.ctx, min(e.cfg.ConnectTimeout, coveredTimeout))
	defer cancel()
	if t.process.refresh(ctx) != nil {
		return false
	}
	_, ok := t.process.known.Load().spans.covers(s.Remote, s.Remote+s.Len, -1)
	return ok
}

// tcpCause words an error of the engine for a posting's end; batchCause is the
// way back.
func tcpCause(err error) error {
	if errors.Is(err, ErrRestarted) {
		return errors.WithMessage(tcp.ErrRestarted, err.Error())
	}
	return errors.WithMessage(tcp.ErrPeer, err.Error())
}

// batchCause puts the error that a posting ended with in this package's terms.
// A cause that the engine itself gave comes back as it is.
func batchCause(err error) error {
	kinds := []struct{ from, to error }{
		{tcp.ErrRestarted, ErrRestarted}, {tcp.ErrRejected, ErrRejected}, {tcp.ErrFenced, ErrFenced},
		{tcp.ErrMemory, ErrAddress}, {tcp.ErrPeer, ErrPeer}, {tcp.ErrProtocol, ErrPeer}, {tcp.ErrClosed, ErrClosed},
	}
	for _, k := range kinds {
		if errors.Is(err, k.from) {
			return errors.WithMessage(k.to, err.Error())
		}
	}
	return err
}

// tcpPath adapts a tcp.Peer.
type tcpPath struct {
	peer   *tcp.Peer
	engine *Engine
	greets bool
}

func (p *tcpPath) post(op Op, w *work) posting {
	return tcpPosting{p.peer.Post(op == Write, &tcpSource{work: w, engine: p.engine})}
}

// broken: only a connection that greets says, when it is made anew, what a fence
// means for those before; peers that do not greet make no fences.
func (p *tcpPath) broken() bool { return p.greets && p.peer.HungUp() }

func (p *tcpPath) close() { p.peer.Close() }

// tcpPosting adapts a tcp.Posting.
type tcpPosting struct{ posting *tcp.Posting }

func (p tcpPosting) push()               { p.posting.Kick() }
func (p tcpPosting) seal()               { p.posting.Seal() }
func (p tcpPosting) quiesce(cause error) { p.posting.Stop(cause) }
func (p tcpPosting) waits()              { p.posting.Waits() }
func (p tcpPosting) receive()            { p.posting.Receive() }

// tcpSource shows a batch's work to lanes. Next is called by one lane at a time.
type tcpSource struct {
	work    *work
	engine  *Engine
	scratch [64]slice
}

func (s *tcpSource) Next(dst []tcp.Slice, budget uint64) int {
	var n int
	var bytes uint64
	for n < len(dst) && bytes < budget {
		k := s.work.next(s.scratch[:min(len(dst)-n, len(s.scratch))], budget-bytes)
		if k == 0 {
			break
		}
		for _, x := range s.scratch[:k] {
			dst[n] = tcp.Slice{Local: x.local, Remote: x.remote, Len: x.length, Mover: s.work.regions[x.region]}
			bytes += x.length
			n++
		}
	}
	return n
}

func (s *tcpSource) Left() uint64 { return s.work.left.Load() }

func (s *tcpSource) Done(slices int, bytes uint64) { s.work.batch.progressed(bytes) }

func (s *tcpSource) Recut(x tcp.Slice, emit func(tcp.Slice)) {
	r := run{local: x.Local, remote: x.Remote, length: x.Len}
	remote := s.work.process.known.Load().spans
	for off, hint := uint64(0), -1; off < r.length; {
		var piece slice
		piece, hint = r.cut(off, remote, hint)
		emit(tcp.Slice{Local: piece.local, Remote: piece.remote, Len: piece.length, Mover: x.Mover})
		off += piece.length
	}
}

func (s *tcpSource) Resent(slices int) { s.engine.counts.resent.Add(uint64(slices)) }

func (s *tcpSource) Ended(end tcp.End) {
	e := ending{quiet: end.Quiet, unconfirmed: end.Unconfirmed}
	if end.Err != nil {
		e.err = batchCause(end.Err)
	}
	if errors.Is(end.Err, tcp.ErrFenced) {
		s.work.process.suspect.Store(true) // what is known of the peer's fences is old
	}
	s.work.batch.finish(e)
}
