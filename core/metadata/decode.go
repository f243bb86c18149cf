package metadata

import (
	"math"
	"slices"
	"unicode/utf8"

	"github.com/pkg/errors"
)

// descriptorText holds the members of a descriptor before they are understood:
// what a buffer must look like depends on the protocol, which comes after the
// buffers. Of duplicate members the last one counts, as upstream.
type descriptorText struct {
	name, protocol, dataHost, dataPort, protoVersion, timestamp []byte
	serverName, buffers, devices, matrix, extension             []byte
}

// DecodeDescriptor reads the body of a metadata reply. Whatever the body is, the
// result is a descriptor that keeps upstream's rules, or an error that names the
// member at fault; null is ErrNoDescriptor. Unknown members are ignored, and so
// are a malformed extension and priority matrix. The buffers and devices of a
// publisher that offers neither tcp nor rdma are left out, since their form is
// not known.
func DecodeDescriptor(body []byte) (*Descriptor, error) {
	value, err := jsonValue(body)
	if err != nil {
		return nil, errors.WithMessage(err, "descriptor")
	}
	if isNull(value) {
		return nil, ErrNoDescriptor
	}
	var text descriptorText
	if err := readMembers(value, text.keep); err != nil {
		return nil, errors.WithMessage(err, "descriptor")
	}
	d := &Descriptor{}
	if err := text.decodeHead(d); err != nil {
		return nil, errors.WithMessage(err, "descriptor")
	}
	if !d.offers(ProtocolTCP) && !d.offers(ProtocolRDMA) {
		return d, nil
	}
	if err := text.decodeRanges(d); err != nil {
		return nil, errors.WithMessage(err, "descriptor")
	}
	return d, nil
}

func (t *descriptorText) keep(key string, member []byte) error {
	switch key {
	case "name":
		t.name = member
	case "protocol":
		t.protocol = member
	case "tcp_data_host":
		t.dataHost = member
	case "tcp_data_port":
		t.dataPort = member
	case "tcp_proto_version":
		t.protoVersion = member
	case "timestamp":
		t.timestamp = member
	case "rdma_server_name":
		t.serverName = member
	case "buffers":
		t.buffers = member
	case "devices":
		t.devices = member
	case "priority_matrix":
		t.matrix = member
	case "mooncake_go":
		t.extension = member
	}
	return nil
}

// decodeHead reads all but buffers and devices.
func (t *descriptorText) decodeHead(d *Descriptor) (err error) {
	if d.Name, err = readString(t.name); err != nil {
		return atMember(err, "name")
	}
	if d.Name == "" {
		return errors.New("name: missing or empty")
	}
	if d.Protocols, err = readProtocols(t.protocol); err != nil {
		return atMember(err, "protocol")
	}
	d.Protocol = d.Protocols[0]
	port, err := readUint(t.dataPort, math.MaxUint16)
	if err != nil {
		return atMember(err, "tcp_data_port")
	}
	version, err := readUint(t.protoVersion, math.MaxInt32)
	if err != nil {
		return atMember(err, "tcp_proto_version")
	}
	d.TCPDataPort, d.TCPProtoVersion = uint16(port), max(int(version), 1)
	if d.TCPDataHost, err = readString(t.dataHost); err != nil {
		return atMember(err, "tcp_data_host")
	}
	if d.Timestamp, err = readString(t.timestamp); err != nil {
		return atMember(err, "timestamp")
	}
	if d.RDMAServerName, err = readString(t.serverName); err != nil {
		return atMember(err, "rdma_server_name")
	}
	d.PriorityMatrix = readMatrix(t.matrix)
	d.Extension = readExtension(t.extension)
	return nil
}

