package core

// maxSlice bounds one slice: long runs are cut so that every lane has work, and
// so that what is in flight when a batch must end is little.
const maxSlice = 1 << 20

// slice is a part of a run that goes over one lane as one request. A run that is short
// enough is one as it is, so the two have the same fields.
type slice struct {
	local, remote, length uint64
	region                int32
	joins                 joins // of its run; a slice of a run that is not the first joins on both sides
}

// cut takes the next slice off a run, offset bytes into it. A slice does not cross
// a border between the peer's ranges: a peer may demand that a request lies in one
// of them. Where the peer's ranges no longer hold the address, the peer decides.
func (r *run) cut(offset uint64, remote spans, hint int) (s slice, nextHint int) {
	s = slice{local: r.local + offset, remote: r.remote + offset, region: r.region, joins: r.joins}
	if offset > 0 {
		s.joins = joinsBoth
	}
	s.length = min(r.length-offset, maxSlice)
	hint = remote.seek(s.remote, hint)
	if hint >= 0 {
		s.length = min(s.length, remote[hint].end-s.remote)
	}
	return s, hint
}
