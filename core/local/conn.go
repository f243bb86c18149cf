package local

import (
	"context"
	"crypto/rand"
	"net"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/pkg/errors"
)

// conn is one connection of an initiator, as the target has it.
type conn struct {
	server *Server
	socket *net.UnixConn
	place  int
	hung   atomic.Bool // somebody has hung up

	mu      sync.Mutex // guards what follows
	other   *other     // set once
	from    Instance
	name    string
	words   []word // of an initiator that has proved that it can copy by itself
	servers []*ringServer

	// mapped is held for reading while shared memory is looked at, which goes on for
	// as long as a peer stands still, and for writing while it is given back.
	mapped   sync.RWMutex
	released bool

	shared  [2]*shm // words, rings
	tracer  bool    // this process lets the initiator trace it
	running sync.WaitGroup
}

const (
	// handshakeTime bounds how long a peer may take to introduce itself.
	handshakeTime = 2 * time.Second
)

func (c *conn) fence() *atomic.Uint64 { return c.server.table.fence(c.place) }

// fence0 makes fences of the last connection in this place not count.
func (c *conn) fence0() { c.fence().Store(0) }

// run is the life of the connection.
func (c *conn) run() {
	defer c.server.wg.Done()
	defer c.release()
	defer recovered(c.server.cfg.Log, "a local connection", nil)
	if err := c.handshake(); err != nil {
		if !errors.Is(err, ErrPeer) { // a peer that changed its mind is no news
			c.server.cfg.Log.Info("local peer refused", "err", err)
		}
		return
	}
	c.awaitEnd()
}

// handshake agrees with the initiator on what is shared.
func (c *conn) handshake() error {
	other, err := otherOf(c.socket)
	if err != nil {
		return err
	}
	c.mu.Lock()
	c.other = other
	c.mu.Unlock()
	c.limit(time.Now().Add(handshakeTime))
	message, fds, err := receive(c.socket, 1)
	if err != nil {
		return err
	}
	defer closeAll(fds)
	h, err := decodeHello(message)
	if err != nil {
		return err
	}
	if h.target != c.server.cfg.Instance {
		return c.refuse("another engine is here")
	}
	words, err := mapShm(fds[0], wordsSize, sealMine, false)
	if err != nil {
		return err
	}
	w := &welcome{instance: c.server.cfg.Instance, place: c.place, entries: c.server.table.entries,
		rings: min(max(h.rings, 1), maxRings)}
	var secret [16]byte
	// Who copies by itself must be seen to die.
	if h.direct && !c.server.cfg.PackedOnly && c.other.file != nil {
		if secret, err = c.offerDirect(w); err != nil {
			words.close()
			return err
		}
	}
	rings, bells, err := c.share(w)
	if err != nil {
		words.close()
		return err
	}
	c.introduce(h, words, rings)
	c.serveRings(rings, bells)
	if err := c.conclude(secret, w.direct, words); err != nil {
		return err
	}
	c.server.cfg.Log.Info("local peer connected", "peer", h.name, "pid", c.other.pid)
	return nil
}

// conclude hears how the initiator will move bytes. Only one that has proved its
// right to copy by itself is waited for when memory is deregistered, so that
// nobody without it can hold this process up.
func (c *conn) conclude(secret [16]byte, offered bool, words *shm) error {
	message, _, err := receive(c.socket, 0)
	if err != nil {
		return err
	}
	r, err := decodeReady(message)
	if err != nil {
		return err
	}
	if r.direct {
		if !offered || r.secret != secret {
			return errors.WithMessage(ErrProtocol, "a peer claims rights that it has not proved")
		}
		c.mu.Lock()
		for i := range maxLanes {
			c.words = append(c.words, wordOf(words, i))
		}
		c.mu.Unlock()
	}
	if err := send(c.socket, goAhead); err != nil {
		return err
	}
	c.limit(time.Time{})
	return nil
}

func (c *conn) refuse(why string) error {
	w := welcome{instance: c.server.cfg.Instance, refusal: why}
	send(c.socket, w.encode())
	return errors.WithMessage(ErrRestarted, why)
}

// offerDirect shows the initiator where it can prove that it reaches this process.
func (c *conn) offerDirect(w *welcome) (secret [16]byte, err error) {
	if _, err := rand.Read(w.nonce[:]); err != nil {
		return secret, errors.Wrap(ErrDevice, "nonce: "+err.Error())
	}
	if _, err := rand.Read(secret[:]); err != nil {
		return secret, errors.Wrap(ErrDevice, "nonce: "+err.Error())
	}
	const size = len(w.nonce) + len(secret)
	at := c.place * size // places are given out from 0, and there is room for usualConns
	copy(c.server.nonces[at:], w.nonce[:])
	copy(c.server.nonces[at+len(w.nonce):], secret[:])
	w.direct, w.nonceAt = true, uint64(uintptr(unsafe.Pointer(&c.server.nonces[at])))
	c.tracer = tracers.allow(c.other.pid, c.server.cfg.Log)
	return secret, nil
}

