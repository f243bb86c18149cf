package rdma

import (
	"fmt"

	"github.com/pkg/errors"
)

// Attributes are the limits of a device, as its driver tells them.
type Attributes struct {
	Firmware     string
	Ports        int
	MaxQP        int
	MaxCQ        int
	MaxCQE       int // entries of one CQ
	MaxMR        int
	MaxPD        int
	MaxQPWR      int // work requests of one queue
	MaxSGE       int // pieces of local memory of a WRITE
	MaxSGERead   int // of a READ
	MaxQPReads   int // READs in flight that one QP may issue
	MaxQPReadsIn int // and that it answers
	MaxMRSize    uint64
	Atomics      bool
}

// PortAttributes are what verbs knows about a port.
type PortAttributes struct {
	Device     string
	Number     int
	State      PortState
	LinkLayer  LinkLayer
	ActiveMTU  int // bytes
	MaxMessage uint64
	LID        uint16
	GIDs       int     // length of the table, set or not
	RateGbps   float64 // of the link as it is now; 0 if unknown
}

// Ready tells whether data can go through the port: nil, or ErrPortDown with the state
// and what to look at.
func (p PortAttributes) Ready() error {
	if p.State == PortActive || p.State == PortActiveDefer {
		return nil
	}
	remedy := "look at the cable and the switch, and whether the subnet manager runs"
	if p.LinkLayer == LinkEthernet {
		remedy = "look at the cable, and whether its network interface is up (ip link; rdma link)"
	}
	return errors.WithMessagef(ErrPortDown, "port %d of %s is %s: %s", p.Number, p.Device, p.State, remedy)
}

func (s PortState) String() string {
	names := map[PortState]string{
		PortDown: "down", PortInit: "initializing", PortArmed: "armed", PortActive: "active",
		PortActiveDefer: "active, deferred",
	}
	if name, known := names[s]; known {
		return name
	}
	return "in an unknown state"
}

// QPConfig is the size of a queue pair. A device may grant more.
type QPConfig struct {
	SendDepth int // work requests
	MaxSGE    int // pieces of local memory of a work request
	MaxInline int // bytes that a work request may carry itself
}

// InitConfig is for QP.ToInit.
type InitConfig struct {
	Port      int
	PKeyIndex int
	Access    Access // what the peer may do
}

// RTRConfig is for QP.ToRTR: who the peer is and how to get there.
type RTRConfig struct {
	PathMTU     int // bytes: 256, 512, 1024, 2048 or 4096
	RemoteQP    uint32
	ReceivePSN  uint32
	MaxReadsIn  int // READs of the peer in flight
	MinRNRTimer int // verbs' code
	Port        int // own

	// Global: by GID, as RoCE needs; the fields down to FlowLabel count only then.
	Global       bool
	GID          [16]byte // the peer's
	GIDIndex     int      // own
	HopLimit     int
	TrafficClass int
	FlowLabel    uint32

	LID            uint16 // the peer's; 0 with RoCE
	ServiceLevel   int
	SourcePathBits int
	StaticRate     int
}

// RTSConfig is for QP.ToRTS: how requests are sent and repeated.
type RTSConfig struct {
	Timeout    int // verbs' code: 4.096 us << Timeout
	RetryCount int // 0 to 7
	RNRRetry   int // 0 to 7; 7 is for ever
	SendPSN    uint32
	MaxReads   int // own READs in flight
}

// QPState is a state of a queue pair, numbered as verbs does.
type QPState int

const (
	QPReset QPState = iota
	QPInit
	QPReadyToReceive
	QPReadyToSend
	QPSendDrained
	QPSendError
	QPError
)

func (s QPState) String() string {
	names := []string{"RESET", "INIT", "RTR", "RTS", "SQD", "SQE", "ERR"}
	if int(s) >= 0 && int(s) < len(names) {
		return names[s]
	}
	return fmt.Sprintf("state %d", int(s))
}

// mtuCode is verbs' number for an MTU in bytes.
func mtuCode(bytes int) (uint32, error) {
	for code := uint32(1); code <= 5; code++ {
		if 128<<code == bytes {
			return code, nil
		}
	}
	return 0, errors.Errorf("path MTU of %d bytes: must be 256, 512, 1024, 2048 or 4096", bytes)
}

// mtuBytes is 0 for a number that means nothing.
func mtuBytes(code int) int {
	if code < 1 || code > 5 {
		return 0
	}
	return 128 << code
}
