package metadata

import (
	"errors"
	"fmt"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"
)

// with replaces part of the upstream tcp reply.
func with(t testing.TB, old, new string) string {
	t.Helper()
	if strings.Count(upstreamTCP, old) != 1 {
		t.Fatalf("%q is not once in the sample", old)
	}
	return strings.Replace(upstreamTCP, old, new, 1)
}

const bufferList = `[{"addr":140716936523792,"length":1048576,"name":"127.0.0.1:16285"}]`

func TestDecodeRefuses(t *testing.T) {
	buffer := func(text string) string { return with(t, bufferList, `[{"addr":1,"length":1,"name":"a"},`+text+`]`) }
	tests := map[string]string{
		"":                                "not JSON",
		"nul":                             "not JSON",
		"{":                               "not JSON",
		upstreamTCP[:len(upstreamTCP)-3]:  "not JSON",
		upstreamTCP + "x":                 "not JSON",
		"[]":                              "must be an object",
		"17":                              "must be an object",
		`"text"`:                          "must be an object",
		"true":                            "must be an object",
		"{}":                              "name: missing",
		`{"name":"a"}`:                    "protocol: missing",
		`{"name":null,"protocol":"tcp"}`:  "name: missing",
		`{"name":7,"protocol":"tcp"}`:     "name: must be a string",
		`{"name":["a"],"protocol":"tcp"}`: "name: must be a string",
		with(t, `"protocol":"tcp"`, `"protocol":""`):                                       "protocol",
		with(t, `"protocol":"tcp"`, `"protocol":1`):                                        "protocol",
		with(t, `"protocol":"tcp"`, `"protocol":[]`):                                       "protocol",
		with(t, `"protocol":"tcp"`, `"protocol":["tcp",2]`):                                "protocol[1]",
		with(t, `"protocol":"tcp"`, `"protocol":{}`):                                       "protocol",
		with(t, `16021`, `"16021"`):                                                        "tcp_data_port: must be an unsigned integer",
		with(t, `16021`, `65536`):                                                          "tcp_data_port: must be at most 65535",
		with(t, `16021`, `-1`):                                                             "tcp_data_port",
		with(t, `16021`, `1e3`):                                                            "tcp_data_port",
		with(t, `16021`, `16021.0`):                                                        "tcp_data_port",
		with(t, `16021`, `true`):                                                           "tcp_data_port",
		with(t, `16021`, `[16021]`):                                                        "tcp_data_port",
		with(t, `"tcp_proto_version":2`, `"tcp_proto_version":"2"`):                        "tcp_proto_version",
		with(t, `"tcp_proto_version":2`, `"tcp_proto_version":-2`):                         "tcp_proto_version",
		with(t, `"tcp_proto_version":2`, `"tcp_proto_version":99999999999`):                "tcp_proto_version",
		with(t, `"2026-08-22 10:11:12.345678"`, `5`):                                       "timestamp",
		with(t, bufferList, `{}`):                                                          "buffers: must be an array",
		with(t, bufferList, `"x"`):                                                         "buffers: must be an array",
		with(t, bufferList, `[[]]`):                                                        "buffers[0]: must be an object",
		with(t, bufferList, `[1]`):                                                         "buffers[0]: must be an object",
		with(t, bufferList, `[null]`):                                                      "buffers[0]: must be an object",
		with(t, bufferList, `[{}]`):                                                        "buffers[0].name: empty",
		buffer(`{"addr":0,"length":1,"name":"a"}`):                                         "buffers[1].addr: 0",
		buffer(`{"addr":null,"length":1,"name":"a"}`):                                      "buffers[1].addr: 0",
		buffer(`{"addr":"1","length":1,"name":"a"}`):                                       "buffers[1].addr: must be an unsigned integer",
		buffer(`{"addr":-1,"length":1,"name":"a"}`):                                        "buffers[1].addr",
		buffer(`{"addr":1.5,"length":1,"name":"a"}`):                                       "buffers[1].addr",
		buffer(`{"addr":18446744073709551616,"length":1,"name":"a"}`):                      "buffers[1].addr: must be at most 18446744073709551615",
		buffer(`{"addr":99999999999999999999999,"length":1,"name":"a"}`):                   "buffers[1].addr: must be at most",
		buffer(`{"addr":1,"length":0,"name":"a"}`):                                         "buffers[1].length: 0",
		buffer(`{"addr":1,"name":"a"}`):                                                    "buffers[1].length: 0",
		buffer(`{"addr":1,"length":18446744073709551615,"name":"a"}`):                      "buffers[1].length: 18446744073709551615 bytes at 0x1 wrap",
		buffer(`{"addr":1,"length":1,"name":""}`):                                          "buffers[1].name: empty",
		buffer(`{"addr":1,"length":1,"name":{}}`):                                          "buffers[1].name: must be a string",
		buffer(`{"addr":1,"length":1,"name":"a","rkey":[1],"lkey":[1,2]}`):                 "buffers[1].rkey: 1 keys, but lkey has 2",
		buffer(`{"addr":1,"length":1,"name":"a","rkey":[4294967296],"lkey":[1]}`):          "buffers[1].rkey[0]: must be at most 4294967295",
		buffer(`{"addr":1,"length":1,"name":"a","rkey":["1"],"lkey":[1]}`):                 "buffers[1].rkey[0]",
		buffer(`{"addr":1,"length":1,"name":"a","rkey":5}`):                                "buffers[1].rkey: must be an array",
		strings.Replace(upstreamRDMA, `"rkey":[7,8]`, `"rkey":[7]`, 1):                     "buffers[0].rkey",
		strings.Replace(upstreamRDMA, `[7,8]`, `[7]`, 1):                                   "buffers[0].rkey",
		strings.NewReplacer(`[7,8]`, `[7]`, `[1,4294967295]`, `[1]`).Replace(upstreamRDMA): "1 keys for 2 devices",
		strings.Replace(upstreamRDMA, `"mlx5_1"}`, `""}`, 1):                               "devices[1].name: empty",
		strings.Replace(upstreamRDMA, `"fe:80"`, `""`, 1):                                  "devices[1].gid: empty",
		strings.Replace(upstreamRDMA, `65535`, `65536`, 1):                                 "devices[1].lid",
		strings.Replace(upstreamRDMA, `"10.0.0.1:15001"`, `[]`, 1):                         "rdma_server_name",
	}
	for text, want := range tests {
		d, err := DecodeDescriptor([]byte(text))
		if err == nil {
			t.Errorf("accepted %s as %+v", text, d)
			continue
		}
		wantText(t, err, "descriptor", want)
		if errors.Is(err, ErrNoDescriptor) {
			t.Errorf("%s: is ErrNoDescriptor", text)
		}
	}
}

