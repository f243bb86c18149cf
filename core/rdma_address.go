//go:build cgo

package core

import (
	"fmt"
	"slices"
	"strings"
	"syscall"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"

	"mooncake/core/endpoint"
	"mooncake/rdma"
)

// unrouted is an error of the device about the own address, or the way from there.
type unrouted struct{ cause error }

func (u *unrouted) Error() string   { return u.cause.Error() }
func (u *unrouted) Unwrap() []error { return []error{ErrDevice, endpoint.ErrNoRoute, u.cause} }

// noRoute tells whether a queue pair may be connected with another GID of the port.
// EINVAL: the GID is unset, or of another kind than the peer's; ENODATA: it is gone; the
// others are what looking for the way to the peer ends with.
func noRoute(err error) bool {
	for _, errno := range []syscall.Errno{unix.EINVAL, unix.ENODATA, unix.ETIMEDOUT, unix.ENETUNREACH, unix.EHOSTUNREACH, unix.EADDRNOTAVAIL} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}

// Readdress looks for a GID of the port from which r can be reached, and uses it from
// now on; it is endpoint.Readdresser's. Nothing is sent to the peer, but finding out that
// there is no way to it may take the kernel seconds.
func (p *rdmaPort) Readdress(queues endpoint.Queues, r endpoint.Remote, why error) error {
	p.choosing.Lock()
	defer p.choosing.Unlock()
	if p.cfg.GIDIndex >= 0 {
		return errors.WithMessagef(why, "GID index %d is set by MC_GID_INDEX, so no other one is tried", p.cfg.GIDIndex)
	}
	failed := queues.(*rdmaQueues).address
	others, err := p.others(failed)
	if err != nil {
		return rdmaCause(err)
	}
	reasons := []string{reasonAgainst(failed, why)}
	for _, address := range others[:min(len(others), p.cfg.GIDRetries)] {
		err := p.try(address, r)
		if err == nil {
			p.use(address, failed, reasons)
			return nil
		}
		if !errors.Is(err, endpoint.ErrNoRoute) {
			return rdmaCause(err)
		}
		reasons = append(reasons, reasonAgainst(address, err))
	}
	text := fmt.Sprintf("no GID of %s port %d reaches it, of %d that were tried: %s; look at the routes to the peer", p.name, p.cfg.PortNumber, len(reasons), strings.Join(reasons, "; "))
	if left := len(others) + 1 - len(reasons); left > 0 {
		text += fmt.Sprintf(", or raise MC_AUTO_GID_MAX_RETRIES for the %d that were not tried", left)
	}
	return &unrouted{errors.New(text)}
}

func reasonAgainst(address *rdmaAddress, err error) string {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return fmt.Sprintf("%s: %s (%v)", address.gid, unix.ErrnoName(errno), errno)
	}
	return fmt.Sprintf("%s: %v", address.gid, err)
}

// others are the addresses of the port that are worth a try instead of one that failed:
// those of its kind, for the peer's is of that kind; that which is in use by now, if there is
// another, comes first, and those that failed before last. p.choosing is held.
func (p *rdmaPort) others(failed *rdmaAddress) (list []*rdmaAddress, err error) {
	gids, err := p.device.GIDs(p.cfg.PortNumber)
	if err != nil {
		return nil, err
	}
	now := p.address.Load()
	var late []*rdmaAddress
	for _, gid := range rdma.RankGIDs(gids) {
		address := &rdmaAddress{gid: gid.GID, lid: now.lid, mtu: now.mtu}
		switch {
		case gid.GID == failed.gid || gid.Type != failed.gid.Type:
		case gid.GID == now.gid:
			list = slices.Insert(list, 0, address)
		case p.shunned[gid.GID]:
			late = append(late, address)
		default:
			list = append(list, address)
		}
	}
	return append(list, late...), nil
}

// try finds out whether a queue pair can be connected to the peer's from an address.
func (p *rdmaPort) try(from *rdmaAddress, r endpoint.Remote) error {
	qp, err := p.pd.NewQP(p.cq, rdma.QPConfig{SendDepth: 1, MaxSGE: 1})
	if err != nil {
		return err
	}
	defer qp.Close()
	return p.toRTR(qp, from, r, r.Numbers[0])
}

// use makes an address that works the port's, instead of one that did not. p.choosing is
// held.
func (p *rdmaPort) use(address, failed *rdmaAddress, reasons []string) {
	if p.shunned == nil {
		p.shunned = map[rdma.GID]bool{}
	}
	p.shunned[failed.gid] = true
	delete(p.shunned, address.gid)
	if before := p.address.Swap(address); before.gid != address.gid && p.readdressed != nil {
		p.readdressed(address, reasons)
	}
}

// pardon forgets which GIDs did not work: the port's table has changed.
func (p *rdmaPort) pardon() {
	p.choosing.Lock()
	defer p.choosing.Unlock()
	clear(p.shunned)
}

// unshunned leaves out GIDs in place of which others worked, if there are others.
// p.choosing is held.
func (p *rdmaPort) unshunned(gids []rdma.GID) []rdma.GID {
	left := slices.DeleteFunc(slices.Clone(gids), func(gid rdma.GID) bool { return p.shunned[gid] })
	if len(left) == 0 {
		return gids
	}
	return left
}
