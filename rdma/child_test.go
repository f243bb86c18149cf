//go:build cgo

package rdma

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

const childVariable = "RDMA_TEST_CHILD"

// inChild runs the calling test again, in a process with other variables, and tells
// whether this is that process. The parent has nothing more to do.
func inChild(t *testing.T, variables ...string) bool {
	t.Helper()
	if os.Getenv(childVariable) == t.Name() {
		return true
	}
	output, err := child(t, "^"+t.Name()+"$", append(variables, childVariable+"="+t.Name())...)
	require.NoError(t, err, "%s", output)
	if reason, _, skipped := strings.Cut(output, "--- SKIP"); skipped {
		t.Skip("in a child: " + reason)
	}
	require.Contains(t, output, "--- PASS: "+t.Name())
	return false
}

// child runs some tests of this binary.
func child(t *testing.T, tests string, variables ...string) (string, error) {
	t.Helper()
	program, err := os.Executable()
	require.NoError(t, err)
	command := exec.CommandContext(t.Context(), program, "-test.run="+tests, "-test.v", "-test.timeout=60s")
	command.Env = append(os.Environ(), variables...)
	output, err := command.CombinedOutput()
	return string(output), err
}

// softNIC is a variable with settings for the test-only NIC in software, which other
// devices do not look at.
func softNIC(settings string) string {
	if own := os.Getenv("SOFTNIC"); own != "" {
		settings = own + "," + settings
	}
	return "SOFTNIC=" + settings
}

// ownFabric is a variable that gives the child a fabric of its own, whose ports no other
// test sees. It skips the test unless it runs with the NIC in software.
func ownFabric(t *testing.T) string {
	t.Helper()
	if os.Getenv("SOFTNIC_DIR") == "" {
		t.Skip("only the NIC in software can be told to fail (SOFTNIC_DIR is not set)")
	}
	if os.Getenv(childVariable) == t.Name() {
		return ""
	}
	dir, err := os.MkdirTemp("/dev/shm", "rdma-test-")
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	return "SOFTNIC_DIR=" + dir
}

func TestBrokenVerbs(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "libibverbs.so.1"), []byte("no library"), 0o644))
	if !inChild(t, "LD_LIBRARY_PATH="+dir) {
		return
	}
	for range 2 {
		require.ErrorIs(t, Load(), ErrNoVerbs)
	}
	require.ErrorContains(t, Load(), "libibverbs.so.1")
	require.ErrorContains(t, Load(), "install libibverbs1")
	_, err := DeviceNames()
	require.ErrorIs(t, err, ErrNoVerbs)
	_, err = OpenDevice("mlx5_0")
	require.ErrorIs(t, err, ErrNoVerbs)
	require.Empty(t, StatusText(0))
}

func TestNoPermission(t *testing.T) {
	if !inChild(t, ownFabric(t), softNIC("denied=13")) {
		return
	}
	names, err := DeviceNames()
	require.NoError(t, err)
	_, err = OpenDevice(names[0])
	require.ErrorIs(t, err, ErrPermission)
	require.ErrorIs(t, err, unix.EACCES)
	require.ErrorContains(t, err, "/dev/infiniband/uverbs0")
	require.ErrorContains(t, err, "--device=/dev/infiniband")
	t.Log(err)
}

// The kernel refuses, or the NIC in software does; what makes it the limit of locked
// memory is what the process looks like.
func TestMemlock(t *testing.T) {
	anyDevice(t)
	dropLocking()
	if !inChild(t, softNIC("memlock=65536")) {
		return
	}
	limit := unix.Rlimit{Cur: 65536, Max: 65536}
	require.NoError(t, unix.Setrlimit(unix.RLIMIT_MEMLOCK, &limit))
	if readLockedMemory().unlimited {
		t.Skip("this process may lock any amount of memory, and cannot give that up")
	}
	pd := newPD(t, anyDevice(t))
	_, err := pd.Register(mapped(t, 1<<20, readWrite), 1<<20, allAccess)
	require.ErrorIs(t, err, ErrMemlock)
	require.ErrorIs(t, err, unix.ENOMEM)
	require.ErrorContains(t, err, "it needs 1024 KiB")
	require.ErrorContains(t, err, "(ulimit -l) of 64 KiB")
	t.Log(err)
}

// dropLocking makes that children of this test cannot have the capability to lock
// memory. It ties the test to its thread, which ends with it.
func dropLocking() {
	runtime.LockOSThread()
	_ = unix.Prctl(unix.PR_CAPBSET_DROP, unix.CAP_IPC_LOCK, 0, 0, 0) // those who may not do not have it
}

func TestRegisterAllSplitsAtTheDevicesLimit(t *testing.T) {
	anyDevice(t)
	if !inChild(t, softNIC("max_mr_size=4194304")) {
		return
	}
	c := anyDevice(t)
	if c.Attributes().MaxMRSize > 1<<30 {
		t.Skip("one MR of this device holds more than this test maps")
	}
	const size = 10 << 20
	require.EqualValues(t, 4<<20, c.Attributes().MaxMRSize)
	pd := newPD(t, c)
	addr := mapped(t, size, readWrite)
	_, err := pd.Register(addr, size, allAccess)
	require.ErrorIs(t, err, ErrMemory)
	require.ErrorContains(t, err, "at most 4194304 bytes")
	regions, err := pd.RegisterAll([]AddrRange{{addr, size}}, func(int) Access { return allAccess }, RegisterLimit{})
	require.NoError(t, err)
	require.GreaterOrEqual(t, len(regions[0]), 3)
	for _, mr := range regions[0] {
		require.NoError(t, mr.Close())
	}
}

// In the NIC in software a dma-buf is any file, and its memory is where the iova says.
func TestRegisterDMABuf(t *testing.T) {
	if !inChild(t, ownFabric(t), softNIC("dmabuf=1")) {
		return
	}
	if !hasDMABuf() {
		t.Skip("this libibverbs is older than dma-bufs")
	}
	pd := newPD(t, anyDevice(t))
	addr := mapped(t, 1<<16, readWrite)
	mr, err := pd.RegisterDMABuf(0, 0, 1<<16, addr, allAccess|AccessRelaxedOrdering)
	require.NoError(t, err)
	require.NotZero(t, mr.RKey())
	require.Equal(t, AddrRange{addr, 1 << 16}, mr.Range())
	require.NoError(t, mr.Close())
	_, err = pd.RegisterDMABuf(-1, 0, 1<<16, addr, allAccess)
	require.ErrorIs(t, err, ErrMemory)
	require.ErrorContains(t, err, "not that of a dma-buf")
}