func TestDecodeNull(t *testing.T) {
	for _, text := range []string{"null", "null\n", " null "} {
		_, err := DecodeDescriptor([]byte(text))
		wantKind(t, err, ErrNoDescriptor)
	}
}

func TestDecodeLenient(t *testing.T) {
	same := map[string]string{
		"unknown members":    with(t, `{"buffers"`, `{"zzz":{"a":[1,{"b":"]}"}]},"x":-1.5e300,"buffers"`),
		"duplicate member":   with(t, `{"buffers"`, `{"name":"wrong","tcp_data_port":1,"buffers"`),
		"escaped member":     with(t, `"tcp_data_port"`, `"tcp\u005fdata_port"`),
		"space":              strings.NewReplacer(",", " ,\n\t", ":{", " : { ", "[", "[ \r\n").Replace(upstreamTCP),
		"null optionals":     with(t, `{"buffers"`, `{"devices":null,"priority_matrix":null,"rdma_server_name":null,"mooncake_go":null,"buffers"`),
		"other case ignored": with(t, `{"buffers"`, `{"NAME":"wrong","Tcp_Data_Port":"x","buffers"`),
		"bad matrix":         with(t, `{"buffers"`, `{"priority_matrix":[1],"buffers"`),
		"empty keys":         with(t, `16285"}]`, `16285","rkey":[],"lkey":[]}]`),
	}
	for name, text := range same {
		d, err := DecodeDescriptor([]byte(text))
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if !reflect.DeepEqual(d, tcpDescriptor()) {
			t.Errorf("%s: decoded as %+v", name, d)
		}
	}
}

