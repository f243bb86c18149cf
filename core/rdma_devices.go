package core

import "mooncake/core/metadata"

// peerDevices lists a peer's devices in the order to try: the one of the same name as ours
// is on the same rail, as a rule.
func peerDevices(devices []metadata.Device, own string) []string {
	var names []string
	for _, d := range devices {
		if d.Name == own {
			names = append([]string{d.Name}, names...)
		} else {
			names = append(names, d.Name)
		}
	}
	return names
}
