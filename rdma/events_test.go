//go:build cgo

package rdma

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestPortEvents(t *testing.T) {
	if !inChild(t, ownFabric(t)) {
		return
	}
	c := anyDevice(t)
	tell := func(setting string) {
		output, err := exec.Command(besideVerbs(t, "softnicctl"), "set", "all", setting).CombinedOutput()
		require.NoError(t, err, "%s", output)
	}
	tell("port=down")
	require.Equal(t, 1, await(t, c, EventPortDown).Port)
	port, err := c.Port(1)
	require.NoError(t, err)
	require.ErrorIs(t, port.Ready(), ErrPortDown)

	tell("port=up")
	await(t, c, EventPortActive)
	port, err = c.Port(1)
	require.NoError(t, err)
	require.NoError(t, port.Ready())

	tell("gids=none")
	await(t, c, EventGIDChange)
	gids, err := c.GIDs(1)
	require.NoError(t, err)
	_, err = ChooseGID(gids, -1)
	require.ErrorIs(t, err, ErrNoGID)

	tell("gids=v1")
	await(t, c, EventGIDChange)
	gids, err = c.GIDs(1)
	require.NoError(t, err)
	choice, err := ChooseGID(gids, -1)
	require.NoError(t, err)
	require.Equal(t, GIDRoCEv1, choice.GID.Type)

	tell("fatal=1")
	event := await(t, c, EventDeviceFatal)
	require.NotEmpty(t, event.Text)
}

// The kernel's own events, of an emulated link that may be cut.
func TestLinkEvents(t *testing.T) {
	if os.Getenv("MC_ROCE_LAB") == "" {
		t.Skip("only in the RoCE lab may a link be cut (MC_ROCE_LAB is not set)")
	}
	c, err := OpenDevice("rxe1")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	link := func(state string) {
		output, err := exec.Command("ip", "link", "set", "rail1", state).CombinedOutput()
		require.NoError(t, err, "%s", output)
	}
	t.Cleanup(func() { link("up") })
	link("down")
	require.Equal(t, 1, await(t, c, EventPortDown).Port)
	port, err := c.Port(1)
	require.NoError(t, err)
	require.ErrorIs(t, port.Ready(), ErrPortDown)
	t.Log(port.Ready())
	link("up")
	await(t, c, EventPortActive)
	port, err = c.Port(1)
	require.NoError(t, err)
	require.NoError(t, port.Ready())
}

// besideVerbs finds a program in the folder that libibverbs comes from.
func besideVerbs(t *testing.T, program string) string {
	t.Helper()
	for _, folder := range filepath.SplitList(os.Getenv("LD_LIBRARY_PATH")) {
		path := filepath.Join(folder, program)
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	t.Skipf("no %s in LD_LIBRARY_PATH", program)
	return ""
}

// await takes events until one of a kind.
func await(t *testing.T, c *Context, kind EventKind) AsyncEvent {
	t.Helper()
	stop := make(chan struct{})
	defer time.AfterFunc(20*time.Second, func() { close(stop) }).Stop()
	for {
		event, err := c.NextEvent(stop)
		require.NoError(t, err, "no event of kind %d", kind)
		t.Logf("%+v", event)
		if event.Kind == kind {
			return event
		}
	}
}

// Both ways to ask for GIDs give the same.
func TestGIDsOneByOne(t *testing.T) {
	c := anyDevice(t)
	all, err := c.GIDs(1)
	require.NoError(t, err)
	table, ok := c.gidTable(1)
	if !ok {
		t.Skip("this libibverbs or kernel has no table of GIDs: only the other way is in use")
	}
	port, err := c.Port(1)
	require.NoError(t, err)
	single, err := c.gidsOneByOne(port, c.portDir(1))
	require.NoError(t, err)
	byIndex := map[int]GID{}
	for _, gid := range single {
		byIndex[gid.Index] = gid
	}
	for _, gid := range table {
		require.Equal(t, gid.Address, byIndex[gid.Index].Address)
		require.Equal(t, gid.Type, byIndex[gid.Index].Type)
	}
	require.LessOrEqual(t, len(all), len(table))
}
