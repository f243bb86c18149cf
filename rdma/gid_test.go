package rdma

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
)

func gid(index int, address string, kind GIDType, iface string) GID {
	addr := netip.MustParseAddr(address)
	return GID{index, netip.AddrFrom16(addr.As16()), kind, iface}
}

// The ranks, each better than the next.
var rankedGIDs = []GID{
	gid(17, "192.168.1.1", GIDRoCEv2, "eth0"),
	gid(16, "2001:db8::1", GIDRoCEv2, ""),
	gid(15, "10.0.0.1", GIDRoCEv2, "eth0"),
	gid(14, "fe80::1", GIDRoCEv2, "eth0"),
	gid(13, "10.0.0.1", GIDRoCEv2, ""),
	gid(12, "fe80::1", GIDIB, ""),
	gid(11, "192.0.2.1", GIDRoCEv1, "eth0"),
}

func TestChooseGIDByRank(t *testing.T) {
	for i, best := range rankedGIDs {
		require.Equal(t, gidRank(i+1), rankGID(best), "%s", best)
		reversed := []GID{}
		for j := len(rankedGIDs) - 1; j >= i; j-- {
			reversed = append(reversed, rankedGIDs[j])
		}
		choice, err := ChooseGID(reversed, -1)
		require.NoError(t, err)
		require.Equal(t, best, choice.GID)
		require.Len(t, choice.Reasons, len(reversed))
	}
}

func TestGIDRanks(t *testing.T) {
	tests := []struct {
		gid  GID
		want gidRank
	}{
		{gid(0, "172.15.255.255", GIDRoCEv2, "eth0"), rankInterface},
		{gid(0, "172.16.0.1", GIDRoCEv2, "eth0"), rankInterfacePrivate},
		{gid(0, "172.31.255.255", GIDRoCEv2, "eth0"), rankInterfacePrivate},
		{gid(0, "172.32.0.1", GIDRoCEv2, "eth0"), rankInterface},
		{gid(0, "100.64.0.1", GIDRoCEv2, "eth0"), rankInterfacePrivate},
		{gid(0, "100.128.0.1", GIDRoCEv2, "eth0"), rankInterface},
		{gid(0, "198.51.100.1", GIDRoCEv2, "tunl0"), rankInterfaceDegraded},
		{gid(0, "198.51.100.1", GIDRoCEv2, "tunl1"), rankInterface},
		{gid(0, "10.0.0.1", GIDRoCEv2, "flannel.1"), rankInterfaceDegraded},
		{gid(0, "10.0.0.1", GIDRoCEv2, "docker0"), rankInterfaceDegraded},
		{gid(0, "169.254.1.1", GIDRoCEv2, "eth0"), rankInterface},
		{gid(0, "2001:db8::1", GIDIB, ""), rankBare},
		{gid(0, "198.51.100.1", GIDUnknown, "eth0"), rankOther},
	}
	for _, test := range tests {
		require.Equal(t, test.want, rankGID(test.gid), "%s", test.gid)
	}
}

func TestChooseGIDSaysWhy(t *testing.T) {
	choice, err := ChooseGID([]GID{
		gid(0, "fe80::1", GIDRoCEv1, "eth0"),
		gid(3, "198.51.100.1", GIDRoCEv2, "eth0"),
		gid(2, "198.51.100.1", GIDRoCEv2, "eth0"),
	}, -1)
	require.NoError(t, err)
	require.Equal(t, 2, choice.GID.Index, "the lowest index")
	require.Equal(t, []string{
		"GID 2 198.51.100.1 RoCE v2 on eth0: routable, with an interface: chosen",
		"GID 3 198.51.100.1 RoCE v2 on eth0: routable, with an interface",
		"GID 0 fe80::1 RoCE v1 on eth0: neither RoCE v2 nor InfiniBand: only if there is nothing else",
	}, choice.Reasons)
}

func TestChooseGIDByIndex(t *testing.T) {
	choice, err := ChooseGID(rankedGIDs, 11)
	require.NoError(t, err)
	require.Equal(t, rankedGIDs[6], choice.GID)
	require.Len(t, choice.Reasons, 1)

	_, err = ChooseGID(rankedGIDs[:2], 3)
	require.ErrorIs(t, err, ErrNoGID)
	require.EqualError(t, err, "GID index 3: the port has GID 17 192.168.1.1 RoCE v2 on eth0; GID 16 2001:db8::1 RoCE v2: no usable GID")
}

func TestPortWithoutGIDs(t *testing.T) {
	for _, fixed := range []int{-1, 0} {
		_, err := ChooseGID(nil, fixed)
		require.ErrorIs(t, err, ErrNoGID)
	}
}
