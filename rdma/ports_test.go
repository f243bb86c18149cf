//go:build cgo

package rdma

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const portPrograms = "../tests/rdma"

func compiler(t *testing.T) string {
	cc := os.Getenv("CC")
	if cc == "" {
		cc = "gcc"
	}
	if _, err := exec.LookPath(cc); err != nil {
		t.Skip("no C compiler:", err)
	}
	return cc
}

// compilePorts builds a program of tests/rdma together with the C side of ports. The
// scripted NIC goes without the sanitizers.
func compilePorts(t *testing.T, program string, flags ...string) string {
	dir := t.TempDir()
	common := []string{"-std=gnu17", "-g", "-O1", "-Wall", "-Wextra", "-Werror", "-pthread"}
	compile := func(args ...string) {
		out, err := exec.Command(compiler(t), append(common, args...)...).CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
	nic, binary := filepath.Join(dir, "fakenic.o"), filepath.Join(dir, program)
	compile("-c", "-o", nic, filepath.Join(portPrograms, "fakenic.c"))
	sources, err := filepath.Glob("port*.c")
	require.NoError(t, err)
	args := append(flags, "-o", binary, filepath.Join(portPrograms, program+".c"), nic)
	compile(append(args, sources...)...)
	return binary
}

func hasSanitizer(t *testing.T, flag string) bool {
	dir := t.TempDir()
	source := filepath.Join(dir, "main.c")
	require.NoError(t, os.WriteFile(source, []byte("int main(void) { return 0; }\n"), 0o644))
	binary := filepath.Join(dir, "main")
	return exec.Command(compiler(t), flag, "-o", binary, source).Run() == nil && exec.Command(binary).Run() == nil
}

// Random work on a scripted NIC, see tests/rdma/ports.c; MC_SEED repeats a run.
func TestPortsUnderRandomWork(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("MC_SEED"); text != "" {
		var err error
		seed, err = strconv.ParseUint(text, 0, 64)
		require.NoError(t, err)
	}
	for name, flag := range map[string]string{
		"plain":   "-O2",
		"address": "-fsanitize=address,undefined",
		"thread":  "-fsanitize=thread",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if name != "plain" && !hasSanitizer(t, flag) {
				t.Skipf("this compiler or host cannot do %s", flag)
			}
			binary := compilePorts(t, "ports", flag, "-fno-sanitize-recover=all")
			ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
			defer cancel()
			out, err := exec.CommandContext(ctx, binary, strconv.FormatUint(seed, 10), "12").CombinedOutput()
			require.NoError(t, err, "MC_SEED=%d: %s", seed, out)
			t.Logf("seed %d: %s", seed, out)
		})
	}
}
