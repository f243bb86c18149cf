package core

// SubmitPages starts to move the pages of groups between local memory and the segment,
// and returns without waiting for them: as Submit does with the block list that the groups
// mean, at a cost of the page lists and the layers instead of one of every page of every layer.
//
// Groups leave one after the other, and each layer by layer. With at most checkedTogether
// pages in all groups together everything is checked before the first byte moves. More
// are checked and moved piece by piece, so many pages at a time, each in all of its
// layers. Where a layer's length is less than a stride (head slices), or the strides
// differ, each page is a run of its own. Length may exceed the source's stride, so that
// pages overlap there, but not the destination's, unless there is one page only. On error
// nothing of the call moves any more. The slices of groups are read during the call only.
// Blocks as Submit does.
func (s *Segment) SubmitPages(op Op, groups []PageGroup, opts Options) (*Batch, error) {
	b, err := s.batch(op, opts)
	if err != nil {
		return nil, err
	}
	for i := range groups {
		if err := groups[i].valid(i, op); err != nil {
			return nil, err
		}
	}
	defer b.discardOnPanic()
	b.intake.mu.Lock()
	defer b.intake.mu.Unlock()
	return b.taken(b.takePages(groups))
}

// takePages checks and posts groups, checkedTogether pages at a time.
func (b *Batch) takePages(groups []PageGroup) error {
	left := 0
	for i := range groups {
		left += groups[i].Local.Len()
	}
	if left == 0 {
		return b.takePieces(nil, true)
	}
	var pieces []pagePiece
	room := checkedTogether
	for i := range groups {
		count := groups[i].Local.Len()
		for from, n := 0, 0; from < count; from += n {
			n = min(count-from, room)
			piece, err := newPiece(&groups[i], i, from, from+n)
			if err != nil {
				dropPieces(pieces)
				return err
			}
			pieces = append(pieces, piece)
			room, left = room-n, left-n
			if room > 0 && left > 0 {
				continue
			}
			if err := b.takePieces(pieces, left == 0); err != nil {
				return err
			}
			if b.posting != nil && b.ending() {
				return nil
			}
			pieces, room = pieces[:0], checkedTogether
		}
	}
	return nil
}

// takePieces checks pieces and hands them over; last: no more will come.
func (b *Batch) takePieces(pieces []pagePiece, last bool) error {
	bytes, err := b.inspectPages(pieces)
	if err != nil {
		dropPieces(pieces)
		if err == errEnded {
			return nil
		}
		return err
	}
	var blocks uint64
	for i := range pieces {
		blocks += pieces[i].runs.pages * uint64(len(pieces[i].layers))
		pieces[i].fuse()
	}
	if err := b.grow(blocks, bytes); err != nil || b.posting == nil {
		dropPieces(pieces)
		return err
	}
	b.work.supply(pieces, bytes)
	if last {
		b.seal()
	} else {
		b.posting.push()
	}
	return nil
}

// inspectPages checks pieces on both sides.
func (b *Batch) inspectPages(pieces []pagePiece) (bytes uint64, err error) {
	begins := b.posting == nil
	for asked := false; ; asked = true {
		bytes, err = b.intake.check.allPages(pieces)
		if again, err := b.consult(err, asked, begins); !again {
			return bytes, err
		}
	}
}
