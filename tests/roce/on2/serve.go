package main

import (
	"encoding/json"
	"errors"
	"io"
	"net"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// serve runs the commands of every connection until one says stop.
func serve(address string) error {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	stopped := make(chan struct{})
	var once sync.Once
	go func() {
		<-stopped
		listener.Close()
	}()
	for {
		conn, err := listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		go func() {
			defer conn.Close()
			if serveOne(conn) {
				once.Do(func() { close(stopped) })
			}
		}()
	}
}

// serveOne runs one connection's command; true if it is told to stop the server.
func serveOne(conn net.Conn) (stop bool) {
	kind, payload, err := readFrame(conn)
	if err != nil || kind != frameStart {
		return false
	}
	var what command
	if json.Unmarshal(payload, &what) != nil {
		return false
	}
	status := byte(0)
	if len(what.Arguments) > 0 {
		status = execute(conn, what)
	}
	frameWriter{conn, new(sync.Mutex), frameEnd}.frame([]byte{status})
	return what.Stop
}

// execute runs a command, with what the connection brings as its input.
func execute(conn net.Conn, what command) (status byte) {
	lock := new(sync.Mutex)
	output, complaints := frameWriter{conn, lock, frameOutput}, frameWriter{conn, lock, frameErrors}
	cmd := exec.Command(what.Arguments[0], what.Arguments[1:]...)
	cmd.Env, cmd.Dir = what.Environment, what.Folder
	cmd.Stdout, cmd.Stderr = output, complaints
	// A child that it leaves behind holds the pipes; it is killed below, and not waited for.
	cmd.WaitDelay = 2 * time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	input, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		complaints.Write([]byte("on2: " + err.Error() + "\n"))
		return 127
	}
	group := &group{number: cmd.Process.Pid}
	go func() {
		feed(conn, input, group)
		group.signal(syscall.SIGKILL)
	}()
	cmd.Wait()
	group.end()
	state := cmd.ProcessState.Sys().(syscall.WaitStatus)
	if state.Signaled() {
		return 128 + byte(state.Signal())
	}
	return byte(state.ExitStatus())
}

// feed passes input and signals on until the connection ends.
func feed(conn net.Conn, input io.WriteCloser, group *group) {
	for {
		kind, payload, err := readFrame(conn)
		switch {
		case err != nil:
			return
		case kind == frameInput && len(payload) == 0:
			input.Close()
		case kind == frameInput:
			// A command that reads no input any more is no reason to end it.
			input.Write(payload)
		case kind == frameSignal && len(payload) == 1:
			group.signal(syscall.Signal(payload[0]))
		}
	}
}

// group is a command's process group. Nothing is sent to it once its leader is gone: the number
// can then be another's.
type group struct {
	lock   sync.Mutex // guards ended, and that no signal is sent after it was set
	number int
	ended  bool
}

func (g *group) signal(what syscall.Signal) {
	g.lock.Lock()
	defer g.lock.Unlock()
	if !g.ended {
		syscall.Kill(-g.number, what)
	}
}

// end kills what the leader has left behind.
func (g *group) end() {
	g.signal(syscall.SIGKILL)
	g.lock.Lock()
	g.ended = true
	g.lock.Unlock()
}
