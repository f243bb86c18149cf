//go:build cgo

package core

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// stormMember, in the environment, makes the test program a host of a storm.
const stormMember = "MOONCAKE_TEST_STORM"

// beStormMember is a host in a process of its own, if this process was started for that:
// it does what lines of standard input say.
func beStormMember() bool {
	text := os.Getenv(stormMember)
	if text == "" {
		return false
	}
	var n int
	var seed uint64
	fmt.Sscan(text, &n, &seed)
	via = "rdma"
	file, err := mapFile(3, stormFile())
	if err != nil {
		panic(err)
	}
	h := newStormHost(n, file, seed)
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		fmt.Println(h.does(in.Text()))
	}
	return true
}

// stormPeer is the test's side of a host: of this process, or of one of its own.
type stormPeer struct {
	*storm
	n     int
	lives uint64

	talking sync.Mutex // one question at a time; guards what follows
	inside  *stormHost
	command *exec.Cmd
	in      io.WriteCloser
	read    *os.File
	out     *bufio.Reader
}

// start starts the host, with an engine by the name of the one before.
func (p *stormPeer) start() {
	p.lives++
	seed := p.seed + p.lives<<32
	p.talking.Lock()
	if p.n < stormInside {
		p.inside = newStormHost(p.n, p.memory, seed)
	} else {
		c := exec.Command(os.Args[0])
		c.Env = append(os.Environ(), stormMember+"="+strconv.Itoa(p.n)+" "+strconv.FormatUint(seed, 10))
		c.Stderr, c.ExtraFiles = os.Stderr, []*os.File{p.file}
		c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		in, err := c.StdinPipe()
		require.NoError(p.t, err)
		out, err := c.StdoutPipe()
		require.NoError(p.t, err)
		require.NoError(p.t, c.Start())
		p.command, p.in, p.read, p.out = c, in, out.(*os.File), bufio.NewReader(out)
	}
	p.talking.Unlock()
	p.ask("open")
}

// ask has the host do something; what does not work ends the storm.
func (p *stormPeer) ask(line string) {
	p.talking.Lock()
	defer p.talking.Unlock()
	answer, err := p.answer(line)
	if err != nil {
		p.t.Errorf("host %d, asked to %s: %v", p.n, line, err)
		p.failed.Add(1)
		if p.command != nil {
			p.command.Process.Signal(unix.SIGQUIT) // says what its goroutines do
		}
	} else if answer != "ok" {
		p.t.Errorf("host %d, asked to %s: %s", p.n, line, answer)
		p.failed.Add(1)
	}
}

func (p *stormPeer) answer(line string) (string, error) {
	if p.inside != nil {
		return p.inside.does(line), nil
	}
	p.read.SetReadDeadline(time.Now().Add(3 * stormPatience))
	if _, err := fmt.Fprintln(p.in, line); err != nil {
		return "", err
	}
	answer, err := p.out.ReadString('\n')
	return strings.TrimSpace(answer), err
}

// kill ends the host without a farewell, if it has a process of its own.
func (p *stormPeer) kill() {
	p.talking.Lock()
	defer p.talking.Unlock()
	if p.command != nil {
		p.in.Close()
		p.command.Process.Kill()
		p.command.Wait()
		p.command = nil
	}
}

func (p *stormPeer) signal(what os.Signal) {
	p.talking.Lock()
	defer p.talking.Unlock()
	if p.command != nil {
		p.command.Process.Signal(what)
	}
}
