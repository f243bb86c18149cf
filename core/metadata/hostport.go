package metadata

import (
	"net/netip"
	"strconv"
	"strings"
	"unicode/utf8"
)

// maxHost is the longest host text accepted: a DNS name has at most 253 bytes,
// an IPv6 literal with its scope fewer.
const maxHost = 255

// ParseName takes the name of an engine apart. The forms are "host",
// "host:port", "[v6]", "[v6]:port", a bare IPv6 address (which cannot have a
// port, except after a scope: "fe80::1%eth0:port"). host is the text without
// brackets, otherwise as given. present tells whether there was a port; it is
// 0 to 65535. Names that are none of these are ErrArgument.
func ParseName(name string) (host string, port uint16, present bool, err error) {
	host, portText, present, err := cutPort(name)
	if err != nil {
		return "", 0, false, err
	}
	if err := checkHost(name, host); err != nil {
		return "", 0, false, err
	}
	if present {
		if port, err = parsePort(name, portText); err != nil {
			return "", 0, false, err
		}
	}
	return host, port, present, nil
}

// SplitName is ParseName for a name to connect to: the port is defaultPort when
// the name has none. An explicit port 0 is ErrArgument, so a caller that gives
// defaultPort 0 and gets port 0 knows that the name has no port.
func SplitName(name string, defaultPort uint16) (host string, port uint16, err error) {
	host, port, present, err := ParseName(name)
	if err != nil {
		return "", 0, err
	}
	if !present {
		return host, defaultPort, nil
	}
	if port == 0 {
		return "", 0, failf(ErrArgument, "name %s: port 0 cannot be connected to", excerptString(name))
	}
	return host, port, nil
}

// HostOf gives the host of an engine's own name, without brackets. A port is
// allowed, must be well formed, and is ignored: the engine's port is picked.
func HostOf(name string) (string, error) {
	host, _, _, err := ParseName(name)
	return host, err
}

// JoinName is the name of the engine at host and port. An IPv6 literal is put in
// brackets, unless it has them.
func JoinName(host string, port uint16) string {
	if strings.Contains(host, ":") && !strings.HasPrefix(host, "[") {
		host = "[" + host + "]"
	}
	return host + ":" + strconv.Itoa(int(port))
}

// cutPort separates host and port without judging either.
func cutPort(name string) (host, port string, present bool, err error) {
	if rest, ok := strings.CutPrefix(name, "["); ok {
		return cutBracketed(name, rest)
	}
	if isIPv6(name) && !strings.Contains(name, "%") {
		return name, "", false, nil
	}
	if address, scope, ok := strings.Cut(name, "%"); ok {
		// Within a scope a colon can only begin the port.
		scope, port, present = strings.Cut(scope, ":")
		host = address + "%" + scope
		if !isIPv6(host) {
			return "", "", false, failf(ErrArgument, "name %s: a scope needs an IPv6 address before it, as in fe80::1%%eth0", excerptString(name))
		}
		return host, port, present, nil
	}
	host, port, present = strings.Cut(name, ":")
	if strings.Contains(port, ":") {
		return "", "", false, failf(ErrArgument, "name %s: neither host:port nor an IPv6 address; write [address]:port for an IPv6 address with a port", excerptString(name))
	}
	return host, port, present, nil
}

// cutBracketed does it for "[v6]" and "[v6]:port"; rest is the name after "[".
func cutBracketed(name, rest string) (host, port string, present bool, err error) {
	host, after, ok := strings.Cut(rest, "]")
	if !ok {
		return "", "", false, failf(ErrArgument, "name %s: no ] after [", excerptString(name))
	}
	if !isIPv6(host) {
		return "", "", false, failf(ErrArgument, "name %s: no IPv6 address in the brackets", excerptString(name))
	}
	if after == "" {
		return host, "", false, nil
	}
	port, ok = strings.CutPrefix(after, ":")
	if !ok {
		return "", "", false, failf(ErrArgument, "name %s: only :port may follow ]", excerptString(name))
	}
	return host, port, true, nil
}

func isIPv6(text string) bool {
	address, err := netip.ParseAddr(text)
	return err == nil && !address.Is4()
}

// checkHost refuses what can be no host. "/" and "@" have a meaning of their own
// in segment names and in RDMA device paths.
func checkHost(name, host string) error {
	switch {
	case host == "":
		return failf(ErrArgument, "name %s: no host", excerptString(name))
	case len(host) > maxHost:
		return failf(ErrArgument, "name %s: the host is longer than %d bytes", excerptString(name), maxHost)
	case !utf8.ValidString(host):
		return failf(ErrArgument, "name %s: not UTF-8", excerptString(name))
	}
	for _, r := range host {
		if r <= ' ' || r == 0x7f || strings.ContainsRune(`/@[]"\`, r) {
			return failf(ErrArgument, "name %s: %q cannot be part of a host", excerptString(name), r)
		}
	}
	return nil
}

func parsePort(name, text string) (uint16, error) {
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return 0, failf(ErrArgument, "name %s: the port must be a decimal number up to 65535, not %s", excerptString(name), excerptString(text))
	}
	return uint16(port), nil
}
