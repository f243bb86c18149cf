//go:build cgo

package core

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"mooncake/tests/softnic/nic"
)

// stormTime is how long the storm lasts, without MOONCAKE_SOAK=5m or so.
const stormTime = 8 * time.Second

// stormSeed, in the environment, is the seed of a storm that is to be had again, as far as
// threads go the same ways.
const stormSeed = "MOONCAKE_STORM_SEED"

// Engines of several processes move random blocks in all directions, with random ends,
// while everything happens that can: work requests fail, bytes arrive late, ports go down,
// devices are lost, NICs stand still, peers fence, die and come again, memory comes and
// goes. Done means that every byte is there and none beside it has changed; quiet that
// nothing is written any more; no batch fails while nothing happens; all of them end; and
// nothing is left in the end.
func TestRDMAStorm(t *testing.T) {
	overSoftNIC(t)
	length, err := time.ParseDuration(cmp.Or(os.Getenv("MOONCAKE_SOAK"), stormTime.String()))
	require.NoError(t, err)
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv(stormSeed); text != "" {
		seed, err = strconv.ParseUint(text, 10, 64)
		require.NoError(t, err)
	}
	t.Logf("%s=%d", stormSeed, seed)
	openEngine(t, "127.0.0.1", testConfig(nil)).Close() // what a process keeps after its first one
	s := newStorm(t, seed)
	before := leftovers()
	s.begin()
	s.run(length)
	s.finish()
	s.report()
	if t.Failed() {
		return
	}
	end := time.Now().Add(deadline)
	for now := leftovers(); now.exceed(before); now = leftovers() {
		if time.Now().After(end) {
			require.Fail(t, "something is left", "%+v\nbefore: %+v\n%s", now, before, allStacks())
		}
		time.Sleep(time.Millisecond) // what ends by itself may take a moment
	}
}

// storm is the test's side.
type storm struct {
	*stormShared
	t      *testing.T
	seed   uint64
	r      *rand.Rand
	file   *os.File
	memory arena
	hosts  [stormHosts]*stormPeer
	base   [len(stormDevices)][]string // what is wrong with the devices all of the time
	noting sync.Mutex
	caused map[string]*stormCause
}

// stormCause is how often something was done.
type stormCause struct {
	count          int
	total, longest time.Duration
}

func newStorm(t *testing.T, seed uint64) *storm {
	fd, err := unix.MemfdCreate("storm", unix.MFD_CLOEXEC)
	require.NoError(t, err)
	s := &storm{t: t, seed: seed, r: rand.New(rand.NewPCG(seed, 99)), file: os.NewFile(uintptr(fd), "storm"), caused: map[string]*stormCause{}}
	t.Cleanup(func() { s.file.Close() })
	require.NoError(t, s.file.Truncate(int64(stormFile())))
	s.memory, err = mapFile(fd, stormFile())
	require.NoError(t, err)
	t.Cleanup(func() { unix.Munmap(s.memory) })
	s.stormShared = stormSharedIn(s.memory)
	return s
}

// begin opens all hosts, and then starts the workers.
func (s *storm) begin() {
	for n := range s.hosts {
		s.hosts[n] = &stormPeer{storm: s, n: n}
		s.hosts[n].start()
	}
	s.t.Cleanup(func() {
		s.stop.Store(1)
		for _, p := range s.hosts {
			p.kill()
		}
		for _, device := range stormDevices {
			nic.Change(device, stormCalm...)
		}
	})
	for _, p := range s.hosts {
		p.ask("work")
	}
}

func (s *storm) finish() {
	s.restore()
	s.stop.Store(1)
	for _, p := range s.hosts {
		p.ask("finish")
	}
	for _, p := range s.hosts {
		p.kill()
	}
}

// report says what came of it.
func (s *storm) report() {
	names := []string{"done"}
	for _, err := range stormErrors {
		names = append(names, err.Error())
	}
	var list []string
	for i, name := range names {
		list = append(list, fmt.Sprintf("%d %s", s.outcomes[i].Load(), name))
	}
	s.t.Logf("batches: %s", strings.Join(list, ", "))
	s.t.Logf("%d in calms, %d quiet here only, %d refused, %d slots found untouched", s.calmly.Load(), s.loud.Load(), s.refused.Load(), s.watched.Load())
	for what, c := range s.caused {
		s.t.Logf("%d times %s: %v each, at most %v", c.count, what, c.total/time.Duration(c.count), c.longest)
	}
	if s.failed.Load() != 0 {
		s.t.Errorf("%d accusations, see above", s.failed.Load())
	}
	require.NotZero(s.t, s.outcomes[0].Load())
}

// stormLeft is what could be left behind.
type stormLeft struct {
	goroutines, objects, queues int // queues: of all processes
	files                       []string
}

func leftovers() (l stormLeft) {
	l.goroutines = runtime.NumGoroutine()
	if files, err := os.ReadDir("/proc/self/fd"); err == nil {
		for _, f := range files {
			to, _ := os.Readlink("/proc/self/fd/" + f.Name())
			l.files = append(l.files, to)
		}
	}
	l.objects = len(rdmaObjects())
	if list, err := nic.QueuePairs(); err == nil {
		l.queues = strings.Count(list, "\n")
	}
	return l
}

func (l stormLeft) exceed(m stormLeft) bool {
	return l.goroutines > m.goroutines || len(l.files) > len(m.files) || l.objects > m.objects || l.queues > m.queues
}
