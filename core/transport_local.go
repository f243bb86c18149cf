package core

import (
	"context"
	"encoding/hex"
	"os"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/pkg/errors"

	"mooncake/core/local"
	"mooncake/core/metadata"
)

// localTransport adapts core/local to the engine: it finds out which peers are on
// this host, or in this process, and how they can be reached.
type localTransport struct {
	engine *Engine
	server *local.Server
	host   string // this host, as peers compare it

	mu     sync.Mutex // guards what follows
	warned map[string]bool
}

// engines are those of this process that have the local transport, by instance.
var engines = struct {
	sync.Mutex
	by map[string]*localTransport
}{by: map[string]*localTransport{}}

// newLocalTransport returns nil where peers on this host are to be reached, or can
// be reached, like all others.
func newLocalTransport(e *Engine) *localTransport {
	if e.cfg.ForceTCP || e.cfg.Local == LocalOff {
		return nil
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		e.log.Info("this host cannot be told from others: using tcp for peers on it, too", "err", err)
		return nil
	}
	t := &localTransport{engine: e, host: strings.TrimSpace(string(boot)), warned: map[string]bool{}}
	t.server, err = local.NewServer(local.ServerConfig{Memory: localRegions{e.memory}, Instance: e.instance, Log: e.log,
		// The description of a range takes more bytes than this in a message.
		MaxRanges: int(e.cfg.MaxMessage / 32), PackedOnly: e.cfg.Local == LocalPacked})
	if err != nil {
		e.log.Info("no shared memory with peers on this host: using tcp for them, too", "err", err)
		return nil
	}
	engines.Lock()
	engines.by[e.instanceText()] = t
	engines.Unlock()
	return t
}

// localRegions shows the memory table as the server's regions.
type localRegions struct{ table *memoryTable }

func (r localRegions) Find(addr uint64) local.Region {
	if m := r.table.find(addr); m != nil {
		return m
	}
	return nil
}

func (t *localTransport) name() string { return "memory on this host" }

func (t *localTransport) describe(d *metadata.Descriptor, _ *memories) {
	d.Extension.Host, d.Extension.Local = t.host, local.Version
}

func (t *localTransport) counters(s *Stats) {
	written, read := t.server.Moved()
	s.ServedWritten += written
	s.ServedRead += read
	s.ServedRejected += t.server.Counters.Rejected.Load()
	s.Connections += uint64(t.server.Connections())
}

func (t *localTransport) fence(ctx context.Context, who peerIdentity) (met bool, err error) {
	id := local.Identity{Names: who.names}
	if b, err := hex.DecodeString(who.instance); err == nil {
		copy(id.Instance[:], b)
	}
	met, err = t.server.Fence(ctx, id)
	if err != nil {
		return met, errors.WithMessage(ErrWaitTimeout, err.Error())
	}
	return met, nil
}

func (t *localTransport) publish(s *memories) {
	ranges := make([]local.Range, len(s.list))
	for i, m := range s.list {
		ranges[i] = local.Range{Start: m.start, End: m.end, Epoch: m.epoch, Writable: m.writable}
	}
	t.server.Publish(ranges)
}

func (t *localTransport) settle() { t.server.Settle() }

func (t *localTransport) close() {
	engines.Lock()
	delete(engines.by, t.engine.instanceText())
	engines.Unlock()
	t.server.Close()
}

// localReach bounds how long opening a segment may take to find out whether the peer
// is reachable on this host.
const localReach = time.Second

// reach prepares the way to a peer in this process, or on this host. A peer that says
// it is on this host and cannot be reached so is worth a line in the log.
func (t *localTransport) reach(p *process) (path, error) {
	ext := p.known.Load().descriptor.Extension
	if ext == nil || ext.Local != local.Version || ext.Host != t.host {
		return nil, nil
	}
	lp := &localPath{transport: t, process: p}
	peer, err := t.connect(lp)
	if err != nil {
		t.refused(p, err)
		return nil, nil
	}
	lp.peer.Store(peer)
	p.reached.Store(true)
	t.engine.counts.peersLocal.Add(1)
	return lp, nil
}

// connect makes the initiator's side of a peer.
func (t *localTransport) connect(lp *localPath) (*local.Peer, error) {
	e, p := t.engine, lp.process
	ext := p.known.Load().descriptor.Extension
	cfg := local.PeerConfig{Name: p.name, Log: e.log, Lost: func() { p.suspect.Store(true) }, Messages: &e.counts.messages}
	if guest := t.attach(ext.Instance); guest != nil {
		lp.inside = true
		return local.NewInsidePeer(cfg, guest, localLanes()), nil
	}
	d := local.DialConfig{From: e.instance, Name: e.name, Log: e.log, Lanes: localLanes(), Rings: localRings(), Mode: t.mode()}
	target, err := hex.DecodeString(ext.Instance)
	if err != nil {
		return nil, errors.Wrap(err, "instance")
	}
	copy(d.Target[:], target)
	ctx, cancel := context.WithTimeout(e.ctx, localReach)
	defer cancel()
	remote, err := local.Dial(ctx, d)
	if err != nil {
		return nil, err
	}
	e.counts.opened.Add(1)
	t.explain(p, remote)
	return local.NewRemotePeer(cfg, remote), nil
}

// attach makes the way to an engine in this process; nil if the instance is none.
func (t *localTransport) attach(instance string) *local.Guest {
	if t.engine.cfg.separate {
		return nil
	}
	engines.Lock()
	other := engines.by[instance]
	engines.Unlock()
	if other == nil {
		return nil
	}
	return other.server.Attach(t.engine.instance, t.engine.name, hostMover{}.Copy)
}

func (t *localTransport) mode() local.Mode {
	switch t.engine.cfg.Local {
	case LocalPacked:
		return local.PackedOnly
	case LocalCMA:
		return local.DirectOnly
	}
	return local.Best
}

// localLanes is how many copies to one peer may be under way at once: a core moves
// about half of what the memory of a small machine can take.
func localLanes() int { return min(runtime.GOMAXPROCS(0), 4) }

// localRings is how many of them pack: each keeps a core of the peer's process busy,
// too.
func localRings() int { return min(max(runtime.GOMAXPROCS(0)/2, 1), 4) }

// refused counts and logs that a peer on this host is reached over tcp.
func (t *localTransport) refused(p *process, err error) {
	t.engine.counts.localRefused.Add(1)
	remedy := "MC_LOCAL=0 silences this"
	if errors.Is(err, local.ErrElsewhere) {
		remedy = "run both in one network namespace (docker --network host) to move bytes in memory; MC_LOCAL=0 silences this"
	}
	t.engine.log.Info("a peer on this host is reached over the network", "peer", p.name, "err", err, "remedy", remedy)
}

// maxWarned bounds the memory of what was said.
const maxWarned = 1024

// explain says, once for each peer process, why bytes take the longer way through
// shared memory.
func (t *localTransport) explain(p *process, remote *local.Remote) {
	direct, why := remote.Direct()
	if direct || t.engine.cfg.Local == LocalPacked {
		t.engine.log.Info("a peer on this host is reached in memory", "peer", p.name, "pid", remote.PID())
		return
	}
	t.mu.Lock()
	again := t.warned[p.identity]
	if len(t.warned) >= maxWarned {
		clear(t.warned)
	}
	t.warned[p.identity] = true
	t.mu.Unlock()
	if !again {
		t.engine.log.Warn("no access to the memory of a peer on this host: large blocks go through shared memory, at about half the speed (MC_LOCAL=packed silences this)",
			"peer", p.name, "pid", remote.PID(), "why", why)
	}
}
