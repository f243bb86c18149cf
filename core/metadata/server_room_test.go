package metadata

import (
	"bytes"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

func TestServerMakesRoom(t *testing.T) {
	// What the flood sends before it falls silent.
	floods := map[string][]byte{
		"idle":          nil,
		"half a length": {9, 0, 0},
		"half a body":   AppendFrame(nil, TypeMetadata, []byte("{}    "))[:12],
		"no close":      AppendFrame(nil, TypeProbe, []byte("{}")),
		"no reading":    AppendFrame(nil, TypeMetadata, []byte("{}")),
	}
	large := bytes.Repeat([]byte(" "), 8<<20)
	for what, sent := range floods {
		t.Run(what, func(t *testing.T) {
			server, name := serveOn(t, ServerConfig{MaxConns: 8, RequestTimeout: time.Hour, ReplyTimeout: time.Hour},
				Handlers{Metadata: func() []byte { return large }})
			var flood []net.Conn
			for range 40 {
				conn := dialRaw(t, name)
				conn.Write(sent) // may fail: the server may have closed it by now
				flood = append(flood, conn)
			}
			eventually(t, "the server is full", func() bool { return connections(server) == 8 })
			// While handlers run for all of them a new one is refused. They do not for long.
			eventually(t, "a probe gets through", func() bool { return (&Client{}).Probe(testContext(t), name) == nil })
			began := time.Now()
			for range 20 {
				must(t, (&Client{}).Probe(testContext(t), name))
			}
			if took := time.Since(began) / 20; took > time.Second {
				t.Errorf("a probe takes %v during the flood", took)
			}
			if n := connections(server); n > 8 {
				t.Errorf("%d connections, the limit is 8", n)
			}
			// The oldest have gone.
			_, err := io.Copy(io.Discard, flood[0])
			var network net.Error
			if errors.As(err, &network) && network.Timeout() {
				t.Error("the oldest connection is still open")
			}
		})
	}
}

func TestServerGivesUpTheHarmlessFirst(t *testing.T) {
	conn := func(p phase, began uint64) *serverConn { return &serverConn{phase: p, began: began} }
	order := []*serverConn{conn(closing, 5), conn(closing, 9), conn(reading, 1), conn(reading, 2), conn(replying, 0)}
	for i, a := range order {
		for j, b := range order {
			if a.before(b) != (i < j) {
				t.Errorf("%d before %d: %v", i, j, a.before(b))
			}
		}
	}
}

func TestServerFullOfHandlers(t *testing.T) {
	release, entered := make(chan struct{}), make(chan struct{}, 2)
	_, name := serveOn(t, ServerConfig{MaxConns: 2}, Handlers{Probe: func() error {
		entered <- struct{}{}
		<-release
		return nil
	}})
	results := make(chan error, 2)
	for range 2 {
		go func() { results <- (&Client{}).Probe(testContext(t), name) }()
		<-entered
	}
	wantClosed(t, dialRaw(t, name)) // nobody whose handler runs is given up
	close(release)
	for range 2 {
		must(t, <-results)
	}
	must(t, (&Client{}).Probe(testContext(t), name))
}

func TestServerManyClients(t *testing.T) {
	box := NewMailbox(0, 0)
	_, name := serveOn(t, ServerConfig{}, Handlers{Metadata: func() []byte { return []byte(upstreamTCP) }, Notify: box.Put})
	var group sync.WaitGroup
	for range 32 {
		group.Go(func() {
			for range 4 {
				d, err := (&Client{}).Fetch(testContext(t), name)
				if err != nil || d.Name != "127.0.0.1:16285" {
					t.Errorf("%+v, %v", d, err)
				}
				if err := (&Client{}).Notify(testContext(t), name, Notification{"a", "b"}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	if box.Len() != 32*4 {
		t.Errorf("%d notifications, want %d", box.Len(), 32*4)
	}
}
