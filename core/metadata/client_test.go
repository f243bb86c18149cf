package metadata

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/netip"
	"reflect"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

func TestClientAgainstServer(t *testing.T) {
	box := NewMailbox(1, 0)
	_, name := serveOn(t, ServerConfig{}, Handlers{Metadata: func() []byte { return []byte(upstreamTCP) }, Notify: box.Put})
	client, ctx := &Client{}, testContext(t)
	d, err := client.Fetch(ctx, name)
	must(t, err)
	if !reflect.DeepEqual(d, tcpDescriptor()) {
		t.Errorf("fetched %+v", d)
	}
	must(t, client.Probe(ctx, name))
	must(t, client.Notify(ctx, name, Notification{"a ä", "b\n"}))
	wantKind(t, client.Notify(ctx, name, Notification{"c", "d"}), ErrRejected) // full
	if n, ok := box.Take(); !ok || n != (Notification{"a ä", "b\n"}) {
		t.Errorf("took %+v", n)
	}
}

func TestClientNoDescriptor(t *testing.T) {
	_, name := serveOn(t, ServerConfig{}, Handlers{})
	_, err := (&Client{}).Fetch(testContext(t), name)
	wantKind(t, err, ErrNoDescriptor)
	wantText(t, err, name)
}

func TestClientFreesTheServerAtOnce(t *testing.T) {
	server, name := serveOn(t, ServerConfig{ReplyTimeout: time.Hour}, Handlers{})
	must(t, (&Client{}).Probe(testContext(t), name))
	eventually(t, "the server's connection ends", func() bool { return connections(server) == 0 })
}

func TestClientArguments(t *testing.T) {
	client, ctx := &Client{MaxLength: 64}, testContext(t)
	for name, text := range map[string]string{"": "no host", "host": "no port", "[::1]": "no port", "host:0": "port 0", "host:x": "port"} {
		_, err := client.Fetch(ctx, name)
		wantKind(t, err, ErrArgument)
		wantText(t, err, text)
		wantKind(t, client.Probe(ctx, name), ErrArgument)
		wantKind(t, client.Notify(ctx, name, Notification{}), ErrArgument)
	}
	wantKind(t, client.Notify(ctx, "host:1", Notification{Message: "\xff"}), ErrArgument)
	err := client.Notify(ctx, "host:1", Notification{Message: strings.Repeat("x", 64)})
	wantKind(t, err, ErrArgument)
	wantText(t, err, "MC_HANDSHAKE_MAX_LENGTH")
}

func TestClientResolve(t *testing.T) {
	// Too long for a name of the DNS: fails without asking anybody.
	_, err := (&Client{}).Fetch(testContext(t), strings.Repeat("a", 64)+".invalid:80")
	wantKind(t, err, ErrResolve)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err = (&Client{}).Fetch(ctx, "localhost:80")
	wantKind(t, err, context.Canceled)
}

