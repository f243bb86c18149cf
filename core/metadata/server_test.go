package metadata

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// roundTrip sends a frame as it is and returns the whole answer.
func roundTrip(t testing.TB, name string, frame []byte) []byte {
	t.Helper()
	conn := dialRaw(t, name)
	_, err := conn.Write(frame)
	must(t, err)
	answer, err := io.ReadAll(conn)
	must(t, err)
	return answer
}

func TestServerAnswers(t *testing.T) {
	yes := true
	handlers := Handlers{
		Metadata: func() []byte { return []byte(upstreamTCP) },
		Notify: func(n Notification) error {
			if n.Name == "full" {
				return ErrMailboxFull
			}
			return nil
		},
		Connection: func(r ConnectionRequest) ConnectionReply {
			return ConnectionReply{LocalNICPath: r.PeerNICPath, PeerNICPath: r.LocalNICPath, QPNum: r.QPNum, ReadyAck: &yes}
		},
	}
	const (
		connect   = `{"local_nic_path":"a@x","peer_nic_path":"b@y","qp_num":[5]}`
		connected = `{"local_gid":"","local_lid":0,"local_nic_path":"b@y","payload":"","peer_nic_path":"a@x","qp_num":[5],"ready_ack":true,"reply_msg":""}` + "\n"
		rejected  = `{"name":"","notify_msg":""}` + "\n"
		success   = `{"name":"","notify_msg":"success"}` + "\n"
		alive     = `{"status":"success"}` + "\n"
		noRDMA    = `{"local_gid":"","local_lid":0,"local_nic_path":"","payload":"","peer_nic_path":"","qp_num":[],"reply_msg":"this engine has no rdma; open its segment over tcp"}` + "\n"
	)
	tests := map[string]struct {
		handlers    Handlers
		kind        Type
		body, reply string
	}{
		"metadata":          {handlers, TypeMetadata, "{}\n", upstreamTCP},
		"metadata, body":    {handlers, TypeMetadata, upstreamRDMA, upstreamTCP},
		"metadata, null":    {handlers, TypeMetadata, "null\n", upstreamTCP},
		"notify":            {handlers, TypeNotify, `{"name":"a","notify_msg":"b"}`, success},
		"notify, rejected":  {handlers, TypeNotify, `{"name":"full","notify_msg":"b"}`, rejected},
		"probe":             {handlers, TypeProbe, "{}", alive},
		"connection":        {handlers, TypeConnection, connect, connected},
		"legacy connection": {handlers, TypeLegacy, connect, connected},
		"no descriptor":     {Handlers{Metadata: func() []byte { return nil }}, TypeMetadata, "{}", "null\n"},
		"no metadata":       {Handlers{}, TypeMetadata, "{}", "null\n"},
		"no notify":         {Handlers{}, TypeNotify, "{}", rejected},
		"no rdma":           {Handlers{}, TypeConnection, connect, noRDMA},
		"no rdma, legacy":   {Handlers{}, TypeLegacy, connect, noRDMA},
		"no probe":          {Handlers{}, TypeProbe, "{}", alive},
	}
	for name, test := range tests {
		_, peer := serveOn(t, ServerConfig{ReplyTimeout: 50 * time.Millisecond}, test.handlers)
		got := roundTrip(t, peer, AppendFrame(nil, test.kind, []byte(test.body)))
		if want := AppendFrame(nil, test.kind, []byte(test.reply)); !bytes.Equal(got, want) {
			t.Errorf("%s: answer\n%q, want\n%q", name, got, want)
		}
	}
}

func TestServerReadsFragments(t *testing.T) {
	_, name := serveOn(t, ServerConfig{ReplyTimeout: time.Hour}, Handlers{})
	conn := dialRaw(t, name)
	for _, b := range AppendFrame(nil, TypeProbe, []byte("{}\n")) {
		_, err := conn.Write([]byte{b})
		must(t, err)
	}
	// The stream ends after the reply, without this side having closed.
	answer, err := io.ReadAll(conn)
	must(t, err)
	if want := AppendFrame(nil, TypeProbe, probeOKBody); !bytes.Equal(answer, want) {
		t.Errorf("answer %q, want %q", answer, want)
	}
}

