package metadata

import (
	"math"
	"slices"

	"github.com/pkg/errors"
)

// ConnectionExtension is what two engines of this implementation tell each other in
// a connection message on top; core/endpoint says what it means. Upstream ignores it.
type ConnectionExtension struct {
	Version    int    // of the extension, at least 1
	Kind       string // what the message is
	Instance   string // the sender, as in its descriptor
	Target     string // the instance it is meant for; "" if any
	Connection uint64 // number that the initiator gave the connection
	Name       string // the sender's segment name
	Device     string // the receiver's device, in messages without paths
	MTU        int    // bytes of a packet that the sender's port takes; 0: it does not say
	Fenced     uint64 // how many fences the sender had made when it last fenced the receiver off
}

const maxKind = 32 // bytes

var pathMTUs = []int{256, 512, 1024, 2048, 4096}

func (e *ConnectionExtension) check() error {
	switch {
	case e.Version < 1:
		return errors.Errorf("version: must be at least 1, not %d", e.Version)
	case e.Kind == "" || len(e.Kind) > maxKind:
		return errors.Errorf("kind: must have 1 to %d bytes, not %s", maxKind, excerptString(e.Kind))
	case !isInstance(e.Instance):
		return errors.Errorf("instance: must be 32 lower-case hex digits, not %s", excerptString(e.Instance))
	case e.Target != "" && !isInstance(e.Target):
		return errors.Errorf("target: must be 32 lower-case hex digits, not %s", excerptString(e.Target))
	case e.MTU != 0 && !slices.Contains(pathMTUs, e.MTU):
		return errors.Errorf("mtu: must be one of %v, not %d", pathMTUs, e.MTU)
	case len(e.Name) > MaxNICPath || len(e.Device) > MaxNICPath:
		return errors.Errorf("name and device: must be at most %d bytes long", MaxNICPath)
	}
	return checkUTF8("kind", e.Kind, "name", e.Name, "device", e.Device)
}

func (e *ConnectionExtension) append(out []byte) []byte {
	out = append(out, '{')
	out = appendUintMember(out, "connection", e.Connection)
	if e.Device != "" {
		out = appendStringMember(out, "device", e.Device)
	}
	out = appendUintMember(out, "fenced", e.Fenced)
	out = appendStringMember(out, "instance", e.Instance)
	out = appendStringMember(out, "kind", e.Kind)
	if e.MTU != 0 {
		out = appendUintMember(out, "mtu", uint64(e.MTU))
	}
	if e.Name != "" {
		out = appendStringMember(out, "name", e.Name)
	}
	if e.Target != "" {
		out = appendStringMember(out, "target", e.Target)
	}
	out = appendUintMember(out, "version", uint64(e.Version))
	return append(out, '}')
}

// readConnectionExtension is nil for null. Other than a descriptor's, a malformed
// one is an error: without it the message would mean something else.
func readConnectionExtension(value []byte) (*ConnectionExtension, error) {
	if isNull(value) {
		return nil, nil
	}
	e := &ConnectionExtension{}
	err := readMembers(value, func(key string, member []byte) error {
		return atMember(e.readMember(key, member), key)
	})
	if err == nil {
		err = e.check()
	}
	if err != nil {
		return nil, err
	}
	return e, nil
}

func (e *ConnectionExtension) readMember(key string, member []byte) (err error) {
	switch key {
	case "version":
		var n uint64
		n, err = readUint(member, math.MaxInt32)
		e.Version = int(n)
	case "kind":
		e.Kind, err = readString(member)
	case "instance":
		e.Instance, err = readString(member)
	case "target":
		e.Target, err = readString(member)
	case "connection":
		e.Connection, err = readUint(member, math.MaxUint64)
	case "name":
		e.Name, err = readString(member)
	case "device":
		e.Device, err = readString(member)
	case "mtu":
		var n uint64
		n, err = readUint(member, math.MaxInt32)
		e.MTU = int(n)
	case "fenced":
		e.Fenced, err = readUint(member, math.MaxUint64)
	}
	return err
}
