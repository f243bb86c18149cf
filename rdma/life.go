package rdma

import (
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/pkg/errors"
)

// A life is what every object has: what it was made from, what was made from it, and
// who is using it now. From that follow the order of closing, and that nobody uses what
// verbs has freed. An object exists from before verbs makes it until after verbs has
// destroyed it, so what it is made from cannot vanish meanwhile.
type life struct {
	// All guarded by tree.
	label    func() string
	parents  []*life
	children int
	users    int // calls in progress
	state    lifeState
}

type lifeState int

const (
	lifeOpen lifeState = iota
	lifeClosing
	lifeClosed
)

// tree has all objects that are open. It is held for looking and marking, never across
// a call into verbs.
var tree = struct {
	sync.Mutex
	open    map[*life]struct{}
	changed *sync.Cond // an object that is being closed has fewer users, or was closed
}{open: map[*life]struct{}{}}

func init() { tree.changed = sync.NewCond(&tree.Mutex) }

// OpenObjects names the verbs objects that were not closed, sorted: for tests that
// look for leaks.
func OpenObjects() []string {
	tree.Lock()
	defer tree.Unlock()
	names := make([]string, 0, len(tree.open))
	for l := range tree.open {
		names = append(names, l.label())
	}
	slices.Sort(names)
	return names
}

// begin makes l an open child of parents; it fails when one of them is closed. Either
// verbs makes the object then, or end is called.
func (l *life) begin(label func() string, parents ...*life) error {
	tree.Lock()
	defer tree.Unlock()
	for _, parent := range parents {
		if err := parent.checkOpen(); err != nil {
			return errors.WithMessage(err, "make "+label())
		}
	}
	for _, parent := range parents {
		parent.children++
	}
	l.label, l.parents = label, parents
	tree.open[l] = struct{}{}
	return nil
}

// rename gives the object the name it has once it was made.
func (l *life) rename(label func() string) {
	tree.Lock()
	defer tree.Unlock()
	l.label = label
}

func (l *life) end() {
	tree.Lock()
	defer tree.Unlock()
	l.bury()
}

// bury needs tree.
func (l *life) bury() {
	l.state = lifeClosed
	delete(tree.open, l)
	for _, parent := range l.parents {
		parent.children--
	}
	tree.changed.Broadcast()
}

// checkOpen needs tree. An object that was never begun is not open either.
func (l *life) checkOpen() error {
	if _, open := tree.open[l]; open && l.state == lifeOpen {
		return nil
	}
	if l.label == nil {
		return errors.WithStack(ErrClosed)
	}
	return errors.WithMessage(ErrClosed, l.label())
}

// use keeps the object from being closed until leave.
func (l *life) use() error {
	tree.Lock()
	defer tree.Unlock()
	if err := l.checkOpen(); err != nil {
		return err
	}
	l.users++
	return nil
}

func (l *life) leave() {
	tree.Lock()
	defer tree.Unlock()
	l.users--
	if l.state == lifeClosing {
		tree.changed.Broadcast()
	}
}

// close runs destroy once nobody uses the object. wake, which may be nil, makes those
// leave who would stay. Closing a closed object does nothing; closing one that is being
// closed waits for that. The object stays open when it has children, and when destroy
// fails.
func (l *life) close(wake func(), destroy func() error) error {
	tree.Lock()
	for l.state == lifeClosing {
		tree.changed.Wait()
	}
	if _, open := tree.open[l]; !open {
		tree.Unlock()
		return nil
	}
	if l.children > 0 {
		defer tree.Unlock()
		return errors.WithMessagef(ErrInUse, "close %s: open are %s", l.label(), l.heirs())
	}
	l.state = lifeClosing
	if wake != nil {
		wake()
	}
	for l.users > 0 {
		tree.changed.Wait()
	}
	tree.Unlock()

	err := destroy()

	tree.Lock()
	defer tree.Unlock()
	if err != nil {
		l.state = lifeOpen
		tree.changed.Broadcast()
		return err
	}
	l.bury()
	return nil
}

// heirs names some of the children; it needs tree.
func (l *life) heirs() string {
	const most = 8
	var names []string
	for child := range tree.open {
		if slices.Contains(child.parents, l) {
			names = append(names, child.label())
		}
	}
	slices.Sort(names)
	if more := len(names) - most; more > 0 {
		return strings.Join(names[:most], ", ") + fmt.Sprintf(" and %d more", more)
	}
	return strings.Join(names, ", ")
}