func TestOrderAddresses(t *testing.T) {
	parse := func(texts ...string) (all []netip.Addr) {
		for _, text := range texts {
			all = append(all, netip.MustParseAddr(text))
		}
		return all
	}
	found := parse("::1", "10.0.0.2", "fe80::1%eth0", "::ffff:10.0.0.2", "10.0.0.1", "::1")
	if got, want := orderAddresses(found, false), parse("10.0.0.2", "10.0.0.1", "::1", "fe80::1%eth0"); !reflect.DeepEqual(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	if got, want := orderAddresses(found, true), parse("::1", "fe80::1%eth0", "10.0.0.2", "10.0.0.1"); !reflect.DeepEqual(got, want) {
		t.Errorf("IPv6 first: %v, want %v", got, want)
	}
}

func TestClientTriesEveryAddress(t *testing.T) {
	listener := loopback(t)
	port := PortOf(listener)
	addresses := []netip.Addr{netip.MustParseAddr("127.0.0.2"), netip.MustParseAddr("127.0.0.3"), netip.MustParseAddr("127.0.0.1")}
	conn, err := (&Client{}).connect(testContext(t), addresses, port)
	must(t, err)
	conn.Close()
	_, err = (&Client{}).connect(testContext(t), addresses[:2], port)
	wantKind(t, err, ErrConnect)
	wantKind(t, err, syscall.ECONNREFUSED)
	wantText(t, err, "127.0.0.2", "127.0.0.3")
}

func TestClientResolvesLocalhost(t *testing.T) {
	server, err := Listen(ServerConfig{MinPort: 15000, MaxPort: 17000}, Handlers{})
	must(t, err)
	defer server.Close()
	for _, client := range []*Client{{}, {PreferIPv6: true}} {
		must(t, client.Probe(testContext(t), JoinName("localhost", server.Port())))
	}
}

func TestClientIPv6(t *testing.T) {
	listener, err := net.Listen("tcp6", "[::1]:0")
	if err != nil {
		t.Skipf("no IPv6 here: %v", err)
	}
	serveOn(t, ServerConfig{Listener: listener}, Handlers{})
	for _, host := range []string{"::1", "::1%lo"} {
		must(t, (&Client{}).Probe(testContext(t), JoinName(host, PortOf(listener))))
	}
}

func TestClientRefused(t *testing.T) {
	listener := loopback(t)
	name := nameOf(listener)
	listener.Close()
	began := time.Now()
	_, err := (&Client{}).Fetch(testContext(t), name)
	wantKind(t, err, ErrConnect)
	wantKind(t, err, syscall.ECONNREFUSED)
	wantText(t, err, name)
	if took := time.Since(began); took > time.Second {
		t.Errorf("took %v", took)
	}
}

// deaf is a name where connections are neither accepted nor refused: the queue
// of a socket that nobody accepts from is full, so Linux drops what comes.
func deaf(t *testing.T) string {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	must(t, err)
	t.Cleanup(func() { syscall.Close(fd) })
	must(t, syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
	must(t, syscall.Listen(fd, 0))
	address, err := syscall.Getsockname(fd)
	must(t, err)
	name := JoinName("127.0.0.1", uint16(address.(*syscall.SockaddrInet4).Port))
	for range 8 {
		conn, err := net.DialTimeout("tcp", name, 100*time.Millisecond)
		if err != nil {
			return name
		}
		t.Cleanup(func() { conn.Close() })
	}
	t.Skip("this kernel goes on accepting beyond the backlog of a socket")
	return ""
}

func TestClientConnectTimeout(t *testing.T) {
	name := deaf(t)
	began := time.Now()
	_, err := (&Client{ConnectTimeout: 100 * time.Millisecond}).Fetch(testContext(t), name)
	wantKind(t, err, ErrConnect)
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("took %v, the limit is 100 ms", took)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	_, err = (&Client{ConnectTimeout: time.Hour}).Fetch(ctx, name)
	wantKind(t, err, ErrConnect)
	wantKind(t, err, context.DeadlineExceeded)
}

// answering reads the request, then behaves.
func answering(behave func(conn net.Conn)) func(net.Conn) {
	return func(conn net.Conn) {
		if _, _, err := ReadFrame(conn, DefaultMaxLength); err == nil {
			behave(conn)
		}
	}
}

func thenSaying(frame []byte) func(net.Conn) {
	return answering(func(conn net.Conn) {
		conn.Write(frame)
		io.Copy(io.Discard, conn)
	})
}

func TestClientAgainstHostileServers(t *testing.T) {
	frame := func(kind Type, body string) []byte { return AppendFrame(nil, kind, []byte(body)) }
	metadata := frame(TypeMetadata, upstreamTCP)
	tests := map[string]struct {
		behave func(net.Conn)
		text   string
	}{
		"closes after the request":   {answering(func(net.Conn) {}), "closed the connection"},
		"closes within the length":   {answering(func(c net.Conn) { c.Write(metadata[:5]) }), "closed the connection"},
		"closes within the body":     {answering(func(c net.Conn) { c.Write(metadata[:50]) }), "closed the connection"},
		"type of a notification":     {thenSaying(frame(TypeNotify, upstreamTCP)), "type notify"},
		"legacy answer":              {thenSaying(frame(TypeLegacy, upstreamTCP)), "type legacy"},
		"unknown type":               {thenSaying(frame(200, "{}")), "unknown type 200"},
		"length 0":                   {thenSaying(make([]byte, 8)), "MC_HANDSHAKE_MAX_LENGTH"},
		"length 1 MiB+1":             {thenSaying([]byte{1, 0, 0x10, 0, 0, 0, 0, 0, 1}), "MC_HANDSHAKE_MAX_LENGTH"},
		"length 2^64-1":              {thenSaying(bytes.Repeat([]byte{255}, 100)), "MC_HANDSHAKE_MAX_LENGTH"},
		"text":                       {thenSaying([]byte("HTTP/1.1 400 Bad Request\r\n\r\n")), "MC_HANDSHAKE_MAX_LENGTH"},
		"no JSON":                    {thenSaying(frame(TypeMetadata, "hello")), "not JSON"},
		"an array":                   {thenSaying(frame(TypeMetadata, "[]")), "must be an object"},
		"a number for a string":      {thenSaying(frame(TypeMetadata, `{"name":1,"protocol":"tcp"}`)), "name: must be a string"},
		"a string for a number":      {thenSaying(frame(TypeMetadata, `{"name":"a","protocol":"tcp","tcp_data_port":"1"}`)), "tcp_data_port"},
		"answers before it is asked": {func(c net.Conn) { c.Write(frame(TypeMetadata, "{")); io.Copy(io.Discard, c) }, "not JSON"},
	}
	for name, test := range tests {
		peer := hostile(t, test.behave)
		_, err := (&Client{}).Fetch(testContext(t), peer)
		if err == nil {
			t.Errorf("%s: no error", name)
			continue
		}
		wantKind(t, err, ErrProtocol)
		wantText(t, err, test.text, peer)
	}
}

func TestClientNotifyReplies(t *testing.T) {
	tests := map[string]error{
		`{"name":"","notify_msg":"success"}`: nil,
		`{"notify_msg":"anything"}`:          nil,
		`{"name":"","notify_msg":""}`:        ErrRejected,
		`{}`:                                 ErrRejected,
		"null\n":                             ErrRejected,
		`[]`:                                 ErrProtocol,
		`{"notify_msg":1}`:                   ErrProtocol,
		`success`:                            ErrProtocol,
	}
	for body, want := range tests {
		err := (&Client{}).Notify(testContext(t), hostile(t, thenSaying(AppendFrame(nil, TypeNotify, []byte(body)))), Notification{"a", "b"})
		if want == nil {
			must(t, err)
		} else {
			wantKind(t, err, want)
		}
	}
}

func TestClientProbeReplies(t *testing.T) {
	for _, body := range []string{`{"status":"success"}`, `{}`, `null`} { // the content does not matter
		must(t, (&Client{}).Probe(testContext(t), hostile(t, thenSaying(AppendFrame(nil, TypeProbe, []byte(body))))))
	}
	err := (&Client{}).Probe(testContext(t), hostile(t, thenSaying(AppendFrame(nil, TypeProbe, []byte("?")))))
	wantKind(t, err, ErrProtocol)
}

// drip sends a frame of a byte every few milliseconds, for ever.
func drip(conn net.Conn) {
	frame := AppendFrame(nil, TypeMetadata, bytes.Repeat([]byte(" "), 1<<19))
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for i := range frame {
		if _, err := conn.Write(frame[i : i+1]); err != nil {
			return
		}
		<-tick.C
	}
}

func silent(conn net.Conn) { io.Copy(io.Discard, conn) }

func TestClientLimitsTheAnswer(t *testing.T) {
	for name, behave := range map[string]func(net.Conn){"drips": answering(drip), "is silent": silent} {
		peer := hostile(t, behave)
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		defer cancel()
		began := time.Now()
		_, err := (&Client{}).Fetch(ctx, peer)
		wantKind(t, err, ErrConnect)
		wantKind(t, err, context.DeadlineExceeded)
		_, err = (&Client{ReplyTimeout: 100 * time.Millisecond}).Fetch(testContext(t), peer)
		wantKind(t, err, ErrConnect)
		wantText(t, err, "no complete reply within 100ms")
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("%s: took %v, the limits are 100 ms", name, took)
		}
	}
}

func TestClientCancel(t *testing.T) {
	var asked atomic.Bool
	peer := hostile(t, answering(func(conn net.Conn) { asked.Store(true); silent(conn) }))
	ctx, cancel := context.WithCancel(context.Background())
	result := make(chan error, 1)
	go func() {
		_, err := (&Client{ReplyTimeout: time.Hour}).Fetch(ctx, peer)
		result <- err
	}()
	eventually(t, "the peer is asked", asked.Load)
	began := time.Now()
	cancel()
	wantKind(t, <-result, context.Canceled)
	if took := time.Since(began); took > time.Second {
		t.Errorf("took %v", took)
	}
}

func TestClientReset(t *testing.T) {
	peer := hostile(t, func(conn net.Conn) { conn.(*net.TCPConn).SetLinger(0) })
	_, err := (&Client{}).Fetch(testContext(t), peer)
	wantKind(t, err, ErrConnect)
}
