package core

import (
	"encoding/json"

	"github.com/pkg/errors"

	"mooncake/rdma"
)

// LocalTopology describes this host's memory locations and the RDMA devices near
// each, as JSON. devices is a comma separated list that limits the devices.
func LocalTopology(devices string) (string, error) {
	topology, err := rdma.Topology("", rdma.ParseDevices(devices))
	if err != nil {
		return "", errors.WithMessage(ErrInvalid, err.Error())
	}
	text, err := json.Marshal(topology)
	if err != nil {
		return "", errors.Wrap(err, "topology")
	}
	return string(text), nil
}
