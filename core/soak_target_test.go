package core

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pkg/errors"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// soakMember, in the environment, makes the test program the target of a soak test.
const soakMember = "MOONCAKE_TEST_SOAK"

// soakRegion is the size of each registered range of a soak test's target.
const soakRegion = 256 << 10

// soakServer is the target's side: an engine whose memory lies in a file, so that the
// test sees every byte of it, too.
type soakServer struct {
	arena   arena
	engine  *Engine
	port    uint16
	regions []*Memory
	via     string
}

func beSoakTarget() {
	var size int
	s := &soakServer{}
	fmt.Sscan(os.Getenv(soakMember), &s.via, &size)
	var err error
	if s.arena, err = mapFile(3, size); err != nil {
		panic(err)
	}
	fmt.Println(s.open())
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		fmt.Println(s.does(in.Text()))
	}
}

func mapFile(fd, size int) (arena, error) {
	return unix.Mmap(fd, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
}

// open starts an engine, on the port of the one before.
func (s *soakServer) open() string {
	via = s.via
	cfg := testConfig(nil)
	cfg.RPCPort = s.port
	e, err := Open("127.0.0.1", cfg)
	if err != nil {
		return "error: " + err.Error()
	}
	s.engine, s.port = e, e.Port()
	s.regions = make([]*Memory, len(s.arena)/soakRegion)
	for i := range s.regions {
		if answer := s.does(fmt.Sprint("register ", i)); answer != "ok" {
			return answer
		}
	}
	return fmt.Sprint(e.Name(), " ", s.arena.addr())
}

// does what a line says, and returns the answer.
func (s *soakServer) does(line string) string {
	command, arg, _ := strings.Cut(line, " ")
	var i int
	fmt.Sscan(arg, &i)
	var err error
	switch command {
	case "register":
		var ms []*Memory
		ms, err = s.engine.Register([]Range{{s.arena.addr() + uint64(i*soakRegion), soakRegion}}, "*")
		if err == nil {
			s.regions[i] = ms[0]
		}
	case "deregister":
		err = s.regions[i].Deregister()
	case "fence":
		ctx, cancel := context.WithTimeout(context.Background(), deadline)
		defer cancel()
		err = s.engine.Fence(ctx, arg)
	case "restart":
		if err = s.engine.Close(); err == nil {
			return s.open()
		}
	default:
		err = errors.New("what is " + command)
	}
	if err != nil {
		return "error: " + err.Error()
	}
	return "ok"
}

// soakTarget is the test's side of a target: another process, or, for transfers within
// one, an engine of this process.
type soakTarget struct {
	t     *testing.T
	arena arena // the target's memory, as this process sees it
	file  *os.File

	talking sync.Mutex // one question at a time; guards what follows
	inside  *soakServer
	command *exec.Cmd
	in      io.WriteCloser
	out     *bufio.Reader
	name    string
	addr    uint64
}

func newSoakTarget(t *testing.T, size int) *soakTarget {
	fd, err := unix.MemfdCreate("soak", unix.MFD_CLOEXEC)
	require.NoError(t, err)
	s := &soakTarget{t: t, file: os.NewFile(uintptr(fd), "soak")}
	require.NoError(t, s.file.Truncate(int64(size)))
	s.arena, err = mapFile(fd, size)
	require.NoError(t, err)
	t.Cleanup(func() {
		s.kill()
		unix.Munmap(s.arena)
		s.file.Close()
	})
	s.start()
	return s
}

func (s *soakTarget) start() {
	s.talking.Lock()
	defer s.talking.Unlock()
	if via == "self" {
		mem, err := mapFile(int(s.file.Fd()), len(s.arena))
		require.NoError(s.t, err)
		s.t.Cleanup(func() { unix.Munmap(mem) })
		s.inside = &soakServer{via: via, arena: mem}
		s.opened(s.inside.open())
		return
	}
	c := exec.Command(os.Args[0])
	c.Env = append(os.Environ(), fmt.Sprintf("%s=%s %d", soakMember, via, len(s.arena)))
	c.Stderr, c.ExtraFiles = os.Stderr, []*os.File{s.file}
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	in, err := c.StdinPipe()
	require.NoError(s.t, err)
	out, err := c.StdoutPipe()
	require.NoError(s.t, err)
	require.NoError(s.t, c.Start())
	s.command, s.in, s.out = c, in, bufio.NewReader(out)
	s.opened(s.line())
}

func (s *soakTarget) opened(line string) {
	_, err := fmt.Sscan(line, &s.name, &s.addr)
	require.NoError(s.t, err, line)
}

func (s *soakTarget) line() string {
	line, err := s.out.ReadString('\n')
	require.NoError(s.t, err, "the target ended")
	return strings.TrimSpace(line)
}

// ask sends a line and returns the answer.
func (s *soakTarget) ask(format string, args ...any) string {
	s.talking.Lock()
	defer s.talking.Unlock()
	began := time.Now()
	answer := ""
	if s.inside != nil {
		answer = s.inside.does(fmt.Sprintf(format, args...))
	} else {
		_, err := fmt.Fprintf(s.in, format+"\n", args...)
		require.NoError(s.t, err)
		answer = s.line()
	}
	if took := time.Since(began); took > 2*time.Second {
		s.t.Errorf("%s took the target %v", fmt.Sprintf(format, args...), took)
	}
	return answer
}

func (s *soakTarget) restart() {
	answer := s.ask("restart")
	s.talking.Lock()
	defer s.talking.Unlock()
	s.opened(answer)
}

func (s *soakTarget) kill() {
	s.talking.Lock()
	defer s.talking.Unlock()
	if s.inside != nil {
		s.inside.engine.Close()
		return
	}
	s.command.Process.Kill()
	s.command.Wait()
}

func (s *soakTarget) signal(what os.Signal) {
	if s.inside == nil {
		s.command.Process.Signal(what)
	}
}

// at is where the target's process has its memory, and by which name it is reached.
func (s *soakTarget) at() (name string, addr uint64) {
	s.talking.Lock()
	defer s.talking.Unlock()
	return s.name, s.addr
}
