package metadata

import (
	"context"
	"errors"
	"io"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"
)

// patience bounds what must happen; nothing here waits so long when all is well.
const patience = 10 * time.Second

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantKind(t testing.TB, err, kind error) {
	t.Helper()
	if !errors.Is(err, kind) {
		t.Fatalf("error %v, want one of kind %q", err, kind)
	}
}

func wantText(t testing.TB, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want one with %q", parts)
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Fatalf("error %q does not say %q", err, part)
		}
	}
}

func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

func loopback(t testing.TB) net.Listener {
	t.Helper()
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { listener.Close() })
	return listener
}

// nameOf is the name that clients use for what listens.
func nameOf(listener net.Listener) string {
	return "127.0.0.1:" + strconv.Itoa(int(PortOf(listener)))
}

// serveOn starts a server on loopback; its end is part of the test.
func serveOn(t testing.TB, config ServerConfig, handlers Handlers) (*Server, string) {
	t.Helper()
	if config.Listener == nil {
		config.Listener = loopback(t)
	}
	server, err := Listen(config, handlers)
	must(t, err)
	t.Cleanup(func() {
		done := make(chan struct{})
		go func() { server.Close(); close(done) }()
		select {
		case <-done:
		case <-time.After(patience):
			t.Error("server does not close")
		}
	})
	return server, "127.0.0.1:" + strconv.Itoa(int(server.Port()))
}

// connections is how many a server holds.
func connections(s *Server) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}

func dialRaw(t testing.TB, name string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", name)
	must(t, err)
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(patience))
	return conn
}

// wantClosed checks that the peer closes without having answered.
func wantClosed(t testing.TB, conn net.Conn) {
	t.Helper()
	got, err := io.ReadAll(conn)
	var network net.Error
	if errors.As(err, &network) && network.Timeout() {
		t.Fatalf("connection still open after %v", patience)
	}
	if len(got) > 0 {
		t.Fatalf("reply %q, want none", got)
	}
}

// hostile serves each connection with the given behaviour.
func hostile(t testing.TB, behave func(conn net.Conn)) string {
	t.Helper()
	listener := loopback(t)
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				conn.SetDeadline(time.Now().Add(patience))
				behave(conn)
			}()
		}
	}()
	return nameOf(listener)
}