// readProtocols reads a string or an array of strings; at least one.
func readProtocols(value []byte) ([]string, error) {
	if !isNull(value) && value[0] != '[' {
		protocol, err := readString(value)
		if err != nil {
			return nil, errors.Errorf("must be a string or an array of strings, not %s", excerpt(value))
		}
		if protocol == "" {
			return nil, errors.New("empty")
		}
		return []string{protocol}, nil
	}
	var all []string
	err := readElements(value, func(i int, element []byte) error {
		protocol, err := readString(element)
		if err == nil && protocol == "" {
			err = errors.New("empty")
		}
		all = append(all, protocol)
		return atIndex(err, i)
	})
	if err == nil && len(all) == 0 {
		err = errors.New("missing or empty")
	}
	return all, err
}

// readMatrix returns a copy of the JSON object, nil if it is none.
func readMatrix(text []byte) []byte {
	value, err := jsonValue(text)
	if err != nil || value[0] != '{' || !utf8.Valid(value) {
		return nil
	}
	return slices.Clone(value)
}

// readExtension is nil unless the extension is well formed.
func readExtension(value []byte) *Extension {
	if isNull(value) {
		return nil
	}
	var e Extension
	err := readMembers(value, func(key string, member []byte) (err error) {
		var n uint64
		switch key {
		case "instance":
			e.Instance, err = readString(member)
		case "version":
			n, err = readUint(member, math.MaxInt32)
			e.Version = int(n)
		case "hello":
			n, err = readUint(member, math.MaxInt32)
			e.Hello = int(n)
		case "fences":
			e.Fences, err = readUint(member, math.MaxUint64)
		case "host":
			e.Host, err = readString(member)
		case "local":
			n, err = readUint(member, math.MaxInt32)
			e.Local = int(n)
		case "rdma":
			n, err = readUint(member, math.MaxInt32)
			e.RDMA = int(n)
		case "rdma_fences":
			e.RDMAFences, err = readUint(member, math.MaxUint64)
		}
		return err
	})
	if err != nil || !e.valid() {
		return nil
	}
	return &e
}

// decodeRanges reads devices and buffers and checks them.
func (t *descriptorText) decodeRanges(d *Descriptor) error {
	err := readElements(t.devices, func(i int, element []byte) error {
		device, err := readDevice(element)
		d.Devices = append(d.Devices, device)
		return atIndex(err, i)
	})
	if err != nil {
		return atMember(err, "devices")
	}
	last := ""
	err = readElements(t.buffers, func(i int, element []byte) error {
		b, err := readBuffer(element)
		if err != nil {
			return atIndex(err, i)
		}
		// With several transports a buffer says which one it is for, and the
		// others have members of their own instead of an address.
		if len(d.Protocols) > 1 && b.Protocol != "" && b.Protocol != ProtocolTCP && b.Protocol != ProtocolRDMA {
			return nil
		}
		if b.Name == last {
			b.Name = last // thousands of buffers share one name: keep one copy
		}
		last = b.Name
		d.Buffers = append(d.Buffers, b)
		return nil
	})
	if err != nil {
		return atMember(err, "buffers")
	}
	if err := d.checkDevices(); err != nil {
		return err
	}
	return d.checkBuffers()
}

func readDevice(value []byte) (d Device, err error) {
	err = readMembers(value, func(key string, member []byte) (err error) {
		switch key {
		case "name":
			d.Name, err = readString(member)
		case "lid":
			var lid uint64
			lid, err = readUint(member, math.MaxUint16)
			d.LID = uint16(lid)
		case "gid":
			d.GID, err = readString(member)
		}
		return atMember(err, key)
	})
	return d, err
}

func readBuffer(value []byte) (b Buffer, err error) {
	err = readMembers(value, func(key string, member []byte) (err error) {
		switch key {
		case "name":
			b.Name, err = readString(member)
		case "protocol":
			b.Protocol, err = readString(member)
		case "addr":
			b.Addr, err = readUint(member, math.MaxUint64)
		case "length":
			b.Length, err = readUint(member, math.MaxUint64)
		case "rkey":
			b.RKey, err = readUint32s(member)
		case "lkey":
			b.LKey, err = readUint32s(member)
		}
		return atMember(err, key)
	})
	return b, err
}
