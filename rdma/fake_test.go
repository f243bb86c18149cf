package rdma

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// fakeHost is a directory that has the sysfs of a made-up host.
type fakeHost struct {
	t    *testing.T
	root string
}

func newFakeHost(t *testing.T, nodes ...string) *fakeHost {
	host := &fakeHost{t, t.TempDir()}
	for _, node := range nodes {
		host.mkdir("sys/devices/system/node/" + node)
	}
	return host
}

func (h *fakeHost) mkdir(path string) {
	require.NoError(h.t, os.MkdirAll(filepath.Join(h.root, path), 0o755))
}

func (h *fakeHost) write(path, text string) {
	h.mkdir(filepath.Dir(path))
	require.NoError(h.t, os.WriteFile(filepath.Join(h.root, path), []byte(text+"\n"), 0o644))
}

func (h *fakeHost) link(path, target string) {
	h.mkdir(filepath.Dir(path))
	require.NoError(h.t, os.Symlink(target, filepath.Join(h.root, path)))
}

// pciDevice puts an RDMA device on a PCI function, as a NIC is, and returns its
// directory. below is the path from /sys/devices to the function.
func (h *fakeHost) pciDevice(name, below, numa string) string {
	function := "sys/devices/" + below
	dir := function + "/infiniband/" + name
	h.write(function+"/numa_node", numa)
	h.mkdir(dir)
	h.link(dir+"/device", "../../../"+filepath.Base(below))
	h.link("sys/class/infiniband/"+name, "../../devices/"+below+"/infiniband/"+name)
	return dir
}

// port gives the device in dir a port with one RoCE v2 address.
func (h *fakeHost) port(dir, number, state, gid, iface string) {
	port := dir + "/ports/" + number
	h.write(port+"/state", state)
	h.write(port+"/link_layer", "Ethernet")
	h.write(port+"/rate", "200 Gb/sec (4X HDR)")
	h.write(port+"/lid", "0x0")
	h.gid(port, "3", gid, "RoCE v2", iface)
}

func (h *fakeHost) gid(port, index, address, kind, iface string) {
	h.write(port+"/gids/"+index, address)
	h.write(port+"/gid_attrs/types/"+index, kind)
	h.write(port+"/gid_attrs/ndevs/"+index, iface)
}

const (
	someGID  = "0000:0000:0000:0000:0000:ffff:0a00:0001"
	otherGID = "0000:0000:0000:0000:0000:ffff:0a00:0002"
	unsetGID = "0000:0000:0000:0000:0000:0000:0000:0000"
)

// twoSockets is a host with a NIC on each of two nodes, one whose cable is out, and
// a software device.
func twoSockets(t *testing.T) *fakeHost {
	host := newFakeHost(t, "node0", "node1", "power")
	dir := host.pciDevice("mlx5_0", "pci0000:00/0000:00:01.0/0000:05:00.0", "0")
	host.write("sys/devices/pci0000:00/0000:00:01.0/0000:05:00.0/net/eth2/mtu", "9000")
	host.write(dir+"/node_guid", "506b:4b03:00c5:1a2c")
	host.write(dir+"/fw_ver", "28.39.1002")
	host.port(dir, "1", "4: ACTIVE", someGID, "eth2.7")
	host.gid(dir+"/ports/1", "2", someGID, "IB/RoCE v1", "eth2")
	host.gid(dir+"/ports/1", "4", unsetGID, "", "")

	dir = host.pciDevice("mlx5_1", "pci0000:80/0000:80:01.0/0000:85:00.0", "1")
	host.port(dir, "1", "4: ACTIVE", otherGID, "eth3")

	dir = host.pciDevice("mlx5_2", "pci0000:80/0000:80:02.0/0000:86:00.0", "1")
	host.port(dir, "1", "1: DOWN", otherGID, "eth4")

	dir = "sys/devices/virtual/infiniband/rxe0"
	host.link("sys/class/infiniband/rxe0", "../../devices/virtual/infiniband/rxe0")
	host.write(dir+"/parent", "eth0")
	host.port(dir, "1", "4: ACTIVE", otherGID, "eth0")
	return host
}
