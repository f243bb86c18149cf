package metadata

import (
	"context"
	"math"
	"net"
	"reflect"
	"strings"
	"testing"
)

const (
	instanceA = "0123456789abcdef0123456789abcdef"
	instanceB = "ffffffffffffffffffffffffffffffff"
)

func TestConnectionBothWays(t *testing.T) {
	no, yes := false, true
	full := &ConnectionMessage{
		LocalNICPath: "a:1@mlx5_0", PeerNICPath: "b:2@mlx5_1", QPNum: []uint32{1, math.MaxUint32},
		LocalGID: "fe:80", LocalLID: 7, ReadyAck: &no, ReplyMsg: "r", Payload: "p",
	}
	want := `{"local_gid":"fe:80","local_lid":7,"local_nic_path":"a:1@mlx5_0","payload":"p","peer_nic_path":"b:2@mlx5_1",` +
		`"qp_num":[1,4294967295],"ready_ack":false,"reply_msg":"r"}` + "\n"
	if got := encodeConnection(full); string(got) != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
	extended := *full
	extended.Extension = &ConnectionExtension{Version: 1, Kind: "connect", Instance: instanceA, Target: instanceB, Connection: math.MaxUint64, Name: "a:1", Device: "mlx5_0", Fenced: 3}
	want = strings.Replace(want, `,"payload"`, `,"mooncake_go":{"connection":18446744073709551615,"device":"mlx5_0","fenced":3,"instance":"`+instanceA+
		`","kind":"connect","name":"a:1","target":"`+instanceB+`","version":1},"payload"`, 1)
	if got := encodeConnection(&extended); string(got) != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
	least := &ConnectionMessage{Extension: &ConnectionExtension{Version: 7, Kind: "x", Instance: instanceA}}
	for _, m := range []*ConnectionMessage{full, {}, {ReadyAck: &yes}, &extended, least} {
		back, err := decodeConnection(encodeConnection(m))
		must(t, err)
		if !reflect.DeepEqual(back, m) {
			t.Errorf("%+v came back as %+v", m, back)
		}
	}
}

func TestDecodeConnection(t *testing.T) {
	for _, lid := range []string{`"7"`, `-1`, `65536`, `{}`, `null`} { // as upstream
		m, err := decodeConnection([]byte(`{"local_lid":` + lid + `}`))
		must(t, err)
		if m.LocalLID != 0 {
			t.Errorf("%s: LID %d", lid, m.LocalLID)
		}
	}
	bad := map[string]string{
		``:                        "not JSON",
		`[]`:                      "must be an object",
		`null`:                    "must be an object",
		`{"qp_num":["7"]}`:        "qp_num[0]: must be an unsigned integer",
		`{"qp_num":[1,-1]}`:       "qp_num[1]",
		`{"qp_num":[4294967296]}`: "qp_num[0]",
		`{"qp_num":{}}`:           "qp_num: must be an array",
		`{"local_nic_path":1}`:    "local_nic_path: must be a string",
		`{"peer_nic_path":[]}`:    "peer_nic_path: must be a string",
		`{"local_gid":false}`:     "local_gid: must be a string",
		`{"ready_ack":1}`:         "ready_ack: must be true or false",
		`{"ready_ack":"false"}`:   "ready_ack: must be true or false",
		`{"reply_msg":{"a":"b"}}`: "reply_msg: must be a string",
		`{"payload":[1]}`:         "payload: must be a string",
		`{"local_nic_path":"` + strings.Repeat("x", MaxNICPath+1) + `"}`: "local_nic_path: must be at most 1024 bytes long",
		`{"peer_nic_path":"` + strings.Repeat("x", MaxNICPath+1) + `"}`:  "peer_nic_path",
		`{"qp_num":[1` + strings.Repeat(",1", MaxQPNum) + `]}`:           "qp_num: must have at most 256",
		`{"mooncake_go":[]}`: "mooncake_go: must be an object",
		`{"mooncake_go":{}}`: "mooncake_go: version",
	}
	for member, text := range map[string]string{
		`"version":0`: "version", `"version":"1"`: "mooncake_go.version", `"kind":""`: "kind", `"kind":7`: "mooncake_go.kind",
		`"kind":"` + strings.Repeat("k", 33) + `"`: "kind", `"instance":"` + instanceA + `0"`: "instance", `"instance":null`: "instance",
		`"target":"7"`: "target", `"connection":-1`: "mooncake_go.connection", `"connection":18446744073709551616`: "mooncake_go.connection",
		`"fenced":1.5`: "mooncake_go.fenced", `"name":1`: "mooncake_go.name", `"device":{}`: "mooncake_go.device",
		`"name":"` + strings.Repeat("n", MaxNICPath+1) + `"`: "name and device",
	} {
		bad[`{"mooncake_go":{"version":1,"kind":"x","instance":"`+instanceA+`",`+member+`}}`] = text
	}
	for text, want := range bad {
		_, err := decodeConnection([]byte(text))
		wantText(t, err, want)
	}
}

// Limits are kept exactly, and what later versions add is ignored.
func TestDecodeConnectionTakes(t *testing.T) {
	for _, text := range []string{
		`{"qp_num":[1` + strings.Repeat(",1", MaxQPNum-1) + `],"local_nic_path":"` + strings.Repeat("x", MaxNICPath) + `"}`,
		`{"mooncake_go":null,"efa_addr":[1,{}],"jetty_num":"x"}`,
		`{"mooncake_go":{"version":9,"kind":"later","instance":"` + instanceA + `","more":[{}]}}`,
	} {
		_, err := decodeConnection([]byte(text))
		must(t, err)
	}
}

