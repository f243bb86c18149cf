package local

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// beHammer, in the environment, makes the test program an initiator that writes to a
// target's memory as fast as it can, whatever becomes of it.
const beHammer = "MOONCAKE_LOCAL_HAMMER"

func hammer(what string) {
	var target string
	var addr uint64
	var m Mode
	fmt.Sscan(what, &target, &addr, &m)
	cfg := DialConfig{}
	hex.Decode(cfg.Target[:], []byte(target))
	r, err := dial(&testing.B{}, cfg.Target, mode(m))
	if err != nil {
		panic(err)
	}
	near, err := mapArena(hammerSize)
	if err != nil {
		panic(err)
	}
	near.poison(0x11)
	p := NewRemotePeer(PeerConfig{Name: "target", Log: quietLog}, r)
	fmt.Println("ready")
	for i := 0; ; i++ {
		size := 256 << (i % 3 * 4)
		src, _ := post(p, true, scattered(near.addr(), addr, hammerSize/2/size, size))
		<-src.ended
	}
}

const hammerSize = 8 << 20

// An initiator that stands still at any moment of its copies: when its target has got
// its memory back, and the initiator goes on, nothing of that memory changes.
func TestInitiatorThatStandsStill(t *testing.T) {
	for _, m := range []Mode{Best, PackedOnly, DirectOnly} {
		t.Run(fmt.Sprint("mode ", m), func(t *testing.T) {
			x := startTarget(t)
			far := newArena(t, hammerSize)
			c := exec.Command(os.Args[0])
			c.Env = append(os.Environ(), fmt.Sprintf("%s=%x %d %d", beHammer, x.server.cfg.Instance, far.addr(), m))
			c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
			c.Stderr = os.Stderr
			out, err := c.StdoutPipe()
			require.NoError(t, err)
			require.NoError(t, c.Start())
			t.Cleanup(func() {
				c.Process.Kill()
				c.Wait()
			})
			_, err = bufio.NewReader(out).ReadString('\n')
			require.NoError(t, err)
			waited := 0
			for range 60 {
				region := x.register(far.addr(), far.end(), true)
				far.poison(0)
				eventually(t, "the initiator to write", func() bool { return !far.all(0) })
				time.Sleep(time.Duration(rand.IntN(2000)) * time.Microsecond)
				c.Process.Signal(unix.SIGSTOP)
				settled := make(chan struct{})
				go func() {
					x.deregister(region)
					close(settled)
				}()
				select {
				case <-settled:
				case <-time.After(10 * time.Millisecond): // it is inside a copy
					waited++
					c.Process.Signal(unix.SIGCONT)
					<-settled
				}
				far.poison(0xA5)
				c.Process.Signal(unix.SIGCONT)
				for end := time.Now().Add(3 * time.Millisecond); time.Now().Before(end); {
					require.True(t, far.all(0xA5), "a late byte")
				}
			}
			t.Logf("waited for the initiator %d times", waited)
		})
	}
}

// Nobody reads what the owner writes after it has its memory back.
func TestReadsEndWithTheRegistration(t *testing.T) {
	for _, w := range everyWay {
		t.Run(w.name, func(t *testing.T) {
			p := newPair(t, w, 16<<20)
			for range 30 {
				p.near.poison(0)
				p.far.poison(1)
				var srcs []*source
				for _, size := range []int{256, 4096, 1 << 20} {
					src, _ := post(p.peer, false, p.scattered(min(8192, 8<<20/size), size))
					srcs = append(srcs, src)
				}
				p.deregister(p.region)
				p.far.poison(2)
				for _, src := range srcs {
					if end := src.end(t); end.Err != nil {
						require.ErrorIs(t, end.Err, ErrRejected)
					}
				}
				require.Equal(t, -1, bytes.IndexByte(p.near, 2), "read after it was deregistered")
				p.region = p.register(p.far.addr(), p.far.end(), true)
			}
		})
	}
}
