package metadata

import "sync"

// Bounds of a mailbox that NewMailbox sets unless told otherwise.
const (
	DefaultMailboxMessages = 65536
	DefaultMailboxBytes    = 64 << 20
)

// Mailbox keeps notifications in the order of their arrival until somebody takes
// them. It is bounded, because anybody on the network can fill it. Safe for
// concurrent use; nothing blocks.
type Mailbox struct {
	maxMessages, maxBytes int

	mu    sync.Mutex // guards what follows
	queue []Notification
	head  int // queue[head] is the oldest; the slots before it are spent
	bytes int // text in queue[head:]
}

// NewMailbox makes an empty mailbox that holds at most so many messages, and so
// many bytes of text; 0 stands for the default.
func NewMailbox(maxMessages, maxBytes int) *Mailbox {
	if maxMessages == 0 {
		maxMessages = DefaultMailboxMessages
	}
	if maxBytes == 0 {
		maxBytes = DefaultMailboxBytes
	}
	return &Mailbox{maxMessages: maxMessages, maxBytes: maxBytes}
}

// Put adds n as the newest. It is ErrMailboxFull if n goes beyond a bound.
func (m *Mailbox) Put(n Notification) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	count, size := len(m.queue)-m.head, len(n.Name)+len(n.Message)
	if count >= m.maxMessages {
		return failf(ErrMailboxFull, "%d notifications wait to be taken", count)
	}
	if size > m.maxBytes-m.bytes {
		return failf(ErrMailboxFull, "%d bytes of notifications wait to be taken, and %d more exceed %d", m.bytes, size, m.maxBytes)
	}
	m.queue = append(m.queue, n)
	m.bytes += size
	return nil
}

// Take removes and returns the oldest; false if there is none.
func (m *Mailbox) Take() (Notification, bool) {
	n, _, taken := m.TakeIf(func(Notification) bool { return true })
	return n, taken
}

// TakeIf returns the oldest, and removes it if fits says so. present is false if
// there is none. fits must not call the mailbox.
func (m *Mailbox) TakeIf(fits func(Notification) bool) (n Notification, present, taken bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.head == len(m.queue) {
		return Notification{}, false, false
	}
	n = m.queue[m.head]
	if !fits(n) {
		return n, true, false
	}
	m.bytes -= len(n.Name) + len(n.Message)
	m.queue[m.head] = Notification{} // lets the collector have the text
	m.head++
	m.compact()
	return n, true, true
}

// Len is how many notifications wait.
func (m *Mailbox) Len() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.queue) - m.head
}

// compact drops the spent slots once they are half of the queue, so that each
// message is moved at most once on average.
func (m *Mailbox) compact() {
	if 2*m.head < len(m.queue) {
		return
	}
	kept := copy(m.queue, m.queue[m.head:])
	clear(m.queue[kept:])
	m.queue, m.head = m.queue[:kept], 0
	if kept == 0 {
		m.queue = nil // a burst's memory does not stay
	}
}
