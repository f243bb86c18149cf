//go:build cgo

package core

import (
	"slices"
	"unsafe"

	"mooncake/rdma"
)

// Most runs go to the lane as they lie in the batch's slab: C gives each the keys of its
// local region's area, and copies it once. What does not fit in there is made pieces of by
// cut.

// rdmaAreas are where runs may lie to be given to a lane as they are: for each local region
// the ranges on both sides that its last run lay in.
type rdmaAreas struct {
	list    []rdma.Area
	regions []*Memory
	keys    *remoteKeys
	hint    int
}

// of makes the areas those of a batch's regions and the peer's keys. What is known of
// others is forgotten.
func (a *rdmaAreas) of(regions []*Memory, keys *remoteKeys) {
	same := unsafe.SliceData(a.regions) == unsafe.SliceData(regions) && len(a.regions) == len(regions)
	if same && a.keys == keys {
		return
	}
	a.regions, a.keys, a.hint = regions, keys, -1
	a.list = slices.Grow(a.list[:0], len(regions))[:len(regions)]
	clear(a.list)
}

// learn makes a run's area its region's; false: it lies in more than one, or in none.
func (a *rdmaAreas) learn(r *run) bool {
	own, start := a.regions[r.region].key(r.local)
	a.hint = a.keys.spans.seek(r.remote, a.hint)
	if own == nil || a.hint < 0 {
		return false
	}
	mine, theirs := span{start, own.end}, a.keys.spans[a.hint]
	a.list[r.region] = rdma.Area{Local: start, LocalSize: own.end - start, Remote: theirs.start,
		RemoteSize: theirs.end - theirs.start, LKey: own.lkey, RKey: a.keys.rkeys[a.hint]}
	return mine.holds(r.local, r.length) && theirs.holds(r.remote, r.length)
}

// learnings is how many runs of one feeding may lie in another area than the one before of
// their region. Where many do, they are cut: a call for each would cost more.
const learnings = 4

// feedRuns gives whole runs to a lane: at most one feeding. more: the posting has more to
// give; room: the lane took all that it was given; some: the next may be given in this
// way. path.mu is held.
func (po *rdmaPosting) feedRuns(l *rdmaLane) (more, room, some bool) {
	runs, rest := po.work.whole(feedPieces)
	if len(runs) == 0 {
		return true, true, false
	}
	areas, bytes := &po.path.areas, uint64(feedBytes)
	areas.of(po.work.regions, po.path.remoteKeys(l.device))
	last := po.sealed && !rest
	for tries := 0; ; tries++ {
		n, moved, full := l.FeedRuns(po.ticket, po.class(), asRuns(runs), areas.list,
			rdma.RunLimits{Longest: maxSlice, Bytes: bytes, Seal: last})
		po.work.took(n, moved)
		switch {
		case n == len(runs):
			po.shut = last
			if !last && po.sealed && po.work.left.Load() == 0 { // page groups end unforeseen
				po.ticket.Seal()
				po.shut = true
			}
			return po.waiting(), true, true
		case full:
			return true, false, true
		case moved >= bytes:
			return true, true, true
		case tries == learnings:
			return true, true, false
		case runs[n].length > maxSlice || !areas.learn(&runs[n]):
			return true, true, tries > 0 || n > 0
		}
		runs, bytes = runs[n:], bytes-moved
	}
}

// asRuns is the same memory under the name that package rdma has for it.
func asRuns(runs []run) []rdma.Run {
	return unsafe.Slice((*rdma.Run)(unsafe.Pointer(unsafe.SliceData(runs))), len(runs))
}

// It has the same fields in the same places.
var (
	_ [unsafe.Sizeof(run{})]byte          = [unsafe.Sizeof(rdma.Run{})]byte{}
	_ [unsafe.Offsetof(run{}.length)]byte = [unsafe.Offsetof(rdma.Run{}.Length)]byte{}
	_ [unsafe.Offsetof(run{}.region)]byte = [unsafe.Offsetof(rdma.Run{}.Area)]byte{}
	_ [unsafe.Offsetof(run{}.joins)]byte  = [unsafe.Offsetof(rdma.Run{}.Joins)]byte{}
)
