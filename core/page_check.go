package core

import "math/bits"

// allPages checks pieces and sums their bytes up.
func (c *checker) allPages(pieces []pagePiece) (bytes uint64, err error) {
	for i := range pieces {
		n, err := c.pages(&pieces[i])
		if err != nil {
			return 0, err
		}
		if bytes += n; bytes > maxBytes {
			return 0, tooManyBytes()
		}
	}
	return bytes, nil
}

// pages checks the layers of a piece and sums their bytes up. It also finds out which
// of them lie in one local memory as a whole.
func (c *checker) pages(p *pagePiece) (bytes uint64, err error) {
	for i := range p.layers {
		l := &p.layers[i]
		if l.Length == 0 {
			continue // nothing of it is looked at
		}
		high, n := bits.Mul64(l.Length, p.runs.pages)
		if high != 0 || n > maxBytes || bytes+n > maxBytes {
			return 0, tooManyBytes()
		}
		bytes += n
		if c.whole(p, l) {
			continue
		}
		l.region = -1
		index := uint64(p.first)
		for at := range p.runs.n {
			r := p.runs.at(at)
			if err := c.pageRun(l, r, place{p.group, i, index}); err != nil {
				return 0, err
			}
			index += r.length
		}
	}
	return bytes, nil
}

// whole checks all pages of a layer at once: from the lowest to the highest it must
// lie in one memory here, and in the peer's memory there. false says nothing about the pages.
func (c *checker) whole(p *pagePiece, l *pageLayer) bool {
	here, ok := reach(l.LocalBase, l.LocalStride, l.Length, p.runs.local)
	if !ok {
		return false
	}
	there, ok := reach(l.RemoteBase, l.RemoteStride, l.Length, p.runs.remote)
	if !ok {
		return false
	}
	at := c.state.spans.seek(here.start, c.localHint)
	if at < 0 || here.end > c.state.spans[at].end || c.pin(at, place{}, here.start, 0) != nil {
		return false
	}
	if !c.remote.holds(there.start, there.end-there.start) {
		first, ok := c.there.covers(there.start, there.end, c.remoteHint)
		if !ok {
			return false
		}
		c.remote, c.remoteHint = c.there[first], first
	}
	c.local, c.localHint, l.region = c.state.spans[at], at, int32(at)
	return true
}

// reach is the bytes of a layer from the lowest of its pages to the highest; false:
// they wrap around.
func reach(base, stride, length uint64, pages span) (span, bool) {
	start, ok1 := pageAddr(base, stride, pages.start)
	end, ok2 := pageAddr(base, stride, pages.end)
	end, carry := bits.Add64(end, length, 0)
	return span{start, end}, ok1 && ok2 && carry == 0
}

func pageAddr(base, stride, page uint64) (addr uint64, ok bool) {
	high, offset := bits.Mul64(stride, page)
	addr, carry := bits.Add64(base, offset, 0)
	return addr, high == 0 && carry == 0
}

// pageRun checks a run of pages of a layer, of which at is the first in the lists.
func (c *checker) pageRun(l *pageLayer, r *run, at place) error {
	if l.dense {
		here, ok1 := reach(l.LocalBase, l.LocalStride, l.Length, span{r.local, r.local + r.length - 1})
		there, ok2 := reach(l.RemoteBase, l.RemoteStride, l.Length, span{r.remote, r.remote + r.length - 1})
		if ok1 && ok2 && c.find(at, here.start, there.start, here.end-here.start) == nil {
			return nil
		}
	}
	for k := range r.length { // to know which page is at fault
		page := k
		if r.region == downwards {
			page = r.length - 1 - k
		}
		if err := c.page(l, r.local+page, r.remote+page, at); err != nil {
			return err
		}
		at.index++
	}
	return nil
}

// page checks one page of a layer.
func (c *checker) page(l *pageLayer, local, remote uint64, at place) error {
	from, ok := pageAddr(l.LocalBase, l.LocalStride, local)
	if !ok {
		return wraps(at, localSide, from, l.Length)
	}
	to, ok := pageAddr(l.RemoteBase, l.RemoteStride, remote)
	if !ok {
		return wraps(at, remoteSide, to, l.Length)
	}
	return c.find(at, from, to, l.Length)
}
