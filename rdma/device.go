package rdma

import (
	"net/netip"
)

// Device is one RDMA device, as sysfs describes it.
type Device struct {
	Name     string // such as "mlx5_0"
	NodeGUID string // "506b:4b03:00c5:1a2c", or "" if unknown
	Firmware string // "" if unknown
	NUMANode int    // -1 if unknown
	// PCIAddress is "0000:05:00.0", and PCIPath the way there from the root complex,
	// "pci0000:00/0000:00:01.0/0000:05:00.0". Both are "" for a software device.
	PCIAddress string
	PCIPath    string
	// Interfaces are the network interfaces on top of the device, sorted.
	Interfaces []string
	Ports      []DevicePort // by number
}

// DevicePort is one physical port of a device.
type DevicePort struct {
	Number    int
	State     PortState
	LinkLayer LinkLayer
	RateGbps  float64 // 0 if unknown
	LID       uint16  // InfiniBand only
	GIDs      []GID   // those that are set, by index
}

// GID is one address of a port.
type GID struct {
	Index     int
	Address   netip.Addr // 16 bytes; an IPv4 address is mapped into IPv6
	Type      GIDType
	Interface string // the network interface that the GID comes from, or ""
}

// PortState is the logical state of a port, numbered as verbs does.
type PortState int

const (
	PortUnknown     PortState = 0
	PortDown        PortState = 1
	PortInit        PortState = 2
	PortArmed       PortState = 3
	PortActive      PortState = 4
	PortActiveDefer PortState = 5
)

// LinkLayer is what a port speaks below RDMA.
type LinkLayer string

const (
	LinkUnknown    LinkLayer = ""
	LinkEthernet   LinkLayer = "Ethernet"
	LinkInfiniBand LinkLayer = "InfiniBand"
)

// GIDType is the wire protocol that a GID stands for.
type GIDType string

const (
	GIDUnknown GIDType = ""
	GIDRoCEv1  GIDType = "RoCE v1"
	GIDRoCEv2  GIDType = "RoCE v2"
	GIDIB      GIDType = "IB"
)

// Usable tells whether data can go through the port: it is active and has a GID.
func (p DevicePort) Usable() bool { return p.State == PortActive && len(p.GIDs) > 0 }

// Usable tells whether at least one port of the device is usable.
func (d Device) Usable() bool {
	for _, port := range d.Ports {
		if port.Usable() {
			return true
		}
	}
	return false
}
