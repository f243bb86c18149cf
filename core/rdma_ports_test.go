//go:build cgo

package core

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// What is told of a port is what an engine uses.
func TestRDMAPortsAreThoseOfAnEngine(t *testing.T) {
	overSoftNIC(t)
	list := ports(t, "", nil).Ports
	require.Len(t, list, 2)
	assert.Equal(t, "mlx5_0", list[0].Device)
	assert.True(t, list[0].Used)
	assert.False(t, list[1].Used, "one port an engine")
	for _, port := range list {
		assert.Equal(t, 1, port.Port)
		assert.Equal(t, "active", port.State)
		assert.Equal(t, "Ethernet", port.LinkLayer)
		assert.Positive(t, port.MTU)
		assert.EqualValues(t, 200, port.RateGbps)
		require.NotNil(t, port.PCIe)
		assert.InDelta(t, 504.1, port.PCIe.Gbps, 0.1)
		assert.Equal(t, pcieReport{16, 16, 32, 32, port.PCIe.Gbps}, *port.PCIe)
		assert.Empty(t, port.Error)
		require.Len(t, port.GIDs, 4)
		assert.Equal(t, 3, *port.Chosen)
		best := port.GIDs[0]
		assert.Equal(t, 3, best.Index)
		assert.Equal(t, "RoCE v2", best.Type)
		assert.Contains(t, best.Reason, "routable")
		assert.Contains(t, port.GIDs[3].Reason, "neither RoCE v2")
	}
	assert.Equal(t, "198.51.100.1", list[0].GIDs[0].Address)

	list = ports(t, "mlx5_1", nil).Ports
	require.Len(t, list, 1)
	assert.True(t, list[0].Used)
	list = ports(t, "", map[string]string{"MC_TE_FILTERS": "mlx5_1"}).Ports
	require.Len(t, list, 1)
	assert.Equal(t, "mlx5_1", list[0].Device)
	list = ports(t, "", map[string]string{"MC_GID_INDEX": "1"}).Ports
	assert.Equal(t, 1, *list[0].Chosen)
	assert.Contains(t, list[0].GIDs[1].Reason, "asked for by its index")
}

// What is wrong with a port is told with the remedy, and the others are looked at.
func TestRDMAPortsThatCannotBeUsed(t *testing.T) {
	overSoftNIC(t)
	openEngine(t, "127.0.0.1", testConfig(nil)) // so that settings last
	before := len(rdmaObjects())
	setNIC(t, "port=down")
	list := ports(t, "", nil).Ports
	require.Len(t, list, 2)
	assert.Equal(t, "down", list[0].State)
	assert.Contains(t, list[0].Error, "ip link")
	assert.Nil(t, list[0].Chosen)
	assert.NotEmpty(t, list[0].GIDs)
	assert.False(t, list[0].Used)
	assert.True(t, list[1].Used)

	list = ports(t, "mlx5_9,mlx5_1", nil).Ports
	require.Len(t, list, 2)
	assert.Contains(t, list[0].Error, `"mlx5_9"; this host has mlx5_0, mlx5_1`)
	assert.Empty(t, list[1].Error)
	assert.False(t, list[1].Used, "an engine refuses the list")
	cfg := testConfig(nil)
	cfg.Devices = "mlx5_9,mlx5_1"
	_, err := Open("127.0.0.1", cfg)
	require.ErrorIs(t, err, ErrInvalid)

	list = ports(t, "mlx5_1", map[string]string{"MC_IB_PORT": "3"}).Ports
	require.Len(t, list, 2, "the port that there is, and the one that was asked for")
	assert.Empty(t, list[0].Error)
	assert.False(t, list[0].Used)
	assert.Equal(t, 3, list[1].Port)
	assert.Contains(t, list[1].Error, "it has ports 1 to 1")
	assert.Contains(t, list[1].Error, "MC_IB_PORT")

	list = ports(t, "mlx5_1", map[string]string{"MC_GID_INDEX": "7"}).Ports
	assert.Contains(t, list[0].Error, "GID index 7: the port has GID 0")
	assert.Len(t, list[0].GIDs, 4)
	assert.Len(t, rdmaObjects(), before, "devices are closed")
}
