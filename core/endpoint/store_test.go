package endpoint

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pkg/errors"
	"github.com/stretchr/testify/require"

	"mooncake/core/metadata"
)

func TestConfigIsChecked(t *testing.T) {
	good := func() Config {
		return Config{Server: "a:1", NIC: "mlx5_0", Hardware: &port{fabric: newFabric()}, Ask: (&network{}).ask}
	}
	for name, change := range map[string]func(*Config){
		"server":   func(c *Config) { c.Server = "" },
		"nic":      func(c *Config) { c.NIC = "" },
		"long":     func(c *Config) { c.NIC = strings.Repeat("x", metadata.MaxNICPath) },
		"hardware": func(c *Config) { c.Hardware = nil },
		"ask":      func(c *Config) { c.Ask = nil },
		"instance": func(c *Config) { c.Instance = strings.Repeat("A", 32) },
		"short":    func(c *Config) { c.Instance = "0123" },
		"pairs":    func(c *Config) { c.QueuePairs = 257 },
		"ours":     func(c *Config) { c.OursPairs = -1 },
		"limit":    func(c *Config) { c.MaxEndpoints = -1 },
		"time":     func(c *Config) { c.Timeout = -1 },
	} {
		cfg := good()
		change(&cfg)
		_, err := New(cfg)
		require.ErrorIs(t, err, ErrArgument, name)
	}
	s, err := New(good())
	require.NoError(t, err)
	require.Equal(t, "a:1@mlx5_0", s.Path())
	for _, to := range []Target{{"b:1", "b:1", ""}, {"b:1", "@x", ""}, {"b:1", "b:1@", ""}, {"", "b:1@x", ""}, {"b:1", "b:1@x", "zz"},
		{"b:1", "b:1@x", strings.Repeat("0", 32)}, {"b:1", "b@" + strings.Repeat("x", metadata.MaxNICPath), ""}} {
		_, err := s.Connect(context.Background(), to)
		require.ErrorIs(t, err, ErrArgument, "%+v", to)
	}
	s.Close()
}

// Many peers at once: the work of one does not wait for another's, here and there.
func TestManyPeersConnectAtOnce(t *testing.T) {
	const peers, lasts = 256, 2 * time.Millisecond
	for name, ours := range map[string]bool{"ours": true, "upstream": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				hub := w.node("hub:1")
				hub.lasts = lasts
				target := hub.upstream()
				if ours {
					target = hub.ours()
				}
				spokes := make([]*node, peers)
				for i := range spokes {
					spokes[i] = w.node(fmt.Sprintf("spoke%d:1", i))
					spokes[i].lasts = lasts
				}
				begun := time.Now()
				var all sync.WaitGroup
				for _, n := range spokes {
					all.Go(func() {
						e := connected(t, n, target)
						require.True(t, w.fabric.linked(e.Queues()))
					})
					if ours {
						all.Go(func() { connected(t, hub, n.ours()) })
					}
				}
				all.Wait()
				require.LessOrEqual(t, time.Since(begun), 2*2*lasts, "two pairs here, and two there")
				for _, n := range spokes {
					n.store.Close()
				}
				hub.store.Close()
				require.Zero(t, w.fabric.count())
			})
		})
	}
}

// A handshake belongs to nobody who waits for it.
func TestCallersGiveUpAlone(t *testing.T) {
	for name, ours := range map[string]bool{"ours": true, "upstream": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				a, b := w.node("a:1"), w.node("b:1")
				a.lasts = time.Second
				target := b.upstream()
				if ours {
					target = b.ours()
				}
				first, cancel := context.WithCancel(context.Background())
				outcome := make(chan error)
				go func() { _, err := a.store.Connect(first, target); outcome <- err }()
				synctest.Wait()
				second := make(chan *Endpoint)
				go func() { second <- connected(t, a, target) }()
				synctest.Wait()
				cancel()
				require.ErrorIs(t, <-outcome, context.Canceled)
				short, cancel := context.WithTimeout(context.Background(), time.Millisecond)
				defer cancel()
				_, err := a.store.Connect(short, target)
				require.ErrorIs(t, err, context.DeadlineExceeded)
				require.True(t, w.fabric.linked((<-second).Queues()))
				require.Len(t, a.made, 1)
				ended, cancel := context.WithCancel(context.Background())
				cancel()
				e, err := a.store.Connect(ended, target)
				require.True(t, err == nil && e != nil || errors.Is(err, context.Canceled))
				a.store.Close()
				b.store.Close()
			})
		})
	}
}

// The number of connections is bounded, in both directions, and what was given back is
// room again.
func TestThereIsALimit(t *testing.T) {
	w := newWorld(t)
	hub := w.node("hub:1", func(cfg *Config) { cfg.MaxEndpoints = 3 })
	var ends []*Endpoint
	for i := range 3 {
		n := w.node(fmt.Sprintf("n%d:1", i))
		if i == 0 {
			ends = append(ends, connected(t, hub, n.ours()))
		} else {
			ends = append(ends, connected(t, n, hub.ours()))
		}
	}
	late := w.node("late:1")
	refused(t, late, hub.ours(), ErrRejected, "MC_MAX_EP_PER_CTX")
	refused(t, late, hub.upstream(), ErrRejected, "MC_MAX_EP_PER_CTX")
	_, err := hub.store.Connect(within(t, patience), late.ours())
	require.ErrorIs(t, err, ErrFull)
	for _, e := range ends {
		require.True(t, w.fabric.linked(e.Queues()))
		require.True(t, e.Retire(within(t, patience)))
		connected(t, late, hub.ours()).Retire(within(t, patience))
	}
	empty(t, hub)
}

