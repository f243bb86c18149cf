package metadata

import (
	"bytes"
	"encoding/json"
	"math"
	"time"
	"unicode/utf8"

	"github.com/pkg/errors"
)

// Names of the transports in a descriptor.
const (
	ProtocolTCP  = "tcp"
	ProtocolRDMA = "rdma"
)

// Descriptor is the published form of a segment. A decoded one shares no memory
// with the text it came from; nothing here changes it, so it may be shared.
type Descriptor struct {
	// Name is the publisher's own segment name: peers connect the data port,
	// and RDMA, to the host in it.
	Name string
	// Protocol is the transport, or the first of them; Protocols are all.
	// Upstream publishes several only in builds of several transports.
	// Encode writes Protocol only.
	Protocol  string
	Protocols []string

	TCPDataHost     string // where the data port is, if not at the host in Name
	TCPDataPort     uint16 // 0 where there is no TCP
	TCPProtoVersion int    // 1 where the publisher does not say
	Timestamp       string // when it was written; see TimestampOf

	RDMAServerName string // replaces Name in RDMA device paths, unless empty
	Buffers        []Buffer
	Devices        []Device // RDMA only, in the order of the buffers' keys
	// PriorityMatrix maps memory locations to RDMA devices: a JSON object, or
	// nil if there is none.
	PriorityMatrix json.RawMessage

	// Extension is nil for a peer of another implementation.
	Extension *Extension
}

// Buffer is one registered address range.
type Buffer struct {
	Name         string // tcp: the server name; rdma: the memory's location
	Protocol     string // the transport it is for, if the publisher has several
	Addr, Length uint64
	RKey, LKey   []uint32 // one per device; nil for tcp
}

// Device is one RDMA device of the publisher.
type Device struct {
	Name string
	LID  uint16
	GID  string
}

// Extension is what engines of this implementation tell each other on top.
type Extension struct {
	Instance string // 32 lower-case hex digits, random per start of the engine
	Version  int    // of the extension, at least 1
	Hello    int    // 1 if data connections may begin with a hello
	Fences   uint64 // how often the publisher has fenced peers off so far
	// Host tells hosts apart, and Local is the version of the transport for peers on
	// the same one; "" and 0 where the publisher does not have it.
	Host  string
	Local int
	// RDMA is the version of this implementation's RDMA connections, 0 without RDMA, and
	// RDMAFences how often the publisher has fenced peers off on them.
	RDMA       int
	RDMAFences uint64
}

// TimestampOf is t in the form of Descriptor.Timestamp.
func TimestampOf(t time.Time) string { return t.Format("2006-01-02 15:04:05.000000") }

// Encode writes the body of a metadata reply, which every upstream
// release accepts for the same protocol. An empty Timestamp becomes the present
// time. A descriptor that peers would refuse is ErrArgument.
func (d *Descriptor) Encode() ([]byte, error) {
	if err := d.checkPublishable(); err != nil {
		return nil, fail(ErrArgument, err)
	}
	rdma := d.Protocol == ProtocolRDMA
	out := append(make([]byte, 0, 256+80*len(d.Buffers)), '{')
	out = appendBuffers(out, d.Buffers, rdma)
	if rdma {
		out = appendDevices(out, d.Devices)
	}
	if d.Extension != nil {
		out = appendExtension(out, d.Extension)
	}
	out = appendStringMember(out, "name", d.Name)
	if rdma && d.PriorityMatrix != nil {
		var compact bytes.Buffer
		if err := json.Compact(&compact, d.PriorityMatrix); err != nil {
			return nil, fail(ErrArgument, errors.Wrap(err, "priority_matrix"))
		}
		out = append(appendMember(out, "priority_matrix"), compact.Bytes()...)
	}
	out = appendStringMember(out, "protocol", d.Protocol)
	if d.RDMAServerName != "" {
		out = appendStringMember(out, "rdma_server_name", d.RDMAServerName)
	}
	timestamp := d.Timestamp
	if timestamp == "" {
		timestamp = TimestampOf(time.Now())
	}
	if d.TCPDataHost != "" {
		out = appendStringMember(out, "tcp_data_host", d.TCPDataHost)
	}
	out = appendUintMember(out, "tcp_data_port", uint64(d.TCPDataPort))
	out = appendUintMember(out, "tcp_proto_version", uint64(d.TCPProtoVersion))
	out = appendStringMember(out, "timestamp", timestamp)
	return append(out, "}\n"...), nil
}

func appendBuffers(out []byte, buffers []Buffer, keys bool) []byte {
	out = append(appendMember(out, "buffers"), '[')
	for i := range buffers {
		b := &buffers[i]
		if i > 0 {
			out = append(out, ',')
		}
		out = append(out, '{')
		out = appendUintMember(out, "addr", b.Addr)
		out = appendUintMember(out, "length", b.Length)
		if keys {
			out = appendUint32sMember(out, "lkey", b.LKey)
		}
		out = appendStringMember(out, "name", b.Name)
		if keys {
			out = appendUint32sMember(out, "rkey", b.RKey)
		}
		out = append(out, '}')
	}
	return append(out, ']')
}

func appendDevices(out []byte, devices []Device) []byte {
	out = append(appendMember(out, "devices"), '[')
	for i, device := range devices {
		if i > 0 {
			out = append(out, ',')
		}
		out = append(out, '{')
		out = appendStringMember(out, "gid", device.GID)
		out = appendUintMember(out, "lid", uint64(device.LID))
		out = appendStringMember(out, "name", device.Name)
		out = append(out, '}')
	}
	return append(out, ']')
}

