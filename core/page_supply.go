package core

// pageSupply makes a batch's runs out of page groups, some at a time when lanes want
// them. So what waits takes memory for runs of pages and for layers, not for every page
// of every layer.
//
// Pieces come one after the other, in each of them layer by layer. All of it was
// checked before, and every local byte is in a region that is pinned.
type pageSupply struct {
	regions spans       // the local memory
	pieces  []pagePiece // to be made into runs; the first is under way
	waiting uint64      // how many that will be, not counting cuts where regions border

	// Where the first piece goes on.
	layer, run int
	page       uint64  // of a run whose pages are runs each
	rest       stretch // of a run that is cut where local regions border

	local, remote uint64 // where the last run ends
	joined        joined
}

// add appends pieces.
func (s *pageSupply) add(pieces []pagePiece) {
	s.pieces = append(s.pieces, pieces...)
	for i := range pieces {
		for k := range pieces[i].layers {
			switch l := &pieces[i].layers[k]; {
			case l.Length == 0:
			case l.dense:
				s.waiting += uint64(pieces[i].runs.n)
			default:
				s.waiting += pieces[i].runs.pages
			}
		}
	}
}

// fill writes the next runs to dst, and returns how many there are.
func (s *pageSupply) fill(dst []run) (n int) {
	defer func() { s.waiting -= min(s.waiting, uint64(n)) }()
	for n < len(dst) && len(s.pieces) > 0 {
		p := &s.pieces[0]
		if s.layer == len(p.layers) {
			s.pass()
			continue
		}
		l := &p.layers[s.layer]
		switch {
		case l.Length == 0:
			s.run = p.runs.n
		case l.region >= 0:
			for ; n < len(dst) && s.run < p.runs.n; n++ {
				s.set(&dst[n], s.stretch(p, l), l.region)
			}
		default:
			n += s.cut(dst[n:], p, l)
		}
		if s.run == p.runs.n && s.rest.length == 0 {
			s.layer, s.run = s.layer+1, 0
		}
	}
	return n
}

// set makes a run that follows the last one.
func (s *pageSupply) set(r *run, x stretch, region int32) {
	how := joining(x.local-s.local, x.remote-s.remote)
	r.set(x, region, how)
	if how != 0 {
		s.joined[how&joinsBoth]++
	}
	s.local, s.remote = x.local+x.length, x.remote+x.length
}

// stretch is the next run of a layer, wherever local regions border.
func (s *pageSupply) stretch(p *pagePiece, l *pageLayer) stretch {
	r := p.runs.at(s.run)
	x := stretch{l.LocalBase + (r.local+s.page)*l.LocalStride, l.RemoteBase + (r.remote+s.page)*l.RemoteStride, l.Length}
	if l.dense {
		x.length *= r.length
		s.run++
		return x
	}
	if s.page++; s.page == r.length {
		s.page, s.run = 0, s.run+1
	}
	return x
}

// cut writes runs of a layer that lies in several local regions.
func (s *pageSupply) cut(dst []run, p *pagePiece, l *pageLayer) (n int) {
	hint := -1
	for ; n < len(dst); n++ {
		if s.rest.length == 0 {
			if s.run == p.runs.n {
				break
			}
			s.rest = s.stretch(p, l)
		}
		hint = s.regions.seek(s.rest.local, hint)
		k := min(s.rest.length, s.regions[hint].end-s.rest.local)
		s.set(&dst[n], stretch{s.rest.local, s.rest.remote, k}, int32(hint))
		s.rest = stretch{s.rest.local + k, s.rest.remote + k, s.rest.length - k}
	}
	return n
}

// pass goes on to the next piece.
func (s *pageSupply) pass() {
	dropPieces(s.pieces[:1])
	s.pieces = s.pieces[1:]
	s.layer, s.run = 0, 0
}

// drop gives up what is not made into runs yet.
func (s *pageSupply) drop() {
	dropPieces(s.pieces)
	*s = pageSupply{regions: s.regions}
}