func TestDecodeDefaults(t *testing.T) {
	for _, version := range []string{``, `"tcp_proto_version":null,`, `"tcp_proto_version":0,`} {
		d, err := DecodeDescriptor([]byte(with(t, `"tcp_proto_version":2,`, version)))
		must(t, err)
		if d.TCPProtoVersion != 1 {
			t.Errorf("%q: version %d, want 1", version, d.TCPProtoVersion)
		}
	}
	for _, buffers := range []string{`[]`, `null`} {
		d, err := DecodeDescriptor([]byte(with(t, bufferList, buffers)))
		must(t, err)
		if len(d.Buffers) != 0 {
			t.Errorf("%s: %d buffers", buffers, len(d.Buffers))
		}
	}
	d, err := DecodeDescriptor([]byte(`{"name":"a","protocol":"tcp"}`))
	must(t, err)
	if d.TCPDataPort != 0 || d.Extension != nil || d.PriorityMatrix != nil {
		t.Errorf("%+v", d)
	}
}

func TestDecodeKeepsAllBits(t *testing.T) {
	// Through a float64 both would come back changed.
	text := with(t, bufferList, `[{"addr":9007199254740993,"length":1,"name":"a"},{"addr":18446744073709551614,"length":1,"name":"a"}]`)
	d, err := DecodeDescriptor([]byte(text))
	must(t, err)
	if d.Buffers[0].Addr != 9007199254740993 || d.Buffers[1].Addr != math.MaxUint64-1 {
		t.Errorf("addresses %d and %d", d.Buffers[0].Addr, d.Buffers[1].Addr)
	}
}

func TestDecodeSeveralProtocols(t *testing.T) {
	text := `{"name":"a:1","protocol":["cxl","rdma","tcp"],"tcp_data_port":5,` +
		`"devices":[{"name":"n","lid":1,"gid":"fe"}],"buffers":[` +
		`{"protocol":"cxl","offset":0,"length":5,"name":"c"},` +
		`{"protocol":"rdma","addr":10,"length":5,"name":"cpu:0","rkey":[1],"lkey":[2]},` +
		`{"protocol":"tcp","addr":10,"length":5,"name":"a:1"}]}`
	d, err := DecodeDescriptor([]byte(text))
	must(t, err)
	if want := []string{"cxl", "rdma", "tcp"}; !reflect.DeepEqual(d.Protocols, want) || d.Protocol != "cxl" {
		t.Errorf("protocols %v, first %s", d.Protocols, d.Protocol)
	}
	if len(d.Buffers) != 2 || d.Buffers[0].Protocol != "rdma" || d.Buffers[1].Protocol != "tcp" {
		t.Errorf("buffers %+v", d.Buffers)
	}
	// Keys of other transports have other widths: not understood, no error.
	d, err = DecodeDescriptor([]byte(`{"name":"a","protocol":"efa","buffers":[{"addr":1,"length":1,"name":"x","rkey":[18446744073709551615]}]}`))
	must(t, err)
	if d.Protocol != "efa" || len(d.Buffers) != 0 {
		t.Errorf("%+v", d)
	}
}

func TestDecodeExtension(t *testing.T) {
	const instance = "0123456789abcdef0123456789abcdef"
	tests := map[string]*Extension{
		`{"instance":"` + instance + `","version":1,"hello":1}`:                          {Instance: instance, Version: 1, Hello: 1},
		`{"instance":"` + instance + `","version":3,"vectored":{"x":[1]},"later":"yes"}`: {Instance: instance, Version: 3, Hello: 0},
		`{"instance":"` + instance + `","version":"1"}`:                                  nil,
		`{"instance":"` + instance + `","version":0}`:                                    nil,
		`{"instance":"` + instance + `"}`:                                                nil,
		`{"instance":"` + instance + `","version":1,"hello":-1}`:                         nil,
		`{"instance":"` + instance + `0","version":1}`:                                   nil,
		`{"instance":"` + strings.ToUpper(instance) + `","version":1}`:                   nil,
		`{"instance":17,"version":1}`:                                                    nil,
		`{"version":1}`:                                                                  nil,
		`{}`:                                                                             nil,
		`[]`:                                                                             nil,
		`"text"`:                                                                         nil,
		`7`:                                                                              nil,
		`null`:                                                                           nil,
	}
	for text, want := range tests {
		d, err := DecodeDescriptor([]byte(with(t, `{"buffers"`, `{"mooncake_go":`+text+`,"buffers"`)))
		must(t, err)
		if !reflect.DeepEqual(d.Extension, want) {
			t.Errorf("%s: %+v, want %+v", text, d.Extension, want)
		}
	}
}

