//go:build cgo

package core

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Who gives up waiting does not give up the connection.
func TestRDMAConnectGoesOnWithoutTheCaller(t *testing.T) {
	p := newRDMAPair(t, 1<<20, nil)
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	if err := p.seg.Connect(ended); err != nil { // it may have been quicker
		require.ErrorIs(t, err, ErrWaitTimeout)
	}
	eventually(t, "a connection", func() bool { return p.a.Stats().ConnectionsOpened == 1 })
	require.NoError(t, p.seg.Connect(context.Background()))
	assert.EqualValues(t, 1, p.a.Stats().ConnectionsOpened)
}

// A peer that is gone is an error, known or not; so is a port of ours that is down. Then
// all is well again.
func TestRDMAConnectSaysWhatIsWrong(t *testing.T) {
	p := newSoftPair(t, 1<<20, nil)
	setNIC(t, "port=down")
	eventually(t, "the port is known to be down", func() bool { return rdmaOf(t, p.a).port.down.Load() != nil })
	err := p.seg.Connect(context.Background())
	require.ErrorIs(t, err, ErrDevice)
	assert.Contains(t, err.Error(), softDevice)
	setNIC(t, "port=up")
	eventually(t, "the port is up", func() bool { return rdmaOf(t, p.a).port.down.Load() == nil })
	require.NoError(t, p.seg.Connect(context.Background()))
	require.NoError(t, move(t, p.seg, Write, repeated(p, 10)))

	path := p.seg.process.path.(*rdmaPath)
	p.b.Close()
	eventually(t, "the lane is gone", path.broken)
	require.ErrorIs(t, p.seg.Connect(context.Background()), ErrPeer)
}

// A path that closes lets those go who wait for its connection; one that breaks, and is
// made anew, has them wait for the new one.
func TestRDMAConnectWhileThePathChanges(t *testing.T) {
	p := newRDMAPair(t, 1<<20, nil)
	path := p.seg.process.path.(*rdmaPath)
	told := make(chan error, 1)
	wait := func() {
		go func() { told <- p.seg.Connect(context.Background()) }()
		eventually(t, "the call waits", func() bool {
			path.mu.Lock()
			defer path.mu.Unlock()
			return len(path.waiting) > 0
		})
	}
	answer := func() error {
		select {
		case err := <-told:
			return err
		case <-time.After(deadline):
			require.Fail(t, "the call does not return")
			return nil
		}
	}
	hold := func(yes bool) { // as if somebody were connecting
		path.mu.Lock()
		path.connecting = yes
		path.connectIfNeeded()
		path.mu.Unlock()
	}
	hold(true)
	wait()
	hold(false)
	require.NoError(t, answer())

	path.mu.Lock()
	lane := path.lane
	path.lane = nil
	path.mu.Unlock()
	hold(true)
	wait()
	path.mu.Lock()
	path.lane, path.connecting = lane, false
	path.mu.Unlock()
	require.NoError(t, p.seg.Close())
	require.ErrorIs(t, answer(), ErrClosed)
}
