package rdma

import (
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/pkg/errors"
)

// ErrUnknownDevice says that a device was asked for which this host does not have.
// Compare with errors.Is.
var ErrUnknownDevice = errors.New("unknown RDMA device")

// Matrix maps a memory location, such as "cpu:0", to the devices near it and all
// other devices. Its JSON is what peers expect: {"cpu:0": [["mlx5_0"], ["mlx5_1"]]}.
// No list is nil.
type Matrix map[string][2][]string

// ParseDevices reads a comma separated list of device names. Spaces around names,
// empty entries and repetitions do not matter. A list without any name means all
// devices and gives nil.
func ParseDevices(list string) []string {
	var names []string
	for name := range strings.SplitSeq(list, ",") {
		name = strings.TrimSpace(name)
		if name != "" && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

// Topology gives the memory locations of the host under root, one for each NUMA
// node, and the usable devices near each, both in the same order everywhere. filter
// limits the devices; empty for all. A device that has no active port with an
// address is left out. A host whose nodes cannot be listed has the one location
// "cpu:0".
//
// It fails with ErrUnknownDevice when filter names a device that does not exist;
// the message names it, and those that exist.
func Topology(root string, filter []string) (Matrix, error) {
	devices, err := Devices(root)
	if err != nil {
		return nil, err
	}
	if err := checkFilter(root, filter, devices); err != nil {
		return nil, err
	}
	devices = slices.DeleteFunc(devices, func(d Device) bool {
		return !d.Usable() || len(filter) > 0 && !slices.Contains(filter, d.Name)
	})
	matrix := Matrix{}
	for _, node := range NUMANodes(root) {
		near, far := []string{}, []string{}
		for _, device := range devices {
			if device.NUMANode == node {
				near = append(near, device.Name)
			} else {
				far = append(far, device.Name)
			}
		}
		matrix[fmt.Sprintf("cpu:%d", node)] = [2][]string{near, far}
	}
	return matrix, nil
}

func checkFilter(root string, filter []string, devices []Device) error {
	var exist, unknown []string
	for _, device := range devices {
		exist = append(exist, device.Name)
	}
	for _, name := range filter {
		if !slices.Contains(exist, name) {
			unknown = append(unknown, strconv.Quote(name)+deviceHint(name, devices))
		}
	}
	if len(unknown) == 0 {
		return nil
	}
	where := filepath.Join(root, classDir)
	if len(exist) == 0 {
		return errors.WithMessagef(ErrUnknownDevice, "devices: %s asked for, %s has none",
			strings.Join(unknown, ", "), where)
	}
	return errors.WithMessagef(ErrUnknownDevice, "devices: %s not in %s, which has %s",
		strings.Join(unknown, ", "), where, strings.Join(exist, ", "))
}

// deviceHint helps those who gave the name of a network interface.
func deviceHint(name string, devices []Device) string {
	for _, device := range devices {
		if slices.Contains(device.Interfaces, name) {
			return fmt.Sprintf(" (a network interface, its RDMA device is %s)", device.Name)
		}
	}
	return ""
}

// NUMANodes lists the NUMA nodes of the host under root, in order; node 0 where they
// cannot be listed.
func NUMANodes(root string) []int {
	var nodes []int
	for _, name := range list(root, nodeDir) {
		number, found := strings.CutPrefix(name, "node")
		if node, err := strconv.Atoi(number); found && err == nil && node >= 0 {
			nodes = append(nodes, node)
		}
	}
	if len(nodes) == 0 {
		return []int{0}
	}
	slices.Sort(nodes)
	return nodes
}