func appendExtension(out []byte, e *Extension) []byte {
	out = append(appendMember(out, "mooncake_go"), '{')
	out = appendUintMember(out, "fences", e.Fences)
	out = appendUintMember(out, "hello", uint64(e.Hello))
	if e.Host != "" {
		out = appendStringMember(out, "host", e.Host)
	}
	out = appendStringMember(out, "instance", e.Instance)
	if e.Local != 0 {
		out = appendUintMember(out, "local", uint64(e.Local))
	}
	if e.RDMA != 0 {
		out = appendUintMember(out, "rdma", uint64(e.RDMA))
		out = appendUintMember(out, "rdma_fences", e.RDMAFences)
	}
	out = appendUintMember(out, "version", uint64(e.Version))
	return append(out, '}')
}

// checkPublishable finds what upstream, or DecodeDescriptor, would refuse.
func (d *Descriptor) checkPublishable() error {
	switch {
	case d.Name == "":
		return errors.New("name: empty")
	case d.Protocol != ProtocolTCP && d.Protocol != ProtocolRDMA:
		return errors.Errorf("protocol: %s is neither tcp nor rdma", excerptString(d.Protocol))
	case d.TCPProtoVersion < 1 || d.TCPProtoVersion > math.MaxInt32:
		return errors.Errorf("tcp_proto_version: %d is not within 1 to %d", d.TCPProtoVersion, math.MaxInt32)
	case d.Extension != nil && !d.Extension.valid():
		return errors.Errorf("mooncake_go: malformed: %+v", *d.Extension)
	}
	if err := checkUTF8("name", d.Name, "rdma_server_name", d.RDMAServerName, "timestamp", d.Timestamp); err != nil {
		return err
	}
	if d.Protocol == ProtocolTCP {
		return d.checkBuffers()
	}
	if d.PriorityMatrix != nil && readMatrix(d.PriorityMatrix) == nil {
		return errors.Errorf("priority_matrix: must be a JSON object, not %s", excerpt(d.PriorityMatrix))
	}
	for i := range d.Buffers {
		// Releases up to 0.3.12 refuse everything if one buffer has no key.
		if got := len(d.Buffers[i].RKey); got != len(d.Devices) || got == 0 {
			return errors.Errorf("buffers[%d].rkey: %d keys for %d devices; each device needs one", i, got, len(d.Devices))
		}
	}
	if err := d.checkDevices(); err != nil {
		return err
	}
	return d.checkBuffers()
}

// checkDevices and checkBuffers are the checks of upstream's decoder.
func (d *Descriptor) checkDevices() error {
	for i, device := range d.Devices {
		if device.Name == "" {
			return errors.Errorf("devices[%d].name: empty", i)
		}
		if device.GID == "" {
			return errors.Errorf("devices[%d].gid: empty", i)
		}
		if err := checkUTF8("devices.name", device.Name, "devices.gid", device.GID); err != nil {
			return err
		}
	}
	return nil
}

func (d *Descriptor) checkBuffers() error {
	for i := range d.Buffers {
		b := &d.Buffers[i]
		switch {
		case b.Name == "":
			return errors.Errorf("buffers[%d].name: empty", i)
		case !utf8.ValidString(b.Name):
			return errors.Errorf("buffers[%d].name: not UTF-8", i)
		case b.Addr == 0:
			return errors.Errorf("buffers[%d].addr: 0", i)
		case b.Length == 0:
			return errors.Errorf("buffers[%d].length: 0", i)
		case b.Length > math.MaxUint64-b.Addr:
			return errors.Errorf("buffers[%d].length: %d bytes at %#x wrap around", i, b.Length, b.Addr)
		case len(b.RKey) == 0:
		case len(b.RKey) != len(b.LKey):
			return errors.Errorf("buffers[%d].rkey: %d keys, but lkey has %d", i, len(b.RKey), len(b.LKey))
		case d.offers(ProtocolRDMA) && len(b.RKey) != len(d.Devices):
			return errors.Errorf("buffers[%d].rkey: %d keys for %d devices", i, len(b.RKey), len(d.Devices))
		}
	}
	return nil
}

// offers tells whether the publisher has the transport.
func (d *Descriptor) offers(protocol string) bool {
	for _, p := range d.Protocols {
		if p == protocol {
			return true
		}
	}
	return d.Protocol == protocol
}

const maxHostText = 128

func (e *Extension) valid() bool {
	return isInstance(e.Instance) && e.Version >= 1 && e.Version <= math.MaxInt32 &&
		e.Hello >= 0 && e.Hello <= math.MaxInt32 && e.Local >= 0 && e.Local <= math.MaxInt32 &&
		e.RDMA >= 0 && e.RDMA <= math.MaxInt32 &&
		len(e.Host) <= maxHostText && utf8.ValidString(e.Host)
}

func isInstance(text string) bool {
	for i := 0; i < len(text); i++ {
		if c := text[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return len(text) == 32
}

// checkUTF8 takes pairs of a field's name and its text.
func checkUTF8(pairs ...string) error {
	for i := 0; i < len(pairs); i += 2 {
		if !utf8.ValidString(pairs[i+1]) {
			return errors.Errorf("%s: not UTF-8", pairs[i])
		}
	}
	return nil
}
