package core

import (
	"testing"

	"mooncake/tests/softnic/nic"
)

// needRDMA skips a test where there is no RDMA device, real or not, and fails it if
// MC_REQUIRE asks for one, unless the build is without cgo.
func needRDMA(t testing.TB) {
	t.Helper()
	switch {
	case rdmaInBuild && nic.Real():
	case rdmaInBuild:
		nic.Need(t)
	default: // also where MC_REQUIRE has softnic: this build is tested beside one that has it
		t.Skip(noRDMAInBuild)
	}
}

const noRDMAInBuild = "rdma needs cgo, which this build is without"

// needSoftNIC is for tests that make the NIC do what real ones seldom do.
func needSoftNIC(t testing.TB) {
	t.Helper()
	needRDMA(t)
	nic.Need(t)
}

// softDevice is the device that engines of tests use on the software NIC.
const softDevice = "mlx5_0"

// overSoftNIC makes engines use rdma on the software NIC until the test ends.
func overSoftNIC(t testing.TB) {
	needSoftNIC(t)
	over(t, "rdma")
}
