package core

import "math"

// pageRuns are the stretches of a pair of page lists in which both numbers go up by
// one, or both down by one, from each page to the next. Found once, they hold for every
// layer.
type pageRuns struct {
	slabs []*slab // a run's local and remote are its lowest page numbers, length its pages
	n     int     // runs
	pages uint64

	local, remote span // lowest and highest page numbers
}

// Of a run of pages, what is elsewhere its local memory: which way the lists go.
const (
	upwards   = 1
	downwards = -1
)

func (p *pageRuns) at(i int) *run { return &p.slabs[i/slabRuns][uint(i)%slabRuns] }

// find reads two lists of equal length; false: there is a negative number.
func (p *pageRuns) find(local, remote PageList) bool {
	none := span{math.MaxUint64, 0}
	p.local, p.remote, p.pages = none, none, uint64(local.Len())
	switch {
	case local.narrow != nil && remote.narrow != nil:
		findRuns(p, local.narrow, remote.narrow)
	case local.narrow != nil:
		findRuns(p, local.narrow, remote.wide)
	case remote.narrow != nil:
		findRuns(p, local.wide, remote.narrow)
	default:
		findRuns(p, local.wide, remote.wide)
	}
	// A negative number is higher than all others when it is taken for unsigned.
	return p.pages == 0 || p.local.end <= math.MaxInt64 && p.remote.end <= math.MaxInt64
}

func findRuns[L, R int32 | int64](p *pageRuns, local []L, remote []R) {
	if len(local) == 0 {
		return
	}
	remote = remote[:len(local)]
	l, r := int64(local[0]), int64(remote[0])
	begin, step := 0, int64(0) // of the run: index of its first page, and which way it goes
	for i := 1; i < len(local); i++ {
		a, b := int64(local[i]), int64(remote[i])
		d := a - l
		if (d == upwards || d == downwards) && d == b-r && (step == 0 || d == step) {
			step = d
		} else {
			p.add(l, r, uint64(i-begin), step)
			begin, step = i, 0
		}
		l, r = a, b
	}
	p.add(l, r, uint64(len(local)-begin), step)
}

// add keeps a run that ends at local and remote.
func (p *pageRuns) add(local, remote int64, pages uint64, step int64) {
	x := run{local: uint64(local), remote: uint64(remote), length: pages, region: downwards}
	if step != downwards {
		x.local, x.remote, x.region = x.local-pages+1, x.remote-pages+1, upwards
	}
	// The highest of both ends: of a run from -1 to 0 it is the lower one.
	p.local.start, p.local.end = min(p.local.start, x.local), max(p.local.end, x.local, x.local+pages-1)
	p.remote.start, p.remote.end = min(p.remote.start, x.remote), max(p.remote.end, x.remote, x.remote+pages-1)
	if p.n == len(p.slabs)*slabRuns {
		p.slabs = append(p.slabs, slabs.Get().(*slab))
	}
	*p.at(p.n) = x
	p.n++
}

// drop gives the memory back.
func (p *pageRuns) drop() {
	for _, s := range p.slabs {
		slabs.Put(s)
	}
	*p = pageRuns{}
}
