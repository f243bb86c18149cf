package rdma

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestMTU(t *testing.T) {
	for code := uint32(1); code <= 5; code++ {
		got, err := mtuCode(mtuBytes(int(code)))
		require.NoError(t, err)
		require.Equal(t, code, got)
	}
	require.Equal(t, 256, mtuBytes(1))
	require.Equal(t, 4096, mtuBytes(5))
	require.Zero(t, mtuBytes(0))
	require.Zero(t, mtuBytes(6))
	for _, bytes := range []int{0, 128, 1500, 8192, -1} {
		_, err := mtuCode(bytes)
		require.ErrorContains(t, err, "path MTU", bytes)
	}
}

func TestPortReady(t *testing.T) {
	port := PortAttributes{Device: "nic", Number: 1, State: PortActive, LinkLayer: LinkEthernet}
	require.NoError(t, port.Ready())
	port.State = PortDown
	require.ErrorIs(t, port.Ready(), ErrPortDown)
	require.ErrorContains(t, port.Ready(), "port 1 of nic is down: look at the cable, and whether its network interface is up")
	port.LinkLayer = LinkInfiniBand
	require.ErrorContains(t, port.Ready(), "subnet manager")
}

func TestWords(t *testing.T) {
	require.Equal(t, "local read", Access(0).String())
	require.Equal(t, "local write, remote read", (AccessLocalWrite | AccessRemoteRead).String())
	require.Equal(t, "RTS", QPReadyToSend.String())
	require.Equal(t, "state 9", QPState(9).String())
	require.Equal(t, "in an unknown state", PortState(9).String())
}
