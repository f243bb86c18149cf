package metadata

import (
	"math"
	"reflect"
	"testing"
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
	for _, m := range []*ConnectionMessage{full, {}, {ReadyAck: &yes}} {
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
	}
	for text, want := range bad {
		_, err := decodeConnection([]byte(text))
		wantText(t, err, want)
	}
}
