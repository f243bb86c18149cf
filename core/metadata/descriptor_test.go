package metadata

import (
	"encoding/json"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"
)

// upstreamTCP is what an upstream node was seen to answer.
const upstreamTCP = `{"buffers":[{"addr":140716936523792,"length":1048576,"name":"127.0.0.1:16285"}],` +
	`"name":"127.0.0.1:16285","protocol":"tcp","tcp_data_port":16021,"tcp_proto_version":2,` +
	`"timestamp":"2026-08-22 10:11:12.345678"}` + "\n"

const upstreamRDMA = `{"buffers":[{"addr":140716936523792,"length":1048576,"lkey":[1,4294967295],"name":"cpu:0","rkey":[7,8]}],` +
	`"devices":[{"gid":"00:00:00:00:00:00:00:00:00:00:ff:ff:0a:00:00:01","lid":0,"name":"mlx5_0"},{"gid":"fe:80","lid":65535,"name":"mlx5_1"}],` +
	`"name":"node-a:15001","priority_matrix":{"cpu:0":[["mlx5_0"],["mlx5_1"]]},"protocol":"rdma",` +
	`"rdma_server_name":"10.0.0.1:15001","tcp_data_port":0,"tcp_proto_version":1,` +
	`"timestamp":"2026-08-22 10:11:12.345678"}` + "\n"

func tcpDescriptor() *Descriptor {
	return &Descriptor{
		Name: "127.0.0.1:16285", Protocol: "tcp", Protocols: []string{"tcp"},
		TCPDataPort: 16021, TCPProtoVersion: 2, Timestamp: "2026-08-22 10:11:12.345678",
		Buffers: []Buffer{{Name: "127.0.0.1:16285", Addr: 140716936523792, Length: 1048576}},
	}
}

func rdmaDescriptor() *Descriptor {
	return &Descriptor{
		Name: "node-a:15001", Protocol: "rdma", Protocols: []string{"rdma"},
		TCPProtoVersion: 1, Timestamp: "2026-08-22 10:11:12.345678", RDMAServerName: "10.0.0.1:15001",
		Buffers: []Buffer{{Name: "cpu:0", Addr: 140716936523792, Length: 1048576,
			RKey: []uint32{7, 8}, LKey: []uint32{1, math.MaxUint32}}},
		Devices: []Device{
			{Name: "mlx5_0", GID: "00:00:00:00:00:00:00:00:00:00:ff:ff:0a:00:00:01"},
			{Name: "mlx5_1", GID: "fe:80", LID: 65535}},
		PriorityMatrix: json.RawMessage(`{"cpu:0":[["mlx5_0"],["mlx5_1"]]}`),
	}
}

func TestDescriptorBothWays(t *testing.T) {
	extended := tcpDescriptor()
	extended.Extension = &Extension{Instance: "0123456789abcdef0123456789abcdef", Version: 1, Hello: 1, Fences: 5}
	none := tcpDescriptor()
	none.Buffers = nil
	tests := map[string]struct {
		d    *Descriptor
		text string
	}{
		"tcp":  {tcpDescriptor(), upstreamTCP},
		"rdma": {rdmaDescriptor(), upstreamRDMA},
		"extension": {extended, strings.Replace(upstreamTCP, `],"name"`,
			`],"mooncake_go":{"fences":5,"hello":1,"instance":"0123456789abcdef0123456789abcdef","version":1},"name"`, 1)},
		"no buffers": {none, `{"buffers":[],` + upstreamTCP[strings.Index(upstreamTCP, `"name":"127.0.0.1:16285","protocol"`):]},
	}
	for name, test := range tests {
		text, err := test.d.Encode()
		must(t, err)
		if string(text) != test.text {
			t.Errorf("%s: encoded\n%swant\n%s", name, text, test.text)
		}
		d, err := DecodeDescriptor([]byte(test.text))
		must(t, err)
		if !reflect.DeepEqual(d, test.d) {
			t.Errorf("%s: decoded\n%+v\nwant\n%+v", name, d, test.d)
		}
	}
}

