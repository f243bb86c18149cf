package local

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"
)

// DialConfig says how to reach a peer on this host.
type DialConfig struct {
	Target Instance // the process that is meant
	From   Instance // this engine
	Name   string   // this engine's segment name, by which it can be fenced
	Lanes  int      // copies that may be under way at once; default 1
	Rings  int      // of them, lanes with a ring; default 1
	Mode   Mode
	Log    *slog.Logger
}

// Mode says how bytes are moved.
type Mode int

const (
	Best       Mode = iota // whatever is fastest for a slice
	PackedOnly             // through rings
	DirectOnly             // by system calls, where this process may
)

// Remote is the connection to a process on this host, as an initiator has it.
type Remote struct {
	cfg    DialConfig
	socket *net.UnixConn
	other  *other
	place  int
	table  *tableView
	words  *shm
	rings  *shm
	count  int     // of rings
	bells  []*bell // ring by ring

	direct  atomic.Bool // copies by system calls are allowed
	refused string      // why they are not
	index   atomic.Pointer[index]
	reading sync.Mutex // one lane reads the table at a time
}

// ErrElsewhere: nobody listens for the instance where this process can see it.
var ErrElsewhere = errors.New("not reachable on this host")

// Dial connects to a peer and finds out how bytes can be moved, until ctx ends.
// ErrElsewhere, ErrRestarted, ErrProtocol, ErrPeer.
func Dial(ctx context.Context, cfg DialConfig) (*Remote, error) {
	cfg.Lanes, cfg.Rings = max(cfg.Lanes, 1), max(cfg.Rings, 1)
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	var d net.Dialer
	nc, err := d.DialContext(ctx, "unixpacket", address(cfg.Target).Name)
	if err != nil {
		if errors.Is(err, syscall.ECONNREFUSED) {
			return nil, errors.WithMessage(ErrElsewhere, "no such engine in this network namespace")
		}
		return nil, errors.WithMessage(ErrPeer, err.Error())
	}
	r := &Remote{cfg: cfg, socket: nc.(*net.UnixConn)}
	stop := context.AfterFunc(ctx, func() { r.socket.SetDeadline(time.Unix(1, 0)) })
	err = r.handshake()
	if !stop() && err == nil {
		err = errors.WithMessage(ErrPeer, ctx.Err().Error())
	}
	if err != nil {
		r.close()
		return nil, err
	}
	return r, nil
}

func (r *Remote) handshake() error {
	var err error
	if r.other, err = otherOf(r.socket); err != nil {
		return errors.WithMessage(ErrDevice, err.Error())
	}
	if r.words, err = createShm("mooncake-words", wordsSize, sealMine); err != nil {
		return errors.WithMessage(ErrDevice, err.Error())
	}
	h := hello{target: r.cfg.Target, from: r.cfg.From, name: r.cfg.Name, rings: r.cfg.Rings, direct: r.cfg.Mode != PackedOnly}
	if err := send(r.socket, h.encode(), r.words.fd); err != nil {
		return err
	}
	r.words.closeFD()
	message, fds, err := receive(r.socket, -1)
	if err != nil {
		return err
	}
	w, err := decodeWelcome(message)
	if err != nil {
		closeAll(fds)
		return err
	}
	if w.refusal != "" || w.instance != r.cfg.Target {
		closeAll(fds)
		return errors.WithMessage(ErrRestarted, w.refusal)
	}
	if err := r.adopt(w, fds); err != nil {
		return err
	}
	secret := r.proveRights(w)
	if err := send(r.socket, ready{r.direct.Load(), secret}.encode()); err != nil {
		return err
	}
	if message, _, err = receive(r.socket, 0); err != nil {
		return err
	}
	if string(message) != string(goAhead) {
		return errors.WithMessage(ErrProtocol, "handshake: unexpected last message")
	}
	return nil
}

