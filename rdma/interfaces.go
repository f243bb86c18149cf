package rdma

import (
	"net"
	"path/filepath"

	"github.com/Mellanox/rdmamap"
)

// onThisHost tells whether root is the file system of this host: only then may
// the kernel be asked as well.
func onThisHost(root string) bool { return filepath.Clean(root) == "/" }

// addInterfacesOverIB adds the network interfaces that run over InfiniBand: neither
// GIDs nor the parent file name them, they are found by the hardware address.
func addInterfacesOverIB(root string, devices []Device) {
	if len(devices) == 0 {
		return
	}
	for _, name := range list(root, "sys/class/net") {
		owner := DeviceOfInterface(name)
		for i := range devices {
			if devices[i].Name == owner {
				devices[i].Interfaces = sortedSet(append(devices[i].Interfaces, name))
			}
		}
	}
}

// The length of an IP over InfiniBand hardware address. rdmamap takes its last
// eight bytes without looking at the length, so others must not get there.
const ibAddressLength = 20

// DeviceOfInterface names the RDMA device under a network interface of this host,
// "" when there is none. It asks the kernel (netlink).
func DeviceOfInterface(name string) string {
	iface, err := net.InterfaceByName(name)
	if err != nil || iface.Flags&net.FlagLoopback != 0 {
		return ""
	}
	if n := len(iface.HardwareAddr); n != ibAddressLength && n != 6 {
		return ""
	}
	device, err := rdmamap.GetRdmaDeviceForNetdevice(name)
	if err != nil {
		return ""
	}
	return device
}