func TestEncodeLeavesOutForTCP(t *testing.T) {
	d := rdmaDescriptor()
	d.Protocol = ProtocolTCP
	text, err := d.Encode()
	must(t, err)
	for _, key := range []string{"devices", "priority_matrix", "rkey", "lkey"} {
		if strings.Contains(string(text), key) {
			t.Errorf("tcp descriptor has %s: %s", key, text)
		}
	}
}

func TestEncodeStrings(t *testing.T) {
	d := tcpDescriptor()
	d.Name = "a/b \"\\\n\x7f\x01 ä € 𝄞"
	text, err := d.Encode()
	must(t, err)
	want := `"name":"a/b \"\\\u000a\u007f\u0001 \u00e4 \u20ac \ud834\udd1e"`
	if !strings.Contains(string(text), want) {
		t.Errorf("%s does not contain %s", text, want)
	}
	var other map[string]any
	must(t, json.Unmarshal(text, &other))
	if other["name"] != d.Name {
		t.Errorf("encoding/json reads %q, want %q", other["name"], d.Name)
	}
	back, err := DecodeDescriptor(text)
	must(t, err)
	if back.Name != d.Name {
		t.Errorf("came back as %q, want %q", back.Name, d.Name)
	}
}

func TestEncodeTimestamp(t *testing.T) {
	d := tcpDescriptor()
	d.Timestamp = ""
	before := time.Now().Add(-time.Microsecond)
	text, err := d.Encode()
	must(t, err)
	back, err := DecodeDescriptor(text)
	must(t, err)
	at, err := time.ParseInLocation("2006-01-02 15:04:05.000000", back.Timestamp, time.Local)
	must(t, err)
	if at.Before(before) || at.After(time.Now()) {
		t.Errorf("timestamp %s is not now", back.Timestamp)
	}
}

func TestEncodeRefuses(t *testing.T) {
	tests := map[string]struct {
		spoil func(d *Descriptor)
		text  string
	}{
		"no name":         {func(d *Descriptor) { d.Name = "" }, "name"},
		"name not UTF-8":  {func(d *Descriptor) { d.Name = "\xff" }, "name"},
		"no protocol":     {func(d *Descriptor) { d.Protocol = "" }, "protocol"},
		"other protocol":  {func(d *Descriptor) { d.Protocol = "shm" }, "protocol"},
		"version 0":       {func(d *Descriptor) { d.TCPProtoVersion = 0 }, "tcp_proto_version"},
		"version -1":      {func(d *Descriptor) { d.TCPProtoVersion = -1 }, "tcp_proto_version"},
		"address 0":       {func(d *Descriptor) { d.Buffers[0].Addr = 0 }, "buffers[0].addr"},
		"length 0":        {func(d *Descriptor) { d.Buffers[0].Length = 0 }, "buffers[0].length"},
		"wraps around":    {func(d *Descriptor) { d.Buffers[0].Length = math.MaxUint64 - 5 }, "buffers[0].length"},
		"buffer name":     {func(d *Descriptor) { d.Buffers[0].Name = "" }, "buffers[0].name"},
		"no rkey":         {func(d *Descriptor) { d.Buffers[0].RKey = nil }, "buffers[0].rkey"},
		"one rkey":        {func(d *Descriptor) { d.Buffers[0].RKey = []uint32{1} }, "buffers[0].rkey"},
		"one lkey":        {func(d *Descriptor) { d.Buffers[0].LKey = []uint32{1} }, "buffers[0].rkey"},
		"device name":     {func(d *Descriptor) { d.Devices[1].Name = "" }, "devices[1].name"},
		"device gid":      {func(d *Descriptor) { d.Devices[1].GID = "" }, "devices[1].gid"},
		"matrix no JSON":  {func(d *Descriptor) { d.PriorityMatrix = json.RawMessage(`{`) }, "priority_matrix"},
		"matrix an array": {func(d *Descriptor) { d.PriorityMatrix = json.RawMessage(`[]`) }, "priority_matrix"},
		"instance":        {func(d *Descriptor) { d.Extension = &Extension{Instance: "12", Version: 1} }, "mooncake_go"},
	}
	for name, test := range tests {
		d := rdmaDescriptor()
		test.spoil(d)
		_, err := d.Encode()
		if err == nil {
			t.Errorf("%s: encoded", name)
			continue
		}
		wantKind(t, err, ErrArgument)
		wantText(t, err, test.text)
	}
}