// malformed are requests that get no answer.
func malformed() map[string][]byte {
	frame := func(kind Type, body string) []byte { return AppendFrame(nil, kind, []byte(body)) }
	attacks := map[string][]byte{
		"length 0":        make([]byte, 8),
		"length 1 MiB+1":  {1, 0, 0x10, 0, 0, 0, 0, 0, 1},
		"length 2^64-1":   bytes.Repeat([]byte{0xff}, 9),
		"half a length":   {5, 0, 0},
		"length only":     {5, 0, 0, 0, 0, 0, 0, 0},
		"half a body":     frame(TypeMetadata, "{}")[:10],
		"type 4":          frame(4, "{}"),
		"type 127":        frame(127, "{}"),
		"type 128":        frame(128, "{}"),
		"type 255":        append([]byte{3, 0, 0, 0, 0, 0, 0, 0, 255}, "{}"...),
		"legacy, no JSON": frame(TypeLegacy, "GET / HTTP/1.1\r\n"),
		"legacy, array":   frame(TypeLegacy, "[]"),
		"http":            []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
	}
	for _, kind := range []Type{TypeConnection, TypeMetadata, TypeNotify, TypeProbe} {
		for _, body := range []string{"", "{", "{}{}", "nul", "[]", "7", `"a"`, "true", "{\"a\":\xff}", strings.Repeat("[", 20000)} {
			attacks[kind.String()+" "+excerptString(body)] = frame(kind, body)
		}
	}
	for _, body := range []string{"null", `{"name":1}`, `{"notify_msg":[]}`, `{"name":{"a":1},"notify_msg":"x"}`} {
		attacks["notify "+body] = frame(TypeNotify, body)
	}
	for _, body := range []string{"null", `{"qp_num":["1"]}`, `{"qp_num":1}`, `{"qp_num":[1.5]}`, `{"qp_num":[99999999999]}`, `{"local_nic_path":[]}`, `{"ready_ack":"x"}`} {
		attacks["connection "+body] = frame(TypeConnection, body)
	}
	return attacks
}

func TestServerClosesOnMalformedRequests(t *testing.T) {
	called := func(what string) { t.Errorf("handler called: %s", what) }
	_, name := serveOn(t, ServerConfig{}, Handlers{
		Metadata:   func() []byte { called("metadata"); return nil },
		Notify:     func(n Notification) error { called("notify"); return nil },
		Connection: func(ConnectionRequest) ConnectionReply { called("connection"); return ConnectionReply{} },
		Probe:      func() error { return nil },
	})
	for what, request := range malformed() {
		t.Run(what, func(t *testing.T) {
			conn := dialRaw(t, name)
			conn.Write(request) // both may fail: the server may have closed by now
			conn.(*net.TCPConn).CloseWrite()
			wantClosed(t, conn)
		})
	}
	must(t, (&Client{}).Probe(testContext(t), name))
}

func TestServerSurvivesRandomBytes(t *testing.T) {
	_, name := serveOn(t, ServerConfig{RequestTimeout: 100 * time.Millisecond}, Handlers{})
	random := rand.New(rand.NewPCG(1, 2))
	var group sync.WaitGroup
	for i := range 200 {
		noise := make([]byte, random.IntN(2000))
		for j := range noise {
			noise[j] = byte(random.Uint32())
		}
		if i%2 == 0 { // past the length check, into the decoders
			noise = AppendFrame(nil, Type(random.IntN(4)), noise)
		}
		conn := dialRaw(t, name)
		group.Go(func() {
			conn.Write(noise) // may fail: the server may have closed by now
			wantClosed(t, conn)
		})
	}
	group.Wait()
	must(t, (&Client{}).Probe(testContext(t), name))
}

func TestServerEndsSlowRequests(t *testing.T) {
	server, name := serveOn(t, ServerConfig{RequestTimeout: 100 * time.Millisecond}, Handlers{})
	idle, drip := dialRaw(t, name), dialRaw(t, name)
	go func() {
		frame := AppendFrame(nil, TypeMetadata, bytes.Repeat([]byte(" "), 1<<16))
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for _, b := range frame { // each byte is in time, the whole is not
			if _, err := drip.Write([]byte{b}); err != nil {
				return
			}
			<-tick.C
		}
	}()
	began := time.Now()
	wantClosed(t, idle)
	wantClosed(t, drip)
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("took %v, the limit is 100 ms", took)
	}
	eventually(t, "connections are forgotten", func() bool { return connections(server) == 0 })
}

