package house

import (
	"os"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"
)

// `make nocgo` runs the tests of these packages without cgo; this test makes sure
// that a plain `go test ./...` notices as well when they stop compiling, tests
// included.
func TestPureGoBuildsWithoutCgo(t *testing.T) {
	packages := []string{"./core/...", "./pagealloc/...", "./rdma/..."}
	for _, verb := range []string{"build", "vet"} {
		command := exec.Command("go", append([]string{verb}, packages...)...)
		command.Dir = root
		command.Env = append(os.Environ(), "CGO_ENABLED=0")
		output, err := command.CombinedOutput()
		require.NoError(t, err, "CGO_ENABLED=0 go %s: %s", verb, output)
	}
}