func TestClientConnect(t *testing.T) {
	answer := ConnectionReply{LocalNICPath: "b@x", PeerNICPath: "a@y", QPNum: []uint32{3}, LocalGID: "::", LocalLID: 9,
		Extension: &ConnectionExtension{Version: 1, Kind: "connect", Instance: instanceB, Fenced: 2}}
	var heard ConnectionRequest
	_, name := serveOn(t, ServerConfig{}, Handlers{Connection: func(m ConnectionRequest) ConnectionReply {
		heard = m
		return answer
	}})
	client, ctx := &Client{}, testContext(t)
	no := false
	request := &ConnectionRequest{LocalNICPath: "a@y", PeerNICPath: "b@x", QPNum: []uint32{1, 2}, LocalGID: "fe", LocalLID: 4, ReadyAck: &no,
		Extension: &ConnectionExtension{Version: 1, Kind: "connect", Instance: instanceA, Target: instanceB, Connection: 5}}
	reply, err := client.Connect(ctx, name, request)
	must(t, err)
	if !reflect.DeepEqual(reply, &answer) || !reflect.DeepEqual(&heard, request) {
		t.Errorf("reply %+v to %+v", reply, heard)
	}

	answer.ReplyMsg = strings.Repeat("no\n", 1000)
	reply, err = client.Connect(ctx, name, request)
	wantKind(t, err, ErrRejected)
	wantText(t, err, name, `no\nno`)
	if reply == nil || reply.Extension == nil || len(err.Error()) > 2*maxReason {
		t.Errorf("reply %+v with %d bytes of error", reply, len(err.Error()))
	}
}

func TestClientConnectReplies(t *testing.T) {
	for reply, kind := range map[string]error{
		"null\n": ErrRejected, "{}": nil, "[]": ErrProtocol, "7": ErrProtocol, "{": ErrProtocol, `{"qp_num":"1"}`: ErrProtocol,
		`{"reply_msg":"x"}`: ErrRejected, `{"reply_msg":""}`: nil, `{"mooncake_go":{}}`: ErrProtocol,
	} {
		name := hostile(t, func(conn net.Conn) {
			ReadFrame(conn, DefaultMaxLength)
			conn.Write(AppendFrame(nil, TypeConnection, []byte(reply)))
		})
		_, err := (&Client{}).Connect(testContext(t), name, &ConnectionRequest{})
		if kind == nil {
			must(t, err)
		} else {
			wantKind(t, err, kind)
		}
	}
	_, name := serveOn(t, ServerConfig{}, Handlers{})
	_, err := (&Client{}).Connect(testContext(t), name, &ConnectionRequest{})
	wantKind(t, err, ErrRejected)
	wantText(t, err, "no rdma")
}

func TestClientConnectArguments(t *testing.T) {
	for text, m := range map[string]*ConnectionRequest{
		"257 queue pairs": {QPNum: make([]uint32, 257)},
		"longer than":     {PeerNICPath: strings.Repeat("x", MaxNICPath+1)},
		"local_nic_path":  {LocalNICPath: "\xff"},
		"instance":        {Extension: &ConnectionExtension{Version: 1, Kind: "x"}},
	} {
		_, err := (&Client{}).Connect(context.Background(), "127.0.0.1:1", m)
		wantKind(t, err, ErrArgument)
		wantText(t, err, text)
	}
}

// A handler that panics, and requests that are none, end their connection only.
func TestServerConnectionPanics(t *testing.T) {
	_, name := serveOn(t, ServerConfig{}, Handlers{Connection: func(m ConnectionRequest) ConnectionReply {
		if m.Payload == "bad" {
			panic(m)
		}
		return ConnectionReply{}
	}})
	client, ctx := &Client{}, testContext(t)
	for range 3 {
		_, err := client.Connect(ctx, name, &ConnectionRequest{Payload: "bad"})
		wantKind(t, err, ErrProtocol)
		for _, body := range []string{"[]", "{", `{"qp_num":{}}`, ""} {
			conn := dialRaw(t, name)
			conn.Write(AppendFrame(nil, TypeConnection, []byte(body)))
			wantClosed(t, conn)
		}
		_, err = client.Connect(ctx, name, &ConnectionRequest{})
		must(t, err)
	}
}

// Whatever the text is, the outcome is an error, or a message within the limits that
// its own encoding gives again.
func FuzzDecodeConnection(f *testing.F) {
	f.Add([]byte(`{"local_gid":"fe:80","local_lid":7,"local_nic_path":"a:1@x","qp_num":[1,4294967295],"ready_ack":false,"reply_msg":"r"}`))
	f.Add([]byte(`{"mooncake_go":{"connection":5,"device":"x","fenced":3,"instance":"` + instanceA + `","kind":"connect","name":"a:1","target":"` + instanceB + `","version":1}}`))
	f.Add([]byte(`{"local_nic_path":"\ud800","qp_num":[1,2,3],"ready_ack":null,"local_lid":[],"x":{"y":[]}}`))
	f.Add([]byte("null"))
	f.Add([]byte("[]"))
	f.Fuzz(func(t *testing.T, text []byte) {
		m, err := decodeConnection(text)
		if err != nil {
			return
		}
		if len(m.QPNum) > MaxQPNum || len(m.LocalNICPath) > MaxNICPath || len(m.PeerNICPath) > MaxNICPath {
			t.Fatalf("beyond the limits: %+v", m)
		}
		must(t, m.check())
		back, err := decodeConnection(encodeConnection(m))
		must(t, err)
		if !reflect.DeepEqual(back, m) {
			t.Fatalf("%+v came back as %+v", m, back)
		}
	})
}