func TestServerEndsClientsThatDoNotReadOrClose(t *testing.T) {
	large := bytes.Repeat([]byte(" "), 32<<20)
	server, name := serveOn(t, ServerConfig{RequestTimeout: time.Hour, ReplyTimeout: 100 * time.Millisecond},
		Handlers{Metadata: func() []byte { return large }})
	for _, kind := range []Type{TypeMetadata, TypeProbe} { // stuck in the reply; after it
		conn := dialRaw(t, name)
		_, err := conn.Write(AppendFrame(nil, kind, []byte("{}")))
		must(t, err)
	}
	// The connections must have been there, and must go, although nobody reads.
	eventually(t, "stuck connections are closed", func() bool {
		server.mu.Lock()
		defer server.mu.Unlock()
		return len(server.conns) == 0 && server.clock >= 7 // three phases of the first, four of the second
	})
}

// logged collects what a server logs, as JSON lines.
type logged struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func (l *logged) logger() *slog.Logger {
	return slog.New(slog.NewJSONHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

func TestServerRecoversPanics(t *testing.T) {
	var log logged
	_, name := serveOn(t, ServerConfig{Logger: log.logger()}, Handlers{
		Notify:     func(Notification) error { panic("notify went wrong") },
		Connection: func(ConnectionRequest) ConnectionReply { var m map[string]int; m["x"] = 1; return ConnectionReply{} },
	})
	for _, kind := range []Type{TypeNotify, TypeConnection} {
		conn := dialRaw(t, name)
		_, err := conn.Write(AppendFrame(nil, kind, []byte("{}")))
		must(t, err)
		wantClosed(t, conn)
	}
	must(t, (&Client{}).Probe(testContext(t), name))
	for _, part := range []string{`"level":"ERROR"`, "notify went wrong", "nil map", "server_test.go"} {
		if !strings.Contains(log.String(), part) {
			t.Errorf("log does not say %q: %s", part, log.String())
		}
	}
}

func TestServerProbeRefused(t *testing.T) {
	_, name := serveOn(t, ServerConfig{}, Handlers{Probe: func() error { return errors.New("closing down") }})
	wantKind(t, (&Client{}).Probe(testContext(t), name), ErrProtocol)
}

func TestServerLogsLittle(t *testing.T) {
	var log logged
	_, name := serveOn(t, ServerConfig{Logger: log.logger()}, Handlers{})
	conn := dialRaw(t, name)
	_, err := conn.Write(AppendFrame(nil, TypeNotify, bytes.Repeat([]byte("\nA\x1b"), 5000)))
	must(t, err)
	wantClosed(t, conn)
	var line struct{ Level, Err, Request string }
	eventually(t, "a line is logged", func() bool { return strings.HasSuffix(log.String(), "\n") })
	must(t, json.Unmarshal([]byte(log.String()), &line)) // fails for more than one line
	if line.Level != "DEBUG" || line.Request != "notify" {
		t.Errorf("%+v", line)
	}
	if n := strings.Count(line.Err, "A"); n < 20 || n > 80/3+1 || strings.ContainsAny(line.Err, "\n\x1b") {
		t.Errorf("%d of the peer's bytes in %q", 3*n, line.Err)
	}
}

func TestServerClose(t *testing.T) {
	server, name := serveOn(t, ServerConfig{RequestTimeout: time.Hour, ReplyTimeout: time.Hour}, Handlers{})
	idle, answered := dialRaw(t, name), dialRaw(t, name)
	_, err := answered.Write(AppendFrame(nil, TypeProbe, []byte("{}")))
	must(t, err)
	_, _, err = ReadFrame(answered, 1000)
	must(t, err)
	eventually(t, "both are connected", func() bool { return connections(server) == 2 })
	must(t, server.Close())
	wantClosed(t, idle)
	must(t, server.Close()) // twice does nothing
	wantKind(t, (&Client{}).Probe(testContext(t), name), ErrConnect)
	if n := connections(server); n != 0 {
		t.Errorf("%d connections after Close", n)
	}
}

func TestServerCloseWaitsForHandlers(t *testing.T) {
	entered, release := make(chan struct{}), make(chan struct{})
	returned := false
	server, name := serveOn(t, ServerConfig{}, Handlers{Probe: func() error {
		close(entered)
		<-release
		returned = true
		return nil
	}})
	go (&Client{}).Probe(testContext(t), name)
	<-entered
	closed := make(chan struct{})
	go func() { server.Close(); close(closed) }()
	eventually(t, "Close has begun", server.stopped)
	select {
	case <-closed:
		t.Error("Close returned before the handler")
	default:
	}
	close(release)
	<-closed
	if !returned { // the race detector watches this as well
		t.Error("Close did not wait for the handler")
	}
}

// flaky is a listener that works a few times, then fails a few times.
type flaky struct {
	net.Listener
	works, failures int
}

func (f *flaky) Accept() (net.Conn, error) {
	if f.works == 0 && f.failures > 0 {
		f.failures--
		return nil, &net.OpError{Op: "accept", Err: os.NewSyscallError("accept4", syscall.EMFILE)}
	}
	f.works--
	return f.Listener.Accept()
}

func TestServerSurvivesAcceptErrors(t *testing.T) {
	var log logged
	listener := loopback(t)
	idle := dialRaw(t, nameOf(listener))
	began := time.Now()
	serveOn(t, ServerConfig{Listener: &flaky{listener, 1, 4}, RequestTimeout: time.Hour, Logger: log.logger()}, Handlers{})
	must(t, (&Client{}).Probe(testContext(t), nameOf(listener)))
	if took := time.Since(began); took < (5+10+20+40)*time.Millisecond {
		t.Errorf("4 failures within %v: no pause between them", took)
	}
	if n := strings.Count(log.String(), "not accepted"); n != 4 {
		t.Errorf("%d lines for 4 failures: %s", n, log.String())
	}
	wantClosed(t, idle) // its file descriptor was needed
}

func TestServerClosesWhileAcceptFails(t *testing.T) {
	server, _ := serveOn(t, ServerConfig{Listener: &flaky{loopback(t), 0, 1 << 30}, Logger: slog.New(slog.DiscardHandler)}, Handlers{})
	must(t, server.Close())
}

func TestServerLogsWhenItsListenerIsClosed(t *testing.T) {
	var log logged
	listener := loopback(t)
	serveOn(t, ServerConfig{Listener: listener, Logger: log.logger()}, Handlers{})
	listener.Close()
	eventually(t, "it is logged", func() bool { return strings.Contains(log.String(), "closed by somebody else") })
}

func TestListenConfig(t *testing.T) {
	_, err := Listen(ServerConfig{MaxConns: -1}, Handlers{})
	wantKind(t, err, ErrArgument)
	_, err = Listen(ServerConfig{}, Handlers{})
	wantKind(t, err, ErrArgument)
	wantText(t, err, "MC_MIN_RPC_PORT")
	server, err := Listen(ServerConfig{MinPort: 15000, MaxPort: 17000}, Handlers{})
	must(t, err)
	defer server.Close()
	must(t, (&Client{}).Probe(testContext(t), JoinName("127.0.0.1", server.Port())))
	_, err = Listen(ServerConfig{Port: server.Port()}, Handlers{})
	wantKind(t, err, ErrNoPort)
}

func FuzzServerAnswer(f *testing.F) {
	f.Add(uint8(0), []byte(`{"qp_num":[1],"local_lid":"x","ready_ack":false}`))
	f.Add(uint8(1), []byte(`null`))
	f.Add(uint8(2), []byte(`{"name":"a","notify_msg":"b"}`))
	f.Add(uint8(3), []byte(`{}`))
	f.Add(uint8(255), []byte(`[]`))
	echo := Handlers{
		Connection: func(r ConnectionRequest) ConnectionReply { return r },
		Notify:     func(Notification) error { return nil },
	}
	f.Fuzz(func(t *testing.T, kind uint8, body []byte) {
		reply, err := echo.answer(Type(kind), body)
		var p *handlerPanic
		if errors.As(err, &p) {
			t.Fatalf("%v\n%s", p.value, p.stack)
		}
		if err == nil && !json.Valid(reply) {
			t.Fatalf("%q is answered with %q", body, reply)
		}
	})
}
