package tcp

import "slices"

// maxPieces bounds what a request can make the server keep: each of its ranges may
// span many regions. Initiators cut theirs at the ends of regions.
const maxPieces = 16 << 10

// begin forgets the last request.
func (c *conn) begin() {
	c.into.reset()
	clear(c.regions)
	clear(c.guard)
	c.regions, c.guard, c.joined = c.regions[:0], c.guard[:0], c.joined[:0]
}

// admit adds a range to the current request, or tells why it may not be used:
// every byte must be registered; adjacent regions will do.
func (c *conn) admit(addr, n uint64, write bool) (why string) {
	if n == 0 {
		return "length 0"
	}
	if addr+n < addr {
		return "range wraps around"
	}
	for first := len(c.regions); n > 0; {
		region := c.find(addr)
		if region == nil {
			return "address not registered"
		}
		if len(c.regions) == maxPieces {
			return "too many regions in one request"
		}
		if len(c.regions) > first {
			c.joined = append(c.joined, len(c.regions))
		}
		if write && !region.Writable() {
			return "memory is read-only"
		}
		_, end := region.Bounds()
		k := min(n, end-addr)
		c.into.add(region, addr, k)
		c.regions = append(c.regions, region)
		c.watch(region)
		addr, n = addr+k, n-k
	}
	return ""
}

// watch adds a region to the guard, unless it was one of the last.
func (c *conn) watch(region Region) {
	for i := len(c.guard) - 1; i >= max(0, len(c.guard)-8); i-- {
		if c.guard[i] == region {
			return
		}
	}
	c.guard = append(c.guard, region)
}

// find returns the live region that holds addr, held, or nil.
func (c *conn) find(addr uint64) Region {
	if c.held != nil {
		if start, end := c.held.Bounds(); addr >= start && addr < end {
			return c.held
		}
	}
	region := c.srv.cfg.Memory.Find(addr)
	if region == nil || !c.hold(region) {
		return nil
	}
	return region
}

// goneRange returns the first range of the current request whose memory is no longer
// registered.
func (c *conn) goneRange() uint64 {
	for i, region := range c.regions {
		if region.Pin() {
			region.Unpin()
			continue
		}
		joined, _ := slices.BinarySearch(c.joined, i+1) // how many of the pieces up to i
		return uint64(i - joined)
	}
	return 0
}
