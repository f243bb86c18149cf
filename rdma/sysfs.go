package rdma

import (
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/pkg/errors"
)

const (
	classDir = "sys/class/infiniband"
	nodeDir  = "sys/devices/system/node"
)

// Devices lists the RDMA devices under root, sorted by name. A host without any
// has none: that is no error. Attributes that a driver does not have are left at
// the values that Device calls unknown. It fails when the list itself cannot be
// read.
func Devices(root string) ([]Device, error) {
	entries, err := os.ReadDir(filepath.Join(root, classDir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, errors.Wrap(err, "list RDMA devices")
	}
	devices := make([]Device, 0, len(entries))
	for _, entry := range entries {
		devices = append(devices, readDevice(root, entry.Name()))
	}
	if onThisHost(root) {
		addInterfacesOverIB(root, devices)
	}
	return devices, nil
}

// IsSoftware tells whether the processor does a device's work, as for soft-RoCE: such a device
// names the network interface that it sits on.
func IsSoftware(root, name string) bool {
	return read(filepath.Join(root, classDir, name), "parent") != ""
}

func readDevice(root, name string) Device {
	dir := filepath.Join(root, classDir, name)
	device := Device{
		Name:     name,
		NodeGUID: read(dir, "node_guid"),
		Firmware: read(dir, "fw_ver"),
		NUMANode: -1,
		Ports:    readPorts(filepath.Join(dir, "ports")),
	}
	if node, err := strconv.Atoi(read(dir, "device/numa_node")); err == nil && node >= 0 {
		device.NUMANode = node
	}
	device.PCIAddress, device.PCIPath = pciPath(filepath.Join(dir, "device"))

	// A software device names its interface in parent, a hardware device has them
	// below its PCI function; the GIDs name the stacked ones (VLAN, bond).
	names := append(list(dir, "device/net"), read(dir, "parent"))
	for _, port := range device.Ports {
		for _, gid := range port.GIDs {
			names = append(names, gid.Interface)
		}
	}
	device.Interfaces = sortedSet(names)
	return device
}

func readPorts(dir string) []DevicePort {
	var ports []DevicePort
	for _, name := range list(dir, ".") {
		number, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		port := filepath.Join(dir, name)
		lid, _ := strconv.ParseUint(read(port, "lid"), 0, 16)
		ports = append(ports, DevicePort{
			Number:    number,
			State:     parseState(read(port, "state")),
			LinkLayer: LinkLayer(read(port, "link_layer")),
			RateGbps:  parseRate(read(port, "rate")),
			LID:       uint16(lid),
			GIDs:      readGIDs(port, LinkLayer(read(port, "link_layer"))),
		})
	}
	slices.SortFunc(ports, func(a, b DevicePort) int { return a.Number - b.Number })
	return ports
}

func readGIDs(port string, layer LinkLayer) []GID {
	var gids []GID
	for _, name := range list(port, "gids") {
		index, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		address, err := netip.ParseAddr(read(port, "gids/"+name))
		// Unset entries read as zeros, or as a bare prefix fe80:: on InfiniBand.
		if err != nil || !address.Is6() || address.IsUnspecified() || address == barePrefix {
			continue
		}
		gids = append(gids, GID{
			Index:     index,
			Address:   address,
			Type:      parseGIDType(read(port, "gid_attrs/types/"+name), layer),
			Interface: read(port, "gid_attrs/ndevs/"+name),
		})
	}
	slices.SortFunc(gids, func(a, b GID) int { return a.Index - b.Index })
	return gids
}

var barePrefix = netip.MustParseAddr("fe80::")

// parseState reads "4: ACTIVE".
func parseState(text string) PortState {
	number, _, _ := strings.Cut(text, ":")
	state, err := strconv.Atoi(number)
	if err != nil || state < int(PortUnknown) || state > int(PortActiveDefer) {
		return PortUnknown
	}
	return PortState(state)
}

// parseRate reads "200 Gb/sec (4X HDR)" and "2.5 Gb/sec (1X SDR)".
func parseRate(text string) float64 {
	number, unit, _ := strings.Cut(text, " ")
	rate, err := strconv.ParseFloat(number, 64)
	if err != nil || rate < 0 || !strings.HasPrefix(unit, "Gb/sec") {
		return 0
	}
	return rate
}

// parseGIDType reads the kernel's words. It has one, "IB/RoCE v1", for two types,
// which the link layer tells apart.
func parseGIDType(text string, layer LinkLayer) GIDType {
	switch {
	case text == "RoCE v2":
		return GIDRoCEv2
	case text == "IB/RoCE v1" && layer == LinkEthernet:
		return GIDRoCEv1
	case text == "IB/RoCE v1" && layer == LinkInfiniBand:
		return GIDIB
	}
	return GIDUnknown
}

var pciFunction = regexp.MustCompile(`^[0-9a-f]{4,}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]$`)

// pciPath follows the device link of an RDMA device. The link of a subfunction ends
// at an auxiliary device below the PCI function that we want.
func pciPath(link string) (address, path string) {
	target, err := filepath.EvalSymlinks(link)
	if err != nil {
		return "", ""
	}
	parts := strings.Split(target, string(filepath.Separator))
	start, end := -1, -1
	for i, part := range parts {
		if start < 0 && strings.HasPrefix(part, "pci") && strings.Contains(part, ":") {
			start = i
		}
		if pciFunction.MatchString(part) {
			end = i
		}
	}
	if end < 0 {
		return "", ""
	}
	if start < 0 {
		start = end
	}
	return parts[end], filepath.Join(parts[start : end+1]...)
}

// read gives an attribute without its newline, "" when it cannot be read: reading
// the attributes of an unset GID fails with EINVAL, and not every driver has all.
func read(dir, name string) string {
	text, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}

// list gives the names in a directory, none when it cannot be read.
func list(dir, name string) []string {
	entries, err := os.ReadDir(filepath.Join(dir, name))
	if err != nil {
		return nil
	}
	names := make([]string, 0, len(entries))
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	return names
}

// sortedSet sorts names and drops the empty and the repeated ones.
func sortedSet(names []string) []string {
	names = slices.DeleteFunc(names, func(name string) bool { return name == "" })
	slices.Sort(names)
	return slices.Compact(names)
}
