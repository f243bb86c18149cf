//go:build cgo

package rdma

import (
	"testing"

	"github.com/pkg/errors"
	"github.com/stretchr/testify/require"
)

func TestUnknownDeviceNamesTheOthers(t *testing.T) {
	names, err := DeviceNames()
	if errors.Is(err, ErrNoVerbs) {
		t.Skip(err)
	}
	require.NoError(t, err)
	_, err = OpenDevice("no such device")
	require.ErrorIs(t, err, ErrUnknownDevice)
	for _, name := range names {
		require.ErrorContains(t, err, name)
	}
}
