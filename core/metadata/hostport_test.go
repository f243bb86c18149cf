package metadata

import (
	"strings"
	"testing"
)

func TestParseName(t *testing.T) {
	tests := []struct {
		name, host string
		port       uint16
		present    bool
	}{
		{"node-a", "node-a", 0, false},
		{"node_a.example.", "node_a.example.", 0, false},
		{"node-a:12001", "node-a", 12001, true},
		{"1.2.3.4", "1.2.3.4", 0, false},
		{"1.2.3.4:65535", "1.2.3.4", 65535, true},
		{"1.2.3.4:0", "1.2.3.4", 0, true},
		{"1.2.3.4:0080", "1.2.3.4", 80, true},
		{"[::1]", "::1", 0, false},
		{"[::1]:15000", "::1", 15000, true},
		{"::1", "::1", 0, false},
		{"2001:db8::1:1500", "2001:db8::1:1500", 0, false}, // bare: no port possible
		{"::ffff:10.0.0.1", "::ffff:10.0.0.1", 0, false},
		{"FE80::1", "FE80::1", 0, false}, // as given
		{"fe80::1%eth0", "fe80::1%eth0", 0, false},
		{"fe80::1%eth0:16000", "fe80::1%eth0", 16000, true},
		{"[fe80::1%eth0]", "fe80::1%eth0", 0, false},
		{"[fe80::1%eth0]:16000", "fe80::1%eth0", 16000, true},
		{"knoten-ä:1", "knoten-ä", 1, true},
	}
	for _, test := range tests {
		host, port, present, err := ParseName(test.name)
		must(t, err)
		if host != test.host || port != test.port || present != test.present {
			t.Errorf("%q: %q %d %v, want %q %d %v", test.name, host, port, present, test.host, test.port, test.present)
		}
		own, err := HostOf(test.name)
		must(t, err)
		if own != test.host {
			t.Errorf("HostOf(%q) is %q, want %q", test.name, own, test.host)
		}
	}
}

func TestParseNameRefuses(t *testing.T) {
	tests := map[string]string{
		"":                          "no host",
		":15470":                    "no host",
		"host:":                     "port",
		"host:abc":                  "port",
		"host:80x":                  "port",
		"host:+80":                  "port",
		"host:-1":                   "port",
		"host: 80":                  "port",
		"host:0x50":                 "port",
		"host:65536":                "65535",
		"host:18446744073709551617": "65535",
		"10.0.0.1:12001:npu_3":      "neither host:port nor",
		"a:b:c":                     "neither host:port nor",
		"2001:db8::1:15000":         "neither host:port nor",
		"::1::2":                    "neither host:port nor",
		"[::1":                      "no ]",
		"[]:80":                     "brackets",
		"[1.2.3.4]:80":              "brackets",
		"[host]:80":                 "brackets",
		"[::1]80":                   ":port",
		"[::1]]:80":                 ":port",
		"[::1]:":                    "port",
		"[[::1]]:80":                "brackets",
		"::1]":                      "neither host:port nor",
		"host]":                     "cannot be part",
		"host%eth0":                 "scope",
		"1.2.3.4%eth0:80":           "scope",
		"fe80::1%":                  "scope",
		"fe80::1%:80":               "scope",
		"fe80::1%eth0:":             "port",
		"fe80::1%eth0:1:2":          "port",
		"fe80::1%e h":               "cannot be part",
		"a b":                       "cannot be part",
		"a/b":                       "cannot be part",
		"a@mlx5_0":                  "cannot be part",
		"host\n:80":                 "cannot be part",
		"host\x00":                  "cannot be part",
		"\xff\xfe":                  "UTF-8",
		strings.Repeat("a", 256):    "longer than 255",
		strings.Repeat(":", 1000):   "neither host:port nor",
	}
	for name, text := range tests {
		_, _, _, err := ParseName(name)
		wantKind(t, err, ErrArgument)
		wantText(t, err, text)
		if _, err := HostOf(name); err == nil {
			t.Errorf("HostOf(%q) accepts it", name)
		}
		if len(err.Error()) > 500 {
			t.Errorf("error of %d bytes for a name of %d", len(err.Error()), len(name))
		}
	}
}

func TestSplitName(t *testing.T) {
	host, port, err := SplitName("node", 12001)
	must(t, err)
	if host != "node" || port != 12001 {
		t.Errorf("node: %s %d", host, port)
	}
	host, port, err = SplitName("[::1]:7", 12001)
	must(t, err)
	if host != "::1" || port != 7 {
		t.Errorf("[::1]:7: %s %d", host, port)
	}
	if _, port, err = SplitName("node", 0); err != nil || port != 0 {
		t.Errorf("absent port: %d, %v", port, err)
	}
	_, _, err = SplitName("node:0", 12001)
	wantKind(t, err, ErrArgument)
	wantText(t, err, "port 0")
}

func TestJoinName(t *testing.T) {
	tests := []struct{ host, want string }{
		{"node", "node:80"},
		{"1.2.3.4", "1.2.3.4:80"},
		{"::1", "[::1]:80"},
		{"[::1]", "[::1]:80"},
		{"fe80::1%eth0", "[fe80::1%eth0]:80"},
	}
	for _, test := range tests {
		if got := JoinName(test.host, 80); got != test.want {
			t.Errorf("%s: %s, want %s", test.host, got, test.want)
		}
	}
}

func FuzzSplitName(f *testing.F) {
	for _, name := range []string{"", "host", "host:80", "[::1]:80", "::1", "fe80::1%eth0:80", "[fe80::1%e]", "a:b:c", "[", "%", ":", "\xff:1"} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		host, port, err := SplitName(name, 7)
		if err != nil {
			wantKind(t, err, ErrArgument)
			return
		}
		if host == "" || strings.ContainsAny(host, "[]/@ ") {
			t.Fatalf("%q gives host %q", name, host)
		}
		joined := JoinName(host, port)
		again, samePort, err := SplitName(joined, 0)
		if err != nil || again != host || samePort != port {
			t.Fatalf("%q gives %q %d, and %q gives %q %d, %v", name, host, port, joined, again, samePort, err)
		}
	})
}
