package pagealloc

import "math/rand/v2"

// tree is a set of runs in the order of less: a treap, so that every operation
// takes O(log n) expected steps whatever the order of insertions.
type tree struct {
	less func(a, b Run) bool
	root *node
	rng  *rand.PCG
	size int
}

type node struct {
	run         Run
	priority    uint64 // no child has a higher one
	left, right *node
}

// The seed is fixed: the shape of the tree is then the same in every process,
// and a pool's behaviour never depends on it.
func newTree(less func(a, b Run) bool) *tree {
	return &tree{less: less, rng: rand.NewPCG(1, 2)}
}

// cut parts n into the runs before key and the others.
func (t *tree) cut(n *node, key Run) (before, rest *node) {
	if n == nil {
		return nil, nil
	}
	if t.less(n.run, key) {
		n.right, rest = t.cut(n.right, key)
		return n, rest
	}
	before, n.left = t.cut(n.left, key)
	return before, n
}

// join puts together two trees of which every run of a comes before every one of b.
func join(a, b *node) *node {
	switch {
	case a == nil:
		return b
	case b == nil:
		return a
	case a.priority >= b.priority:
		a.right = join(a.right, b)
		return a
	default:
		b.left = join(a, b.left)
		return b
	}
}

// insert adds run, which must not be in the set.
func (t *tree) insert(run Run) {
	added := &node{run: run, priority: t.rng.Uint64()}
	before, rest := t.cut(t.root, run)
	t.root = join(join(before, added), rest)
	t.size++
}

// remove takes run out; it must be in the set.
func (t *tree) remove(run Run) {
	at := &t.root
	for (*at).run != run {
		if t.less(run, (*at).run) {
			at = &(*at).left
		} else {
			at = &(*at).right
		}
	}
	*at = join((*at).left, (*at).right)
	t.size--
}

// atLeast finds the first run that does not come before key.
func (t *tree) atLeast(key Run) (found Run, ok bool) {
	for n := t.root; n != nil; {
		if t.less(n.run, key) {
			n = n.right
		} else {
			found, ok = n.run, true
			n = n.left
		}
	}
	return found, ok
}

// atMost finds the last run that does not come after key.
func (t *tree) atMost(key Run) (found Run, ok bool) {
	for n := t.root; n != nil; {
		if t.less(key, n.run) {
			n = n.left
		} else {
			found, ok = n.run, true
			n = n.right
		}
	}
	return found, ok
}

// last finds the last run of the set.
func (t *tree) last() (Run, bool) {
	n := t.root
	if n == nil {
		return Run{}, false
	}
	for n.right != nil {
		n = n.right
	}
	return n.run, true
}