func TestDecodeSharesNoMemory(t *testing.T) {
	text := []byte(upstreamRDMA)
	d, err := DecodeDescriptor(text)
	must(t, err)
	clear(text)
	if !reflect.DeepEqual(d, rdmaDescriptor()) {
		t.Errorf("changed with the text: %+v", d)
	}
}

func TestDecodeQuotesLittle(t *testing.T) {
	_, err := DecodeDescriptor([]byte(with(t, `16021`, `"`+strings.Repeat("x", 1<<16)+`\n"`)))
	wantText(t, err, "tcp_data_port")
	if n := len(err.Error()); n > 300 {
		t.Errorf("error of %d bytes", n)
	}
	if _, err := DecodeDescriptor([]byte(strings.Repeat("[", 1<<20))); err == nil {
		t.Error("accepted a million brackets")
	}
}

// manyBuffers is a descriptor near the frame limit.
func manyBuffers(t testing.TB) []byte {
	d := tcpDescriptor()
	d.Buffers = nil
	for i := range uint64(16000) {
		d.Buffers = append(d.Buffers, Buffer{Name: d.Name, Addr: 140716936523792 + i<<21, Length: 1 << 20})
	}
	text, err := d.Encode()
	must(t, err)
	return text
}

func TestDecodeManyBuffersQuickly(t *testing.T) {
	text := manyBuffers(t)
	limit := 150 * time.Millisecond
	if raceEnabled {
		limit *= 10
	}
	best := time.Hour
	for range 7 { // the best of some, since other work shares the machine
		began := time.Now()
		d, err := DecodeDescriptor(text)
		best = min(best, time.Since(began))
		must(t, err)
		if len(d.Buffers) != 16000 || d.Buffers[15999].Addr != 140716936523792+15999<<21 {
			t.Fatalf("%d buffers", len(d.Buffers))
		}
	}
	if best > limit {
		t.Errorf("%d bytes took %v, want at most %v", len(text), best, limit)
	}
}

func BenchmarkDecodeDescriptor(b *testing.B) {
	text := manyBuffers(b)
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := DecodeDescriptor(text); err != nil {
			b.Fatal(err)
		}
	}
}

func FuzzDecodeDescriptor(f *testing.F) {
	f.Add([]byte(upstreamTCP))
	f.Add([]byte(upstreamRDMA))
	f.Add([]byte(`{"name":"a","protocol":["tcp","cxl"],"buffers":[{"protocol":"cxl"}]}`))
	f.Add([]byte(`{"name":"\ud800\u0000","protocol":"tcp","mooncake_go":{"instance":"0123456789abcdef0123456789abcdef","version":1}}`))
	f.Add([]byte("null"))
	f.Add([]byte("[]"))
	f.Fuzz(func(t *testing.T, text []byte) {
		d, err := DecodeDescriptor(text)
		if err != nil {
			return
		}
		if d.Name == "" || d.Protocol == "" || d.TCPProtoVersion < 1 {
			t.Fatalf("incomplete: %+v", d)
		}
		for _, b := range d.Buffers {
			if b.Addr == 0 || b.Length == 0 || b.Addr+b.Length < b.Addr || b.Name == "" {
				t.Fatalf("buffer %+v", b)
			}
		}
		if len(d.Protocols) > 1 {
			return // Encode writes the form of one
		}
		again, err := d.Encode()
		if err != nil {
			return // decoding is the more lenient side
		}
		back, err := DecodeDescriptor(again)
		if err != nil {
			t.Fatalf("%q is encoded as %q: %v", text, again, err)
		}
		if got, want := gist(back), gist(d); got != want {
			t.Fatalf("%s came back as %s", want, got)
		}
	})
}

// gist is what every encoding of d keeps.
func gist(d *Descriptor) string {
	text := fmt.Sprintf("%q %q %d %d %q %+v", d.Name, d.Protocol, d.TCPDataPort, d.TCPProtoVersion, d.RDMAServerName, d.Extension != nil)
	for _, b := range d.Buffers {
		text += fmt.Sprintf(" %q %d %d", b.Name, b.Addr, b.Length)
	}
	return text
}
