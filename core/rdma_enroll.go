//go:build cgo

package core

import (
	"github.com/pkg/errors"

	"mooncake/rdma"
)

// enroll registers memory with the device.
func (p *rdmaPort) enroll(ms []*Memory) error {
	ranges := make([]rdma.AddrRange, len(ms))
	for i, m := range ms {
		ranges[i] = rdma.AddrRange{Addr: m.start, Length: m.end - m.start}
	}
	access := func(i int) rdma.Access {
		a := rdma.AccessRemoteRead
		if ms[i].writable {
			a |= rdma.AccessLocalWrite | rdma.AccessRemoteWrite
		}
		if p.cfg.RelaxedOrdering {
			a |= rdma.AccessRelaxedOrdering
		}
		return a
	}
	if err := p.expect(len(ms)); err != nil {
		return err
	}
	all, err := p.pd.RegisterAll(ranges, access, rdma.RegisterLimit{MaxSize: min(p.cfg.MaxRegion, p.limits.MaxMRSize)})
	if err != nil {
		p.expect(-len(ms))
		return rdmaCause(err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, m := range ms {
		p.regions[m] = all[i]
		at := m.start
		for _, mr := range all[i] {
			at += mr.Range().Length
			m.keys = append(m.keys, regionKey{end: at, lkey: mr.LKey(), rkey: mr.RKey()})
		}
	}
	return nil
}

// dismiss takes memory back from the device: peers' work requests on it fail from now on.
func (p *rdmaPort) dismiss(ms []*Memory) {
	for _, m := range ms {
		p.mu.Lock()
		list, known := p.regions[m]
		delete(p.regions, m)
		p.mu.Unlock()
		for _, mr := range list {
			p.released("memory", mr.Close())
		}
		if known {
			p.expect(-1)
		}
	}
}

// expect counts memory that is coming, or going. More comes only while the port is open.
func (p *rdmaPort) expect(memories int) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed && memories > 0 {
		return errors.WithMessage(ErrClosed, "engine")
	}
	if p.enrolled += memories; p.enrolled == 0 {
		p.empty.Broadcast()
	}
	return nil
}

// release waits for memory that is being registered, and refused because the engine is
// closed, or deregistered, and closes the port.
func (p *rdmaPort) release() {
	p.mu.Lock()
	p.closed = true
	for p.enrolled > 0 {
		p.empty.Wait()
	}
	p.mu.Unlock()
	p.close()
}
