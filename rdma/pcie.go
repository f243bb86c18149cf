package rdma

import (
	"path/filepath"
	"strconv"
	"strings"
)

// PCIeLink is how a device is attached to its host. It is zero where that is unknown, as
// of software devices and of most virtual functions.
type PCIeLink struct {
	Width, MaxWidth int     // lanes: those in use, and those that the device has
	Speed, MaxSpeed float64 // of a lane, GT/s
}

// Gbps is what the link carries in one direction, at most: its packets have headers, too.
func (l PCIeLink) Gbps() float64 {
	coded := 128.0 / 130
	if l.Speed < 8 {
		coded = 8.0 / 10
	}
	return float64(l.Width) * l.Speed * coded
}

// readPCIe reads the link of the PCI function that device, a link in sysfs, ends at or below.
func readPCIe(device string) PCIeLink {
	dir, err := filepath.EvalSymlinks(device)
	if err != nil {
		return PCIeLink{}
	}
	for !pciFunction.MatchString(filepath.Base(dir)) {
		if dir == filepath.Dir(dir) {
			return PCIeLink{}
		}
		dir = filepath.Dir(dir)
	}
	link := PCIeLink{
		Width: parseLanes(read(dir, "current_link_width")), MaxWidth: parseLanes(read(dir, "max_link_width")),
		Speed: parseTransfers(read(dir, "current_link_speed")), MaxSpeed: parseTransfers(read(dir, "max_link_speed")),
	}
	if link.Width == 0 || link.Speed == 0 {
		return PCIeLink{}
	}
	return link
}

// parseLanes reads "16"; 0 and 255 mean that nobody knows.
func parseLanes(text string) int {
	lanes, err := strconv.Atoi(text)
	if err != nil || lanes < 1 || lanes > 32 {
		return 0
	}
	return lanes
}

// parseTransfers reads "16.0 GT/s PCIe" and, of older kernels, "8 GT/s".
func parseTransfers(text string) float64 {
	number, unit, _ := strings.Cut(text, " ")
	speed, err := strconv.ParseFloat(number, 64)
	if err != nil || !(speed > 0) || !strings.HasPrefix(unit, "GT/s") {
		return 0
	}
	return speed
}
