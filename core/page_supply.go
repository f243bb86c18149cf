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

	// Where the first piece goes on.
	layer, run int
	page       uint64 // of a run whose pages are runs each
	rest       run    // of a run that is cut where local regions border
}

// fill writes the next runs to dst, and returns how many there are.
func (s *pageSupply) fill(dst []run) (n int) {
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
				dst[n] = s.stretch(p, l)
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

// stretch is the next run of a layer, wherever local regions border.
func (s *pageSupply) stretch(p *pagePiece, l *pageLayer) run {
	r := p.runs.at(s.run)
	x := run{l.LocalBase + (r.local+s.page)*l.LocalStride, l.RemoteBase + (r.remote+s.page)*l.RemoteStride, l.Length, l.region}
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
	for n < len(dst) {
		if s.rest.length == 0 {
			if s.run == p.runs.n {
				break
			}
			s.rest = s.stretch(p, l)
		}
		hint = s.regions.seek(s.rest.local, hint)
		k := min(s.rest.length, s.regions[hint].end-s.rest.local)
		dst[n] = run{s.rest.local, s.rest.remote, k, int32(hint)}
		s.rest.local, s.rest.remote, s.rest.length = s.rest.local+k, s.rest.remote+k, s.rest.length-k
		n++
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