// share makes the rings and sends the welcome. bells are this side's ends.
func (c *conn) share(w *welcome) (rings *shm, bells []*bell, err error) {
	rings, err = createShm("mooncake-rings", w.rings*ringSize, sealFixed)
	if err != nil {
		return nil, nil, errors.WithMessage(ErrDevice, err.Error())
	}
	fds := []int{c.server.table.fd, rings.fd}
	defer func() {
		closeAll(fds[2:]) // the initiator's ends, which it has got by now
		if rings.closeFD(); err != nil {
			closeBells(bells)
			rings.close()
		}
	}()
	for range w.rings {
		ends, err := newBells()
		if err != nil {
			return rings, bells, errors.Wrap(ErrDevice, "socketpair: "+err.Error())
		}
		fds = append(fds, ends[1])
		mine, err := bellOf(ends[0])
		if err != nil {
			return rings, bells, errors.Wrap(ErrDevice, err.Error())
		}
		bells = append(bells, mine)
	}
	return rings, bells, send(c.socket, w.encode(), fds...)
}

// introduce makes the initiator known to fences and to those who deregister.
func (c *conn) introduce(h *hello, words, rings *shm) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.from, c.name = h.from, h.name
	c.shared = [2]*shm{words, rings}
}

func (c *conn) serveRings(rings *shm, bells []*bell) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, bell := range bells {
		r := &ringServer{conn: c, ring: ring{rings, i * ringSize}, bell: bell}
		c.servers = append(c.servers, r)
		c.running.Add(1)
		go func() {
			defer c.running.Done()
			defer recovered(c.server.cfg.Log, "a local ring", c.violated)
			if err := r.run(); err != nil {
				c.violated(err)
			}
		}()
	}
}

// violated ends the connection of a peer that broke the protocol.
func (c *conn) violated(err error) {
	_, name := c.who()
	c.server.cfg.Log.Warn("local connection ended", "peer", name, "err", err)
	c.hangUp()
}

// hangUp makes run go on to its end.
func (c *conn) hangUp() {
	c.hung.Store(true)
	c.socket.SetReadDeadline(time.Unix(1, 0))
}

// limit bounds what is said from now on; that somebody has hung up stays so.
func (c *conn) limit(end time.Time) {
	c.socket.SetDeadline(end)
	if c.hung.Load() {
		c.hangUp()
	}
}

// awaitEnd returns when the initiator closes the connection or dies, or somebody
// here hangs up. A fork of the initiator may keep the socket open.
func (c *conn) awaitEnd() {
	if c.other.file != nil {
		c.running.Add(1)
		go func() {
			defer c.running.Done()
			defer recovered(c.server.cfg.Log, "watching a local peer", nil)
			if c.other.awaitDeath() {
				c.hangUp()
			}
		}()
	}
	var b [1]byte
	c.socket.Read(b[:]) // nothing is said after the handshake
}

// release ends the connection. Its place stays taken until its process is outside
// every copy: that a socket is closed says nothing about a process that runs.
func (c *conn) release() {
	c.mu.Lock()
	servers := c.servers
	c.mu.Unlock()
	for _, r := range servers {
		r.halt()
	}
	if c.other != nil {
		c.other.stopWaiting()
	}
	c.running.Wait()
	// Now that nobody here touches memory for the peer: it takes the close for that.
	hangUp(c.socket)
	c.await(context.Background())
	c.server.leave(c, &c.place)
	c.mapped.Lock()
	defer c.mapped.Unlock()
	c.released = true
	for _, r := range servers {
		r.bell.close()
	}
	for _, s := range c.shared {
		s.close()
	}
	if c.tracer {
		tracers.forbid(c.other.pid)
	}
	if c.other != nil {
		c.other.close()
	}
}

// ---- client

func (c *conn) who() (Instance, string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.from, c.name
}

func (c *conn) cut() {
	c.mapped.RLock()
	defer c.mapped.RUnlock()
	if !c.released {
		c.fence().Add(1)
	}
}

// await waits for lanes that copy by themselves, and for the rings.
func (c *conn) await(ctx context.Context) error {
	c.mapped.RLock()
	defer c.mapped.RUnlock()
	if c.released {
		return nil
	}
	c.mu.Lock()
	words, servers := c.words, c.servers
	c.mu.Unlock()
	if err := awaitOutside(ctx, words, c, c.server.cfg.Log); err != nil {
		return err
	}
	for _, r := range servers {
		r.working.Lock()
		r.working.Unlock() //nolint:staticcheck // having had it is what counts
	}
	return nil
}

// process is who is at the other end, nil before that is known.
func (c *conn) process() *other {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.other
}

func (c *conn) dead() bool {
	o := c.process()
	return o == nil || o.deadOrClosed()
}

func (c *conn) left() bool {
	c.mu.Lock()
	words := c.shared[0]
	c.mu.Unlock()
	return c.process().lacks(words.file)
}

func (c *conn) pid() int {
	if o := c.process(); o != nil {
		return o.pid
	}
	return 0
}

func (c *conn) moved() (written, read uint64) {
	c.mapped.RLock()
	defer c.mapped.RUnlock()
	if c.released {
		return 0, 0
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, w := range c.words {
		written += w.written.Load()
		read += w.read.Load()
	}
	return written, read
}
