package rdma

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestPCIeLink(t *testing.T) {
	host := newFakeHost(t)
	dir := host.pciDevice("mlx5_0", "pci0000:00/0000:05:00.0", "0")
	device := filepath.Join(host.root, dir, "device")
	link := func(width, most, speed, fastest string) PCIeLink {
		for name, text := range map[string]string{"current_link_width": width, "max_link_width": most,
			"current_link_speed": speed, "max_link_speed": fastest} {
			host.write(dir+"/device/"+name, text)
		}
		return readPCIe(device)
	}
	require.Zero(t, readPCIe(device), "no files")
	slow := link("8", "16", "8.0 GT/s PCIe", "32.0 GT/s PCIe")
	require.Equal(t, PCIeLink{Width: 8, MaxWidth: 16, Speed: 8, MaxSpeed: 32}, slow)
	require.InDelta(t, 63.0, slow.Gbps(), 0.1)
	part := filepath.Join(host.root, host.pciDevice("mlx5_9", "pci0000:00/0000:05:00.0/mlx5_core.sf.4", "0"), "device")
	require.Equal(t, slow, readPCIe(part), "a subfunction is where its function is")
	old := link("8", "8", "5 GT/s", "5 GT/s")
	require.InDelta(t, 32.0, old.Gbps(), 0.1)
	require.Zero(t, link("0", "0", "Unknown", "Unknown"), "a virtual function")
	require.Zero(t, link("255", "16", "16.0 GT/s PCIe", "16.0 GT/s PCIe"))
	require.Zero(t, link("16", "16", "NaN GT/s", "16.0 GT/s PCIe"))
	require.Zero(t, readPCIe(device+"/none"))
	require.Zero(t, readPCIe(t.TempDir()), "a software device has no PCI function above it")
}
