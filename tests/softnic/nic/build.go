package nic

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// build makes the library unless it is newer than its sources, and returns its folder.
func build() (string, error) {
	sources, err := source()
	if err != nil {
		return "", err
	}
	folder := filepath.Join(sources, "..", "..", "build", "softnic")
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return "", err
	}
	// Packages are tested side by side.
	lock, err := os.Create(filepath.Join(folder, "lock"))
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return "", err
	}
	if made, err := os.Stat(filepath.Join(folder, "libibverbs.so.1")); err == nil && made.ModTime().After(newest(sources)) {
		return folder, nil
	}
	for _, header := range []string{"/usr/include/infiniband/verbs.h", "/usr/local/include/infiniband/verbs.h"} {
		if _, err = os.Stat(header); err == nil {
			break
		}
	}
	if err != nil {
		return "", fmt.Errorf("infiniband/verbs.h is not there (package libibverbs-dev)")
	}
	if _, err := exec.LookPath("gcc"); err != nil {
		return "", fmt.Errorf("no C compiler (package gcc)")
	}
	command := exec.Command(filepath.Join(sources, "build.sh"), folder)
	if output, err := command.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build.sh: %v: %s", err, strings.TrimSpace(string(output)))
	}
	return folder, nil
}

// newest is when the sources were last changed.
func newest(folder string) (last time.Time) {
	filepath.WalkDir(folder, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(path) == ".go" {
			return nil
		}
		if info, err := entry.Info(); err == nil && !entry.IsDir() && info.ModTime().After(last) {
			last = info.ModTime()
		}
		return nil
	})
	return last
}
