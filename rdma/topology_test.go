package rdma

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestParseDevices(t *testing.T) {
	tests := map[string][]string{
		"":                       nil,
		"  ":                     nil,
		",":                      nil,
		"mlx5_0":                 {"mlx5_0"},
		" mlx5_1 ,mlx5_0,":       {"mlx5_1", "mlx5_0"},
		"mlx5_0,mlx5_0, mlx5_0 ": {"mlx5_0"},
	}
	for list, want := range tests {
		require.Equal(t, want, ParseDevices(list), "%q", list)
	}
}

func TestTopology(t *testing.T) {
	root := twoSockets(t).root
	tests := map[string]struct {
		filter []string
		want   string
	}{
		"all": {nil, `{"cpu:0":[["mlx5_0"],["mlx5_1","rxe0"]],"cpu:1":[["mlx5_1"],["mlx5_0","rxe0"]]}`},
		"one": {[]string{"mlx5_1"}, `{"cpu:0":[[],["mlx5_1"]],"cpu:1":[["mlx5_1"],[]]}`},
		// The order is that of the host, not of the filter.
		"two":              {[]string{"rxe0", "mlx5_0"}, `{"cpu:0":[["mlx5_0"],["rxe0"]],"cpu:1":[[],["mlx5_0","rxe0"]]}`},
		"one that is down": {[]string{"mlx5_2"}, `{"cpu:0":[[],[]],"cpu:1":[[],[]]}`},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			matrix, err := Topology(root, test.filter)
			require.NoError(t, err)
			text, err := json.Marshal(matrix)
			require.NoError(t, err)
			require.Equal(t, test.want, string(text))
		})
	}
}

func TestTopologyWithoutDevices(t *testing.T) {
	for _, host := range []*fakeHost{newFakeHost(t), newFakeHost(t, "node0")} {
		matrix, err := Topology(host.root, nil)
		require.NoError(t, err)
		text, err := json.Marshal(matrix)
		require.NoError(t, err)
		require.Equal(t, `{"cpu:0":[[],[]]}`, string(text))
	}
}

func TestTopologyRefusesUnknownDevices(t *testing.T) {
	root := twoSockets(t).root
	_, err := Topology(root, []string{"mlx5_0", "mlx5_7", "eth3"})
	require.ErrorIs(t, err, ErrUnknownDevice)
	require.ErrorContains(t, err, `"mlx5_7"`)
	require.ErrorContains(t, err, `"eth3" (a network interface, its RDMA device is mlx5_1)`)
	require.ErrorContains(t, err, "which has mlx5_0, mlx5_1, mlx5_2, rxe0")
	require.NotContains(t, err.Error(), `"mlx5_0"`)

	_, err = Topology(newFakeHost(t).root, []string{"mlx5_0"})
	require.ErrorIs(t, err, ErrUnknownDevice)
	require.ErrorContains(t, err, "has none")
}
