package metadata

import (
	"strconv"
	"sync"
	"testing"
)

func TestMailboxOrder(t *testing.T) {
	m := NewMailbox(0, 0)
	if _, ok := m.Take(); ok {
		t.Error("an empty mailbox gave something")
	}
	next, put := 0, 0
	for round := range 300 { // grows and shrinks, so that slots are reused
		for range round % 7 {
			must(t, m.Put(Notification{Message: strconv.Itoa(put)}))
			put++
		}
		for range round % 5 {
			n, ok := m.Take()
			if ok != (next < put) {
				t.Fatalf("took %v with %d of %d taken", ok, next, put)
			}
			if ok && n.Message != strconv.Itoa(next) {
				t.Fatalf("took %s, want %d", n.Message, next)
			}
			if ok {
				next++
			}
		}
		if m.Len() != put-next {
			t.Fatalf("length %d, want %d", m.Len(), put-next)
		}
	}
}

func TestMailboxBounds(t *testing.T) {
	m := NewMailbox(2, 10)
	must(t, m.Put(Notification{"ab", "cd"}))
	err := m.Put(Notification{"abc", "defg"})
	wantKind(t, err, ErrMailboxFull)
	wantText(t, err, "bytes")
	must(t, m.Put(Notification{"abc", "def"}))
	err = m.Put(Notification{})
	wantKind(t, err, ErrMailboxFull)
	wantText(t, err, "2 notifications")
	m.Take()
	must(t, m.Put(Notification{"", "wxyz"})) // taking gives room back
	for range 2 {
		if _, ok := m.Take(); !ok {
			t.Error("lost one")
		}
	}
	if m.bytes != 0 || m.queue != nil {
		t.Errorf("empty, but holds %d bytes in %d slots", m.bytes, len(m.queue))
	}
}

func TestMailboxTakeIf(t *testing.T) {
	m := NewMailbox(0, 0)
	never := func(Notification) bool { return false }
	if _, present, _ := m.TakeIf(never); present {
		t.Error("an empty mailbox has something")
	}
	must(t, m.Put(Notification{"a", "long message"}))
	must(t, m.Put(Notification{"b", "m"}))
	n, present, taken := m.TakeIf(func(n Notification) bool { return len(n.Message) < 5 })
	if n.Name != "a" || !present || taken || m.Len() != 2 {
		t.Errorf("too small a buffer: %+v %v %v", n, present, taken)
	}
	n, present, taken = m.TakeIf(func(n Notification) bool { return len(n.Message) < 50 })
	if n.Name != "a" || !present || !taken || m.Len() != 1 {
		t.Errorf("large buffer: %+v %v %v", n, present, taken)
	}
}

func TestMailboxConcurrent(t *testing.T) {
	const senders, each = 4, 500
	m := NewMailbox(64, 0)
	var group sync.WaitGroup
	for sender := range senders {
		group.Go(func() {
			for i := range each {
				for m.Put(Notification{strconv.Itoa(sender), strconv.Itoa(i)}) != nil {
				}
			}
		})
	}
	next := map[string]int{}
	for got := 0; got < senders*each; {
		n, ok := m.Take()
		if !ok {
			continue
		}
		if n.Message != strconv.Itoa(next[n.Name]) {
			t.Fatalf("sender %s: %s, want %d", n.Name, n.Message, next[n.Name])
		}
		next[n.Name]++
		got++
	}
	group.Wait()
}
