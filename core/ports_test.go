package core

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// ports asks as an engine does that is opened with some devices and variables.
func ports(t *testing.T, devices string, vars map[string]string) (list portList) {
	cfg := testConfig(vars)
	cfg.Devices = devices
	text, err := RDMAPorts(cfg)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal([]byte(text), &list), text)
	require.Equal(t, len(list.Ports) == 0, list.Why != "", text)
	return list
}

// A host or a build without RDMA has no ports, and a reason.
func TestRDMAPortsOfThisHost(t *testing.T) {
	for _, port := range ports(t, "", nil).Ports {
		assert.NotEmpty(t, port.Device)
		assert.Equal(t, port.Error == "", port.Chosen != nil, "%+v", port)
	}
}
