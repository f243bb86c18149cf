package endpoint

import (
	"strconv"
	"strings"

	"github.com/pkg/errors"

	"mooncake/core/metadata"
)

// GID is the address of a device port.
type GID [16]byte

const hexDigits = "0123456789abcdef"

// String is the form in messages: 16 bytes in lower-case hex, separated by colons.
func (g GID) String() string {
	out := make([]byte, 0, 3*len(g))
	for i, b := range g {
		if i > 0 {
			out = append(out, ':')
		}
		out = append(out, hexDigits[b>>4], hexDigits[b&15])
	}
	return string(out)
}

// ParseGID reads what String writes; as upstream it takes single digits and capitals
// as well.
func ParseGID(text string) (GID, error) {
	var g GID
	parts := strings.SplitN(text, ":", len(g)+1)
	if len(parts) != len(g) {
		return GID{}, errors.WithMessagef(ErrProtocol, "GID %s: must be %d bytes separated by colons", quote(text), len(g))
	}
	for i, part := range parts {
		b, err := strconv.ParseUint(part, 16, 8)
		if err != nil || len(part) > 2 {
			return GID{}, errors.WithMessagef(ErrProtocol, "GID %s: byte %d is not hex", quote(text), i)
		}
		g[i] = byte(b)
	}
	return g, nil
}

// NICPath names a device of an engine. Paths are compared byte for byte.
func NICPath(server, nic string) string { return server + "@" + nic }

// SplitNICPath is the way back; ok is false for what is no path.
func SplitNICPath(path string) (server, nic string, ok bool) {
	server, nic, ok = strings.Cut(path, "@")
	return server, nic, ok && server != "" && nic != ""
}

// Device is the device of the receiver that a message is for, "" if it names none.
func Device(m *metadata.ConnectionMessage) string {
	if m.Extension != nil && m.Extension.Device != "" {
		return m.Extension.Device
	}
	_, nic, _ := strings.Cut(m.PeerNICPath, "@")
	return nic
}

func serverOf(path string) string {
	server, _, _ := strings.Cut(path, "@")
	return server
}

// quote makes foreign text fit for errors and the log.
func quote(text string) string { return quoteUpTo(text, 120) }

func quoteUpTo(text string, most int) string {
	if len(text) > most {
		return strconv.QuoteToASCII(text[:most]) + "..."
	}
	return strconv.QuoteToASCII(text)
}
