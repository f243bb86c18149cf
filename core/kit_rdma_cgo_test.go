//go:build cgo

package core

import (
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"mooncake/tests/softnic/nic"
)

// newRDMAPair is a pair that is joined by RDMA.
func newRDMAPair(t testing.TB, size int, vars map[string]string) *pair {
	over(t, "rdma")
	return newPair(t, size, vars)
}

// newSoftPair is a pair on the software NIC, which the test may set as it likes.
func newSoftPair(t testing.TB, size int, vars map[string]string) *pair {
	overSoftNIC(t)
	return newPair(t, size, vars)
}

// rdmaOf is the engine's RDMA transport.
func rdmaOf(t testing.TB, e *Engine) *rdmaTransport {
	for _, way := range e.transports {
		if r, ok := way.(*rdmaTransport); ok {
			return r
		}
	}
	require.Fail(t, "the engine has no RDMA transport")
	return nil
}

// setNIC changes the software NIC until the test ends.
func setNIC(t testing.TB, entries ...string) { nic.Set(t, softDevice, entries...) }

// messages is how many work requests something takes an engine.
func messages(e *Engine, do func()) uint64 {
	before := e.Stats().Messages
	do()
	return e.Stats().Messages - before
}

// ownProcess, in the environment, names the test that a test program is started for.
const ownProcess = "MOONCAKE_TEST_ALONE"

// alone runs the test in a process of its own, on a software NIC of its own with
// settings that are read when it starts. It returns true in that process, and false, when
// it has ended, in the one that started it.
func alone(t *testing.T, settings ...string) bool {
	overSoftNIC(t)
	if os.Getenv(ownProcess) == t.Name() {
		return true
	}
	var run []string
	for _, part := range strings.Split(t.Name(), "/") {
		run = append(run, "^"+regexp.QuoteMeta(part)+"$")
	}
	c := exec.Command(os.Args[0], "-test.v", "-test.timeout=60s", "-test.run="+strings.Join(run, "/"))
	c.Env = append(os.Environ(), ownProcess+"="+t.Name(), "SOFTNIC_DIR="+t.TempDir(), "SOFTNIC="+strings.Join(settings, ","))
	output, err := c.CombinedOutput()
	require.NoError(t, err, "%s", output)
	require.Contains(t, string(output), "--- PASS: "+t.Name(), "%s", output)
	return false
}
