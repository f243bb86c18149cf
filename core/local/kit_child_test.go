package local

import (
	"bufio"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// beTarget, in the environment, makes the test program a target with so many bytes
// of memory, which does what standard input says until that ends.
const beTarget = "MOONCAKE_LOCAL_TARGET"

// serveAsChild is the child's side. Its first line is instance and address.
func serveAsChild(arg string) {
	var size int
	fmt.Sscan(arg, &size)
	x := &target{}
	a, err := mapArena(size)
	if err != nil {
		panic(err)
	}
	cfg := ServerConfig{Memory: x, Log: quietLog, MaxRanges: 100}
	copy(cfg.Instance[:], fmt.Sprintf("%016d", os.Getpid()))
	if x.server, err = NewServer(cfg); err != nil {
		panic(err)
	}
	r := x.register(a.addr(), a.end(), true)
	fmt.Println(hex.EncodeToString(cfg.Instance[:]), a.addr())
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		var n int
		var command string
		fmt.Sscan(in.Text(), &command, &n)
		switch command {
		case "fill":
			a.fill(byte(n))
		case "poison":
			a.poison(byte(n))
		case "all":
			fmt.Println(a.all(byte(n)))
			continue
		case "watch": // for 100 ms
			ok := true
			for end := time.Now().Add(100 * time.Millisecond); ok && time.Now().Before(end); {
				ok = a.all(byte(n))
			}
			fmt.Println(ok)
			continue
		case "is": // whether the arena is what fill makes
			want := make(arena, size)
			want.fill(byte(n))
			fmt.Println(string(want) == string(a))
			continue
		case "deregister":
			x.deregister(r)
		case "register":
			r = x.register(a.addr(), a.end(), true)
		case "clients":
			fmt.Println(x.server.Connections())
			continue
		}
		fmt.Println("ok")
	}
}

// child is a target in a process of its own.
type child struct {
	t        testing.TB
	instance Instance
	addr     uint64
	command  *exec.Cmd
	in       io.WriteCloser
	out      *bufio.Reader
}

func startChild(t testing.TB, size int) *child {
	c := &child{t: t, command: exec.Command(os.Args[0])}
	c.command.Env = append(os.Environ(), fmt.Sprintf("%s=%d", beTarget, size))
	c.command.Stderr = os.Stderr
	var err error
	c.in, err = c.command.StdinPipe()
	require.NoError(t, err)
	out, err := c.command.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, c.command.Start())
	t.Cleanup(func() {
		c.signal(unix.SIGCONT)
		c.in.Close()
		c.command.Wait()
	})
	c.out = bufio.NewReader(out)
	var instance []byte
	_, err = fmt.Sscanf(c.line(), "%x %d", &instance, &c.addr)
	require.NoError(t, err)
	copy(c.instance[:], instance)
	return c
}

func (c *child) line() string {
	line, err := c.out.ReadString('\n')
	require.NoError(c.t, err, "the child ended")
	return strings.TrimSpace(line)
}

// does sends a command and checks the answer.
func (c *child) does(answer, format string, args ...any) {
	c.t.Helper()
	c.begin(format, args...)
	require.Equal(c.t, answer, c.line(), format)
}

// begin sends a command without waiting for the answer.
func (c *child) begin(format string, args ...any) {
	_, err := fmt.Fprintf(c.in, format+"\n", args...)
	require.NoError(c.t, err)
}

func (c *child) signal(s os.Signal) { c.command.Process.Signal(s) }

// freeze stops the child and returns when it stands.
func (c *child) freeze() {
	c.signal(unix.SIGSTOP)
	eventually(c.t, "the child to stand still", func() bool {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", c.command.Process.Pid))
		fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
		return err == nil && fields[0] == "T"
	})
}

func (c *child) kill() {
	c.signal(unix.SIGKILL)
	c.command.Wait()
}

func (c *child) thaw() { c.signal(unix.SIGCONT) }
