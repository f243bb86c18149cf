package core

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"mooncake/tests/softnic/nic"
)

// otherEngine, in the environment, makes the test program an engine with an arena of
// so many bytes, until its standard input ends.
const otherEngine = "MOONCAKE_TEST_ENGINE"

func TestMain(m *testing.M) {
	nic.Enter()
	if size := os.Getenv(otherEngine); size != "" {
		beOther(size)
		return
	}
	if os.Getenv(soakMember) != "" {
		beSoakTarget()
		return
	}
	if beStormMember() {
		return
	}
	code := m.Run()
	if left := rdmaObjects(); len(left) > 0 {
		fmt.Fprintln(os.Stderr, "verbs objects that were not closed:", left)
		code = max(code, 1)
	}
	nic.Leave()
	os.Exit(code)
}

func beOther(arg string) {
	var size int
	fmt.Sscan(arg, &size)
	t := &testing.B{} // the kit takes one; it ends the process when something fails
	via = "local"
	e := openEngine(t, "127.0.0.1", testConfig(nil))
	a := newArena(t, size)
	a.poison(1) // every page is there
	register(t, e, a)
	fmt.Println(e.Name(), a.addr())
	bufio.NewReader(os.Stdin).ReadString(0)
}

// startOther starts an engine in another process; it ends with the test.
func startOther(t testing.TB, size int) (name string, addr uint64, pid int) {
	c := exec.Command(os.Args[0])
	c.Env = append(os.Environ(), fmt.Sprintf("%s=%d", otherEngine, size))
	c.Stderr = os.Stderr
	in, err := c.StdinPipe()
	require.NoError(t, err)
	out, err := c.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, c.Start())
	t.Cleanup(func() {
		in.Close()
		c.Wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	_, err = fmt.Sscan(strings.TrimSpace(line), &name, &addr)
	require.NoError(t, err)
	return name, addr, c.Process.Pid
}
