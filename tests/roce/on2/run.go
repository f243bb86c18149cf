package main

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"
)

// The hosts boot side by side, and may be a minute apart on a busy machine.
const patience = 2 * time.Minute

// run runs a command on host 2; without arguments it only waits for the server there.
func run(address string, arguments []string) (status int, err error) {
	conn, err := dial(address)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	folder, err := os.Getwd()
	if err != nil {
		return 0, err
	}
	lock := new(sync.Mutex)
	start := command{Arguments: arguments, Environment: os.Environ(), Folder: folder}
	if err := begin(frameWriter{conn, lock, frameStart}, start); err != nil {
		return 0, err
	}
	go passInput(frameWriter{conn, lock, frameInput})
	go passSignals(frameWriter{conn, lock, frameSignal})
	for {
		kind, payload, err := readFrame(conn)
		switch {
		case err != nil:
			return 0, fmt.Errorf("the connection to host 2 broke: %w", err)
		case kind == frameOutput:
			os.Stdout.Write(payload)
		case kind == frameErrors:
			os.Stderr.Write(payload)
		case kind == frameEnd && len(payload) == 1:
			return int(payload[0]), nil
		default:
			return 0, fmt.Errorf("unexpected frame %q of %d bytes", kind, len(payload))
		}
	}
}

func stop(address string) error {
	conn, err := dial(address)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := begin(frameWriter{conn, new(sync.Mutex), frameStart}, command{Stop: true}); err != nil {
		return err
	}
	_, _, err = readFrame(conn)
	return err
}

// dial connects to host 2 as soon as it serves.
func dial(address string) (net.Conn, error) {
	deadline := time.Now().Add(patience)
	for {
		conn, err := net.DialTimeout("tcp", address, time.Second)
		if err == nil {
			return conn, nil
		}
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("host 2 has not answered within %v: %w", patience, err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func begin(to frameWriter, what command) error {
	text, err := json.Marshal(what)
	if err != nil {
		return err
	}
	return to.frame(text)
}

func passInput(to frameWriter) {
	buffer := make([]byte, 64<<10)
	for {
		n, err := os.Stdin.Read(buffer)
		if n > 0 && to.frame(buffer[:n]) != nil {
			return
		}
		if err != nil {
			to.frame(nil)
			return
		}
	}
}

func passSignals(to frameWriter) {
	received := make(chan os.Signal, 4)
	signal.Notify(received, syscall.SIGINT, syscall.SIGTERM)
	for one := range received {
		to.frame([]byte{byte(one.(syscall.Signal))})
	}
}