// adopt maps what the peer shares. The descriptors are used up.
func (r *Remote) adopt(w *welcome, fds []int) error {
	if len(fds) != 2+w.rings || w.rings == 0 || w.entries == 0 {
		closeAll(fds)
		return errors.WithMessagef(ErrProtocol, "welcome with %d descriptors for %d rings", len(fds), w.rings)
	}
	r.place, r.count = w.place, w.rings
	defer func() { closeAll(fds) }()
	for len(fds) > 2 {
		b, err := bellOf(fds[len(fds)-1])
		fds = fds[:len(fds)-1]
		if err != nil {
			return errors.WithMessage(ErrProtocol, err.Error())
		}
		r.bells = append(r.bells, b)
	}
	slices.Reverse(r.bells)
	s, err := mapShm(fds[0], tableSize(w.entries), sealMine, false)
	if err != nil {
		return err
	}
	r.table = &tableView{s, w.entries}
	if r.rings, err = mapShm(fds[1], w.rings*ringSize, sealFixed, true); err != nil {
		return err
	}
	return nil
}

// proveRights reads the peer's nonce by the system calls that will move bytes.
func (r *Remote) proveRights(w *welcome) (secret [16]byte) {
	if !w.direct {
		r.refused = "the peer does not offer it"
		if r.cfg.Mode == PackedOnly {
			r.refused = "turned off"
		}
		return secret
	}
	if r.other.file == nil {
		r.refused = "the peer's process is not visible from here: run both in one PID namespace (docker --pid)"
		return secret
	}
	var got [32]byte
	n, err := readPeer(r.other.pid, got[:], w.nonceAt)
	switch {
	case err != nil:
		r.refused = r.explain(err)
	case n != len(got) || [16]byte(got[:16]) != w.nonce:
		r.refused = "process " + fmt.Sprint(r.other.pid) + " is not the peer"
	default:
		copy(secret[:], got[16:])
		r.direct.Store(true)
	}
	return secret
}

// explain says why the peer's memory cannot be accessed, and what would help.
func (r *Remote) explain(err error) string {
	text := "process_vm_readv: " + err.Error()
	switch {
	case err == unix.ENOSYS:
		return text + ": the kernel or a seccomp filter lacks it"
	case err == unix.ESRCH:
		return text + ": run both in one PID namespace (docker --pid)"
	case err != unix.EPERM:
		return text
	}
	if uid := os.Getuid(); uid != r.other.uid {
		return text + fmt.Sprintf(": the peer runs as user %d and this process as %d: run both as one", r.other.uid, uid)
	}
	if scope, e := os.ReadFile(yamaScope); e == nil && strings.TrimSpace(string(scope)) != "0" {
		return text + fmt.Sprintf(": %s is %s: set it to 0, or give this process CAP_SYS_PTRACE", yamaScope, strings.TrimSpace(string(scope)))
	}
	return text + ": give this process CAP_SYS_PTRACE (docker --cap-add SYS_PTRACE)"
}

// Direct tells whether this process may copy by itself, and why not.
func (r *Remote) Direct() (ok bool, why string) { return r.direct.Load(), r.refused }

// PID is the peer's process number as seen from here, 0 if it is not visible.
func (r *Remote) PID() int { return r.other.pid }

func (r *Remote) ring(i int) ring { return ring{r.rings, i * ringSize} }

// ranges returns the peer's ranges as they are now. While the peer changes them it waits,
// or gives up with errEnough.
func (r *Remote) ranges(enough func() bool) (*index, error) {
	if ix := r.index.Load(); ix != nil && ix.generation == r.table.generation() {
		return ix, nil
	}
	r.reading.Lock()
	defer r.reading.Unlock()
	if ix := r.index.Load(); ix != nil && ix.generation == r.table.generation() {
		return ix, nil
	}
	ix, err := r.table.read(enough)
	if err == nil {
		r.index.Store(ix)
	}
	return ix, err
}

// gone tells whether the peer's process has ended, so that it touches nothing.
func (r *Remote) gone() bool { return r.other.file != nil && r.other.dead() }

// close gives everything back. Nobody uses it any more.
func (r *Remote) close() {
	hangUp(r.socket)
	if r.table != nil {
		r.table.close()
	}
	r.rings.close()
	r.words.close()
	closeBells(r.bells)
	r.bells = nil
	if r.other != nil {
		r.other.close()
	}
}
