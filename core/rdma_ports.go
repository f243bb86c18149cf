//go:build cgo

package core

import (
	"slices"

	"mooncake/rdma"
)

// rdmaPorts looks at every port of the devices that an engine with cfg may use.
func rdmaPorts(cfg Config) (list portList) {
	exist, err := rdmaDevices()
	if err != nil {
		return portList{Why: err.Error()}
	}
	wanted := allowedDevices(&cfg, exist)
	used := checkDevices(wanted, exist) != nil // an engine takes none then
	for _, name := range wanted {
		ports := reportDevice(name, exist, cfg.RDMA)
		for i := range ports {
			p := &ports[i]
			p.Used = !used && p.Error == "" && p.Port == cfg.RDMA.PortNumber
			used = used || p.Used
		}
		list.Ports = append(list.Ports, ports...)
	}
	return list
}

// reportDevice looks at all ports of a device. The one that engines use is among them,
// with what is wrong, if the device has no such port or cannot be opened.
func reportDevice(name string, exist []string, cfg RDMAConfig) []portReport {
	broken := portReport{Device: name, Port: cfg.PortNumber, GIDs: []gidReport{}, State: rdma.PortUnknown.String()}
	if err := checkDevices([]string{name}, exist); err != nil {
		broken.Error = err.Error()
		return []portReport{broken}
	}
	device, err := rdma.OpenDevice(name)
	if err != nil {
		broken.Error = rdmaCause(err).Error()
		return []portReport{broken}
	}
	defer device.Close()
	var list []portReport
	for n := 1; n <= device.Attributes().Ports; n++ {
		list = append(list, reportPort(device, n, cfg))
	}
	if has := device.Attributes().Ports; cfg.PortNumber > has {
		_, err := device.Port(cfg.PortNumber)
		broken.Error = rdmaCause(err).Error() + " (MC_IB_PORT)"
		list = append(list, broken)
	}
	return list
}

// reportPort looks at one port, as an engine does that is told to use it.
func reportPort(device *rdma.Context, n int, cfg RDMAConfig) portReport {
	report := portReport{Device: device.Name(), Port: n, GIDs: []gidReport{}}
	cfg.PortNumber = n
	as := rdmaPort{cfg: cfg, name: device.Name(), device: device}
	if err := as.look(); err != nil {
		report.Error = rdmaCause(err).Error()
	} else {
		report.Chosen = &as.address.Load().gid.Index
	}
	if attr, err := device.Port(n); err == nil {
		report.State, report.MTU = attr.State.String(), attr.ActiveMTU
		report.LinkLayer, report.LID, report.RateGbps = string(attr.LinkLayer), int(attr.LID), attr.RateGbps
	}
	if link := device.PCIe(); link.Width > 0 {
		report.PCIe = &pcieReport{link.Width, link.MaxWidth, link.Speed, link.MaxSpeed, link.Gbps()}
	}
	gids, _ := device.GIDs(n) // an error is what look found
	for _, gid := range rdma.RankGIDs(gids) {
		report.GIDs = append(report.GIDs, gidReport{gid.Index, gid.Address.Unmap().String(), string(gid.Type), gid.Interface, gid.Reason})
	}
	if cfg.GIDIndex >= 0 && report.Chosen != nil {
		i := slices.IndexFunc(report.GIDs, func(g gidReport) bool { return g.Index == *report.Chosen })
		report.GIDs[i].Reason += "; asked for by its index"
	}
	return report
}
