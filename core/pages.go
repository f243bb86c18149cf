package core

import "github.com/pkg/errors"

// PageList is the numbers of pages, of 32 or of 64 bits.
type PageList struct {
	narrow []int32
	wide   []int64
}

// Pages32 views 32-bit page numbers.
func Pages32(pages []int32) PageList { return PageList{narrow: pages} }

// Pages64 views 64-bit page numbers.
func Pages64(pages []int64) PageList { return PageList{wide: pages} }

// Len returns how many pages there are.
func (p PageList) Len() int { return len(p.narrow) + len(p.wide) }

// At returns the number of page i.
func (p PageList) At(i int) int64 {
	if p.narrow != nil {
		return int64(p.narrow[i])
	}
	return p.wide[i]
}

// part is pages from to below to.
func (p PageList) part(from, to int) PageList {
	if p.narrow != nil {
		return PageList{narrow: p.narrow[from:to]}
	}
	return PageList{wide: p.wide[from:to]}
}

// Layer is memory that page numbers count in: of local page p it is the Length bytes at
// LocalBase + p*LocalStride, and of remote page q those at RemoteBase + q*RemoteStride.
// Addresses are absolute, strides and Length are bytes.
type Layer struct {
	LocalBase, RemoteBase     uint64
	LocalStride, RemoteStride uint64
	Length                    uint64
}

// PageGroup is one pair of page lists and the layers that share it: in every layer
// page Local[i] goes with page Remote[i]. It means the block list that has, layer by
// layer, a block for every page.
type PageGroup struct {
	Local, Remote PageList // of one length
	Layers        []Layer
}

// valid checks the shape of group number n of a request.
func (g *PageGroup) valid(n int, op Op) error {
	if g.Local.Len() != g.Remote.Len() {
		return errors.WithMessagef(ErrInvalid, "group %d: the page lists differ in their number of elements: %d local, %d remote",
			n, g.Local.Len(), g.Remote.Len())
	}
	if g.Local.Len() < 2 {
		return nil
	}
	for i := range g.Layers {
		l, which := &g.Layers[i], remoteSide
		stride := l.RemoteStride
		if op == Read {
			stride, which = l.LocalStride, localSide
		}
		if l.Length > stride {
			return errors.WithMessagef(ErrInvalid, "group %d, layer %d: length %d is more than the %s stride %d: pages would overlap where they are written",
				n, i, l.Length, which, stride)
		}
	}
	return nil
}

// negative is the error for a page list with a negative number, which it looks for
// from index first on.
func (g *PageGroup) negative(n, first int) error {
	for i := first; i < g.Local.Len(); i++ {
		if p := g.Local.At(i); p < 0 {
			return errors.WithMessagef(ErrInvalid, "group %d: local page %d of the list is %d: page numbers are 0 or more", n, i, p)
		}
		if p := g.Remote.At(i); p < 0 {
			return errors.WithMessagef(ErrInvalid, "group %d: remote page %d of the list is %d: page numbers are 0 or more", n, i, p)
		}
	}
	return errors.WithMessagef(ErrInvalid, "group %d: a page number was changed during the call", n)
}

// pageLayer is a layer of some pages of a group.
type pageLayer struct {
	Layer
	region int32 // the local memory of all these pages; -1: they lie in several
	dense  bool  // a run of pages is one run of bytes
}

// pagePiece is some pages of a group: their runs, and the layers they apply to.
type pagePiece struct {
	group, first int // which pages: number of the group, index in its lists
	layers       []pageLayer
	runs         pageRuns
}

// newPiece reads pages from to below to of group n, and its layers: once, for the
// caller may change them meanwhile.
func newPiece(g *PageGroup, n, from, to int) (pagePiece, error) {
	p := pagePiece{group: n, first: from, layers: make([]pageLayer, len(g.Layers))}
	for i, l := range g.Layers {
		p.layers[i] = pageLayer{Layer: l, region: -1, dense: l.LocalStride == l.Length && l.RemoteStride == l.Length}
	}
	if !p.runs.find(g.Local.part(from, to), g.Remote.part(from, to)) {
		p.runs.drop()
		return p, g.negative(n, from)
	}
	return p, nil
}

// fuse makes one layer of neighbours that adjoin on both sides: K and V, or all the
// layers of a page where they lie page by page.
func (p *pagePiece) fuse() {
	out := p.layers[:0]
	for _, l := range p.layers {
		if n := len(out); n > 0 && out[n-1].adjoins(&l) {
			f := &out[n-1]
			f.Length += l.Length
			f.dense = f.LocalStride == f.Length && f.RemoteStride == f.Length
			continue
		}
		out = append(out, l)
	}
	p.layers = out
}

// adjoins tells whether every page of m begins where the same page of l ends. Both were
// checked, so that their lengths are together less than an address.
func (l *pageLayer) adjoins(m *pageLayer) bool {
	return l.LocalStride == m.LocalStride && l.RemoteStride == m.RemoteStride &&
		m.LocalBase == l.LocalBase+l.Length && m.RemoteBase == l.RemoteBase+l.Length && l.region == m.region
}

func dropPieces(pieces []pagePiece) {
	for i := range pieces {
		pieces[i].runs.drop()
		pieces[i] = pagePiece{}
	}
}
