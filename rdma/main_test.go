package rdma

import (
	"fmt"
	"os"
	"testing"

	"mooncake/tests/softnic/nic"
)

// TestMain runs the tests on the software NIC, and fails when one left a verbs object
// open.
func TestMain(m *testing.M) {
	nic.Enter()
	code := m.Run()
	if open := OpenObjects(); len(open) > 0 {
		fmt.Fprintln(os.Stderr, "not closed:", open)
		code = max(code, 1)
	}
	nic.Leave()
	os.Exit(code)
}
