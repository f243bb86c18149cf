package pagealloc

// order is what a tree sorts spans by.
type order uint8

const (
	// byAddress has the spans of requests, lowest page first.
	byAddress order = iota
	// byOpen has the gaps of which pages are not set aside, those with fewest of them
	// first, then by address: the first one at or after {n, 0} is the best fit for n.
	byOpen
	// byCount has all gaps, the shortest first, then by address. It may know a gap by
	// an older count.
	byCount
)

// tree is a set of spans: a treap, so that every operation takes O(log n) expected
// steps whatever the order of insertions. A span's first page and key may change while
// it is in the tree as long as no two spans change places.
type tree struct {
	*arena
	order order
	child int // where in links the children are
	root  int32
}

func (t *tree) key(s *span) uint64 {
	switch t.order {
	case byOpen:
		return s.open()
	case byCount:
		return s.filed
	}
	return 0
}

// less tells whether span i comes before a span with this key and first page.
func (t *tree) less(i int32, key, first uint64) bool {
	s := &t.spans[i]
	k := t.key(s)
	return k < key || k == key && s.First < first
}

func (t *tree) left(i int32) *int32  { return &t.spans[i].links[t.child] }
func (t *tree) right(i int32) *int32 { return &t.spans[i].links[t.child+1] }

// cut parts the spans below n into those before a key and the others.
func (t *tree) cut(n int32, key, first uint64) (less, rest int32) {
	if n == none {
		return none, none
	}
	if t.less(n, key, first) {
		*t.right(n), rest = t.cut(*t.right(n), key, first)
		return n, rest
	}
	less, *t.left(n) = t.cut(*t.left(n), key, first)
	return less, n
}

// join puts together two trees of which every span of a comes before every one of b.
func (t *tree) join(a, b int32) int32 {
	switch {
	case a == none:
		return b
	case b == none:
		return a
	case t.spans[a].priority >= t.spans[b].priority:
		*t.right(a) = t.join(*t.right(a), b)
		return a
	default:
		*t.left(b) = t.join(a, *t.left(b))
		return b
	}
}

// insert adds span i, which must not be in the set.
func (t *tree) insert(i int32) {
	s := &t.spans[i]
	key, first := t.key(s), s.First
	at := &t.root
	for *at != none && t.spans[*at].priority >= s.priority {
		if t.less(*at, key, first) {
			at = t.right(*at)
		} else {
			at = t.left(*at)
		}
	}
	less, rest := t.cut(*at, key, first)
	*t.left(i), *t.right(i) = less, rest
	*at = i
}

// remove takes span i out; it must be in the set.
func (t *tree) remove(i int32) {
	s := &t.spans[i]
	key, first := t.key(s), s.First
	at := &t.root
	for *at != i {
		if t.less(*at, key, first) {
			at = t.right(*at)
		} else {
			at = t.left(*at)
		}
	}
	*at = t.join(*t.left(i), *t.right(i))
}

// atLeast finds the first span that does not come before the key; 0 if there is none.
func (t *tree) atLeast(key, first uint64) int32 {
	found := int32(none)
	for n := t.root; n != none; {
		if t.less(n, key, first) {
			n = *t.right(n)
		} else {
			found = n
			n = *t.left(n)
		}
	}
	return found
}

// holding finds the last span of byAddress that begins at or before page; 0 if there is none.
func (t *tree) holding(page uint64) int32 {
	found := int32(none)
	for n := t.root; n != none; {
		if t.spans[n].First > page {
			n = *t.left(n)
		} else {
			found = n
			n = *t.right(n)
		}
	}
	return found
}

// longest finds, in a tree by length, the lowest of the longest spans; 0 if there is none.
func (t *tree) longest() int32 {
	n := t.root
	if n == none {
		return none
	}
	for *t.right(n) != none {
		n = *t.right(n)
	}
	return t.atLeast(t.key(&t.spans[n]), 0)
}
