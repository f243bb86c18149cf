package local

import (
	"bufio"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// beLeaver, in the environment, makes the test program an initiator that is inside
// a copy when another program takes its process over.
const beLeaver = "MOONCAKE_LOCAL_LEAVER"

func leaveInsideACopy(target string) {
	cfg := DialConfig{From: Instance{8}, Name: "leaver:1", Lanes: 1, Log: quietLog}
	hex.Decode(cfg.Target[:], []byte(target))
	r, err := dial(&testing.B{}, cfg.Target)
	if err != nil {
		panic(err)
	}
	wordOf(r.words, 0).enter()
	fmt.Println(r.Direct())
	bufio.NewReader(os.Stdin).ReadString('\n')
	panic(unix.Exec("/bin/sleep", []string{"sleep", "60"}, nil))
}

// A process that another program takes over is out of every copy: nobody waits for it.
func TestSettleDoesNotWaitForAnotherProgram(t *testing.T) {
	x := startTarget(t)
	arena := newArena(t, 4096)
	region := x.register(arena.addr(), arena.end(), true)
	c := exec.Command(os.Args[0])
	c.Env = append(os.Environ(), beLeaver+"="+hex.EncodeToString(x.server.cfg.Instance[:]))
	out, err := c.StdoutPipe()
	require.NoError(t, err)
	in, err := c.StdinPipe()
	require.NoError(t, err)
	require.NoError(t, c.Start())
	t.Cleanup(func() {
		c.Process.Kill()
		c.Wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	require.Contains(t, line, "true")
	conn := connOf(t, x.server)
	require.False(t, conn.left(), "it is still there")
	fmt.Fprintln(in)
	eventually(t, "the other program", func() bool {
		name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", c.Process.Pid))
		return err == nil && string(name) == "sleep\n"
	})
	settled := make(chan struct{})
	go func() {
		x.deregister(region)
		close(settled)
	}()
	select {
	case <-settled:
	case <-time.After(patience):
		c.Process.Kill() // so that the test ends
		require.FailNow(t, "still waits")
	}
	eventually(t, "the connection to end", func() bool { return x.server.Connections() == 0 })
}
