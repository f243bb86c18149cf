package core

import (
	"context"
	"net"
	"net/netip"

	"github.com/pkg/errors"

	"mooncake/core/metadata"
)

// Probe asks a peer whether it is alive. It blocks until the answer, or ctx ends.
func (e *Engine) Probe(ctx context.Context, peer string) error {
	peer, err := peerName(peer)
	if err != nil {
		return err
	}
	if err := e.client.Probe(ctx, peer); err != nil {
		return controlError(err)
	}
	return nil
}

// Notify leaves a notification with a peer. It blocks for one message.
func (e *Engine) Notify(ctx context.Context, peer, name, message string) error {
	peer, err := peerName(peer)
	if err != nil {
		return err
	}
	if err := e.client.Notify(ctx, peer, metadata.Notification{Name: name, Message: message}); err != nil {
		return controlError(err)
	}
	return nil
}

// TakeNotification returns the oldest notification that peers left here, and
// removes it if fits says so. present is false if there is none.
func (e *Engine) TakeNotification(fits func(name, message string) bool) (name, message string, present, taken bool) {
	n, present, taken := e.mailbox.TakeIf(func(n metadata.Notification) bool { return fits(n.Name, n.Message) })
	return n.Name, n.Message, present, taken
}

// Fence makes sure that what the peer has begun so far writes nothing more into
// this process; see mc_fence. It blocks until that is so, or ctx ends.
func (e *Engine) Fence(ctx context.Context, peer string) error {
	peer, err := peerName(peer)
	if err != nil {
		return err
	}
	host, port, err := metadata.SplitName(peer, 0)
	if err != nil {
		return errors.WithMessage(ErrInvalid, reason(err))
	}
	who := peerIdentity{names: []string{peer, metadata.JoinName(host, port)}}
	// The name of a dead peer's host may have gone with it: then the name that it
	// introduced itself by has to do.
	lookup, cancel := context.WithTimeout(ctx, e.cfg.ConnectTimeout)
	ips, unknown := net.DefaultResolver.LookupNetIP(lookup, "ip", host)
	cancel()
	for _, ip := range ips {
		who.addrs = append(who.addrs, ip.Unmap())
		who.names = append(who.names, netip.AddrPortFrom(ip.Unmap(), port).String())
	}
	// A peer that still answers says who it is; a dead one is known by name.
	if d, err := e.fetch(ctx, peer); err == nil {
		who.names = append(who.names, d.Name)
		if d.RDMAServerName != "" {
			who.names = append(who.names, d.RDMAServerName)
		}
		if d.Extension != nil {
			who.instance = d.Extension.Instance
		}
	}
	met, err := e.fence(ctx, who)
	if err == nil && !met && unknown != nil {
		return errors.WithMessagef(ErrNotFound, "fence %s: no peer introduced itself so, and %v", peer, unknown)
	}
	return err
}

// fence fences a peer off on every transport.
func (e *Engine) fence(ctx context.Context, who peerIdentity) (met bool, err error) {
	for _, t := range e.transports {
		here, e := t.fence(ctx, who)
		met = met || here
		if err == nil {
			err = e
		}
	}
	return met, err
}
