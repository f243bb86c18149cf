package rdma

import (
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestDevices(t *testing.T) {
	devices, err := Devices(twoSockets(t).root)
	require.NoError(t, err)
	require.Len(t, devices, 4)

	require.Equal(t, Device{
		Name:       "mlx5_0",
		NodeGUID:   "506b:4b03:00c5:1a2c",
		Firmware:   "28.39.1002",
		NUMANode:   0,
		PCIAddress: "0000:05:00.0",
		PCIPath:    "pci0000:00/0000:00:01.0/0000:05:00.0",
		Interfaces: []string{"eth2", "eth2.7"},
		Ports: []DevicePort{{
			Number:    1,
			State:     PortActive,
			LinkLayer: LinkEthernet,
			RateGbps:  200,
			GIDs: []GID{
				{2, netip.MustParseAddr("::ffff:10.0.0.1"), GIDRoCEv1, "eth2"},
				{3, netip.MustParseAddr("::ffff:10.0.0.1"), GIDRoCEv2, "eth2.7"},
			},
		}},
	}, devices[0])
	require.Equal(t, 1, devices[1].NUMANode)
	require.True(t, devices[1].Usable())
	require.Equal(t, PortDown, devices[2].Ports[0].State)
	require.False(t, devices[2].Usable())

	soft := devices[3]
	require.Equal(t, "rxe0", soft.Name)
	require.Equal(t, -1, soft.NUMANode)
	require.Empty(t, soft.PCIAddress)
	require.Empty(t, soft.PCIPath)
	require.Equal(t, []string{"eth0"}, soft.Interfaces)
	require.True(t, soft.Usable())
}

func TestSoftwareDevice(t *testing.T) {
	root := twoSockets(t).root
	require.True(t, IsSoftware(root, "rxe0"))
	require.False(t, IsSoftware(root, "mlx5_0"))
	require.False(t, IsSoftware(root, "mlx5_9"))
}

func TestInfiniBandPort(t *testing.T) {
	host := newFakeHost(t)
	dir := host.pciDevice("ib0", "pci0000:00/0000:05:00.0", "-1")
	port := dir + "/ports/2"
	host.write(port+"/state", "4: ACTIVE")
	host.write(port+"/link_layer", "InfiniBand")
	host.write(port+"/rate", "2.5 Gb/sec (1X SDR)")
	host.write(port+"/lid", "0x1f")
	host.gid(port, "0", "fe80:0000:0000:0000:506b:4b03:00c5:1a2c", "IB/RoCE v1", "")
	host.gid(port, "1", "fe80:0000:0000:0000:0000:0000:0000:0000", "IB/RoCE v1", "")

	devices, err := Devices(host.root)
	require.NoError(t, err)
	require.Equal(t, -1, devices[0].NUMANode)
	require.Equal(t, []DevicePort{{
		Number:    2,
		State:     PortActive,
		LinkLayer: LinkInfiniBand,
		RateGbps:  2.5,
		LID:       0x1f,
		GIDs:      []GID{{0, netip.MustParseAddr("fe80::506b:4b03:c5:1a2c"), GIDIB, ""}},
	}}, devices[0].Ports)
}

// A subfunction hangs on an auxiliary device below its PCI function.
func TestSubfunctionHasThePathOfItsFunction(t *testing.T) {
	host := newFakeHost(t)
	host.pciDevice("mlx5_9", "pci0000:00/0000:05:00.0/mlx5_core.sf.4", "0")
	devices, err := Devices(host.root)
	require.NoError(t, err)
	require.Equal(t, "0000:05:00.0", devices[0].PCIAddress)
	require.Equal(t, "pci0000:00/0000:05:00.0", devices[0].PCIPath)
}

func TestMalformedAttributesAreUnknown(t *testing.T) {
	host := newFakeHost(t)
	dir := host.pciDevice("odd", "pci0000:00/0000:05:00.0", "many")
	host.port(dir, "1", "9: NOVEL", "not an address", "")
	host.write(dir+"/ports/1/rate", "fast")
	host.write(dir+"/ports/one/state", "4: ACTIVE")
	host.write(dir+"/ports/1/gids/first", someGID)
	host.write(dir+"/ports/1/gids/7", "10.0.0.1")

	devices, err := Devices(host.root)
	require.NoError(t, err)
	require.Equal(t, -1, devices[0].NUMANode)
	require.Equal(t, []DevicePort{{Number: 1, LinkLayer: LinkEthernet}}, devices[0].Ports)
}

func TestDevicesWhenTheListCannotBeRead(t *testing.T) {
	root := t.TempDir()
	devices, err := Devices(root)
	require.NoError(t, err)
	require.Empty(t, devices)

	require.NoError(t, os.MkdirAll(filepath.Join(root, "sys/class"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(root, classDir), nil, 0o644))
	_, err = Devices(root)
	require.ErrorContains(t, err, "list RDMA devices")
}

// Whatever hardware runs this test, asking about it must not fail.
func TestThisHost(t *testing.T) {
	devices, err := Devices("/")
	require.NoError(t, err)
	for _, device := range devices {
		t.Logf("%+v", device)
	}
	entries, err := os.ReadDir("/sys/class/net")
	require.NoError(t, err)
	for _, entry := range entries {
		owner := DeviceOfInterface(entry.Name())
		if owner != "" {
			require.FileExists(t, filepath.Join("/", classDir, owner, "node_guid"))
		}
	}
	require.Empty(t, DeviceOfInterface("no such interface"))
	require.Empty(t, DeviceOfInterface(""))
	require.Empty(t, DeviceOfInterface("lo"))
}
