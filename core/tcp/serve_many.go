package tcp

import "fmt"

// smallMessage is the length up to which the next message is expected to fit the
// buffer as a whole, so that one system call gets it.
const smallMessage = serveBuffer / 4

// writeMany receives the payload of a message of many ranges.
func (c *conn) writeMany(h header) error {
	if err := c.ranges(h, true); err != nil {
		return err
	}
	if err := c.fill(); err != nil {
		return err
	}
	c.written += h.size
	return c.out.ok(c)
}

// sendBackMany answers a read of many ranges.
func (c *conn) sendBackMany(h header) error {
	if err := c.ranges(h, false); err != nil {
		return err
	}
	return c.answer(h)
}

// ranges makes the ranges of a message the current request. All of them are looked
// at before any is touched.
func (c *conn) ranges(h header, write bool) error {
	if !c.many || h.op&flagV2 == 0 {
		return c.reject(h, fmt.Sprintf("unknown opcode %#x", h.op), 0)
	}
	count := h.addr
	if count == 0 || count > maxRanges {
		return c.reject(h, fmt.Sprintf("%d ranges, at most %d", count, maxRanges), 0)
	}
	table := int(count) * rangeSize
	if err := c.need(table, false); err != nil {
		return err
	}
	c.begin()
	for i, at := uint64(0), c.r; i < count; i, at = i+1, at+rangeSize {
		addr, n := parseRange(c.buf[at:])
		before := c.into.bytes
		why := c.admit(addr, n, write)
		if c.into.bytes < before {
			why = "the sum of the ranges wraps around"
		}
		if why != "" {
			c.r += table
			return c.reject(h, fmt.Sprintf("range %d, %d bytes at %#x: %s", i, n, addr, why), i)
		}
	}
	c.r += table
	if c.into.bytes != h.size {
		return c.reject(h, fmt.Sprintf("its ranges are %d bytes", c.into.bytes), 0)
	}
	// The next message is likely to be like this one. Of a long one, no more than
	// its head belongs into the buffer: the payload can go to its place at once.
	c.ahead = serveBuffer
	if write && h.size > smallMessage {
		c.ahead = HeaderSize + table
	}
	return nil
}
