//go:build cgo

package core

import (
	"slices"

	"mooncake/rdma"
)

// keyed is where the last slice lay: ranges on both sides, each with one key. Most slices
// lie where the one before did, and cost no more than to see that.
type keyed struct {
	region       int32
	mine, theirs span
	lkey, rkey   uint32
}

// cut makes the path's pieces of slices; nil: the peer has memory of one registered no
// more, and the posting has failed. path.mu is held.
func (po *rdmaPosting) cut(list []slice, keys *remoteKeys) []rdma.Piece {
	p := po.path
	at := keyed{region: -1}
	pieces := slices.Grow(p.pieces, len(list))
	for i := range list {
		s := &list[i]
		if s.region == at.region && at.mine.holds(s.local, s.length) && at.theirs.holds(s.remote, s.length) {
			pieces = append(pieces, rdma.Piece{Local: s.local, Remote: s.remote, Length: uint32(s.length), LKey: at.lkey,
				RKey: at.rkey, Joins: rdma.Joins(s.joins), User: uint32(s.region)})
			continue
		}
		if pieces = po.cutOne(pieces, *s, keys, &at); pieces == nil {
			return nil
		}
	}
	p.pieces = pieces
	return pieces
}

// cutOne appends a slice, cut where a key ends on either side, and remembers where its end
// lies. nil: the posting has failed.
func (po *rdmaPosting) cutOne(pieces []rdma.Piece, s slice, keys *remoteKeys, at *keyed) []rdma.Piece {
	p := po.path
	memory := po.work.regions[s.region]
	joins := rdma.Joins(s.joins)
	for s.length > 0 {
		own, start := memory.key(s.local)
		p.hint = keys.spans.seek(s.remote, p.hint)
		if own == nil || p.hint < 0 {
			po.gone(s.remote, s.length)
			return nil
		}
		*at = keyed{region: s.region, mine: span{start, own.end}, theirs: keys.spans[p.hint], lkey: own.lkey, rkey: keys.rkeys[p.hint]}
		n := min(s.length, at.mine.end-s.local, at.theirs.end-s.remote)
		pieces = append(pieces, rdma.Piece{Local: s.local, Remote: s.remote, Length: uint32(n), LKey: at.lkey,
			RKey: at.rkey, Joins: joins, User: uint32(s.region)})
		s.local, s.remote, s.length, joins = s.local+n, s.remote+n, s.length-n, rdma.Joins(joinsBoth)
	}
	return pieces
}