// Hardware that fails, or panics, at each step: a typed error, nothing left, and the
// next try works.
func TestHardwareFails(t *testing.T) {
	broken := errors.New("no more of that")
	steps := map[string]func(p *port, err func() error){
		"make":    func(p *port, err func() error) { p.create = err },
		"connect": func(p *port, err func() error) { p.attach = func(Remote) error { return err() } },
	}
	for step, set := range steps {
		for _, panics := range []bool{false, true} {
			for _, ours := range []bool{false, true} {
				for _, here := range []bool{false, true} {
					t.Run(fmt.Sprint(step, panics, ours, here), func(t *testing.T) {
						w := newWorld(t)
						a, b := w.node("a:1"), w.node("b:1")
						bad := b
						if here {
							bad = a
						}
						var mu sync.Mutex
						fails := true
						set(bad.port, func() error {
							mu.Lock()
							defer mu.Unlock()
							switch {
							case !fails:
								return nil
							case panics:
								panic("bad hardware")
							}
							return broken
						})
						target := b.upstream()
						if ours {
							target = b.ours()
						}
						kind := ErrRejected
						if here {
							kind = ErrDevice
						}
						refused(t, a, target, kind)
						if here && !panics {
							_, err := a.store.Connect(within(t, patience), target)
							require.ErrorIs(t, err, broken)
						}
						if ours || here && step == "make" {
							empty(t, b)
						}
						mu.Lock()
						fails = false
						mu.Unlock()
						require.True(t, w.fabric.linked(connected(t, a, target).Queues()))
						eventually(t, "the failed ones to be gone", func() bool { return a.store.Len() == 1 })
					})
				}
			}
		}
	}
}

// Close ends what is under way, destroys everything, and lets peers know.
func TestClose(t *testing.T) {
	w := newWorld(t)
	a, b, c := w.node("a:1"), w.node("b:1"), w.node("c:1")
	out, in := connected(t, a, b.ours()), connected(t, b, a.ours())
	shared := connected(t, a, c.upstream())
	hung := make(chan struct{})
	w.net.carry = func(ctx context.Context, to string, m *metadata.ConnectionMessage, deliver func() (*metadata.ConnectionMessage, error)) (*metadata.ConnectionMessage, error) {
		if to != "nowhere:1" {
			return deliver()
		}
		if m.Extension.Kind == kindConnect {
			close(hung)
		}
		<-ctx.Done()
		return nil, ctx.Err()
	}
	outcome := make(chan error)
	go func() {
		_, err := a.store.Connect(context.Background(), Target{"nowhere:1", "nowhere:1@x", c.instance})
		outcome <- err
	}()
	<-hung
	begun := time.Now()
	var both sync.WaitGroup
	for range 2 {
		both.Go(a.store.Close)
	}
	both.Wait()
	require.Less(t, time.Since(begun), 5*time.Second)
	require.ErrorIs(t, <-outcome, ErrClosed)
	require.Empty(t, w.fabric.of(a.port, nil))
	require.Zero(t, a.store.Len())
	require.ErrorIs(t, out.Err(), ErrClosed)
	require.ErrorIs(t, shared.Err(), ErrClosed)
	<-in.Done()
	require.ErrorIs(t, in.Err(), ErrPeerClosed)
	require.True(t, in.Retire(within(t, patience)), "a closed store still says that there is nothing")
	empty(t, b)

	refused(t, b, a.ours(), ErrRejected, "closed")
	_, err := a.store.Connect(within(t, patience), b.ours())
	require.ErrorIs(t, err, ErrClosed)
	met, err := a.store.Fence(within(t, patience), Identity{Names: []string{"b:1"}})
	require.NoError(t, err)
	require.True(t, met)
}

// Close waits for queue pairs that are slow to go.
func TestCloseWaits(t *testing.T) {
	w := newWorld(t)
	a, b := w.node("a:1"), w.node("b:1")
	open := a.shut(t)
	connected(t, a, b.ours())
	closed := make(chan struct{})
	go func() { a.store.Close(); close(closed) }()
	eventually(t, "the peer to be told", func() bool { return b.store.Len() == 0 })
	select {
	case <-closed:
		t.Fatal("closed while there were queue pairs")
	case <-time.After(20 * time.Millisecond):
	}
	open()
	<-closed
}

func TestPaths(t *testing.T) {
	require.Equal(t, "mlx5_0", Device(request(1)))
	require.Equal(t, "x", Device(&message{PeerNICPath: "b@y", Extension: &metadata.ConnectionExtension{Device: "x"}}))
	require.Empty(t, Device(&message{PeerNICPath: "b"}))
	server, nic, ok := SplitNICPath("[::1]:5@mlx5@0")
	require.True(t, ok)
	require.Equal(t, []string{"[::1]:5", "mlx5@0"}, []string{server, nic})
}

func TestGID(t *testing.T) {
	for _, bad := range []string{"", ":", "fe80::1", strings.Repeat("00:", 16) + "00", strings.Repeat("0:", 15), strings.Repeat("0:", 15) + "100",
		strings.Repeat("0:", 15) + "g", strings.Repeat("0:", 15) + "+1", strings.Repeat("0:", 15) + "001"} {
		_, err := ParseGID(bad)
		require.ErrorIs(t, err, ErrProtocol, bad)
	}
	g, err := ParseGID("FE:80:0:0:0:0:0:0:a:b:c:d:e:f:10:ff")
	require.NoError(t, err)
	require.Equal(t, "fe:80:00:00:00:00:00:00:0a:0b:0c:0d:0e:0f:10:ff", g.String())
	back, err := ParseGID(g.String())
	require.NoError(t, err)
	require.Equal(t, g, back)
}
