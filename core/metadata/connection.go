package metadata

import (
	"math"
	"strconv"

	"github.com/pkg/errors"
)

// ConnectionMessage is what the two sides of an RDMA connection tell each other.
// The same object travels in both directions.
type ConnectionMessage struct {
	LocalNICPath string   // "<server>@<device>" of the sender
	PeerNICPath  string   // the same of the receiver, as the sender knows it
	QPNum        []uint32 // the sender's queue pairs, in order
	LocalGID     string   // 16 hex bytes separated by colons
	LocalLID     uint16
	// ReadyAck is nil if the sender does not know the ready ack, points to true
	// in the ack itself and to false in any other message.
	ReadyAck *bool
	ReplyMsg string // not empty: the request was rejected, and why
	Payload  string // opaque, for other transports
	// Extension is nil in messages of another implementation, and in those to one.
	Extension *ConnectionExtension
}

// Limits of a connection message. One that exceeds them is refused.
const (
	MaxQPNum   = 256  // queue pairs
	MaxNICPath = 1024 // bytes of a path
)

// ConnectionRequest and ConnectionReply name the direction.
type (
	ConnectionRequest = ConnectionMessage
	ConnectionReply   = ConnectionMessage
)

// encodeConnection writes a body in which every member has its documented type.
func encodeConnection(m *ConnectionMessage) []byte {
	out := append(make([]byte, 0, 512), '{')
	out = appendStringMember(out, "local_gid", m.LocalGID)
	out = appendUintMember(out, "local_lid", uint64(m.LocalLID))
	out = appendStringMember(out, "local_nic_path", m.LocalNICPath)
	if m.Extension != nil {
		out = m.Extension.append(appendMember(out, "mooncake_go"))
	}
	out = appendStringMember(out, "payload", m.Payload)
	out = appendStringMember(out, "peer_nic_path", m.PeerNICPath)
	out = appendUint32sMember(out, "qp_num", m.QPNum)
	if m.ReadyAck != nil {
		out = strconv.AppendBool(appendMember(out, "ready_ack"), *m.ReadyAck)
	}
	out = appendStringMember(out, "reply_msg", m.ReplyMsg)
	return append(out, "}\n"...)
}

// check finds what a receiver would refuse, or would read as something else.
func (m *ConnectionMessage) check() error {
	if len(m.QPNum) > MaxQPNum {
		return errors.Errorf("qp_num: %d queue pairs, at most %d are allowed", len(m.QPNum), MaxQPNum)
	}
	for _, path := range []string{m.LocalNICPath, m.PeerNICPath} {
		if len(path) > MaxNICPath {
			return errors.Errorf("device path %s: longer than %d bytes", excerptString(path), MaxNICPath)
		}
	}
	if m.Extension != nil {
		if err := m.Extension.check(); err != nil {
			return atMember(err, "mooncake_go")
		}
	}
	return checkUTF8("local_nic_path", m.LocalNICPath, "peer_nic_path", m.PeerNICPath,
		"local_gid", m.LocalGID, "reply_msg", m.ReplyMsg, "payload", m.Payload)
}

// decodeConnection reads a request or reply strictly, but for local_lid, which
// is 0 if it is no such number, as upstream reads it. Unknown members are ignored.
func decodeConnection(body []byte) (*ConnectionMessage, error) {
	value, err := jsonValue(body)
	if err != nil {
		return nil, errors.WithMessage(err, "connection")
	}
	m := &ConnectionMessage{}
	err = readMembers(value, func(key string, member []byte) error {
		return atMember(m.readMember(key, member), key)
	})
	if err != nil {
		return nil, errors.WithMessage(err, "connection")
	}
	return m, nil
}

func (m *ConnectionMessage) readMember(key string, member []byte) (err error) {
	switch key {
	case "local_nic_path":
		m.LocalNICPath, err = readNICPath(member)
	case "mooncake_go":
		m.Extension, err = readConnectionExtension(member)
	case "peer_nic_path":
		m.PeerNICPath, err = readNICPath(member)
	case "qp_num":
		m.QPNum, err = readQPNum(member)
	case "local_gid":
		m.LocalGID, err = readString(member)
	case "local_lid":
		lid, lidErr := readUint(member, math.MaxUint16)
		if lidErr != nil {
			lid = 0
		}
		m.LocalLID = uint16(lid)
	case "ready_ack":
		m.ReadyAck, err = readBool(member)
	case "reply_msg":
		m.ReplyMsg, err = readString(member)
	case "payload":
		m.Payload, err = readString(member)
	}
	return err
}

func readNICPath(member []byte) (string, error) {
	path, err := readString(member)
	if err == nil && len(path) > MaxNICPath {
		return "", errors.Errorf("must be at most %d bytes long, not %d", MaxNICPath, len(path))
	}
	return path, err
}

func readQPNum(member []byte) ([]uint32, error) {
	var numbers []uint32
	err := readElements(member, func(i int, element []byte) error {
		if i == MaxQPNum {
			return errors.Errorf("must have at most %d elements", MaxQPNum)
		}
		n, err := readUint(element, math.MaxUint32)
		numbers = append(numbers, uint32(n))
		return atIndex(err, i)
	})
	if err != nil {
		return nil, err
	}
	return numbers, nil
}
