// Package nic runs the tests of a package on the software NIC of tests/softnic.
//
// The dynamic loader reads LD_LIBRARY_PATH when a process starts, so the test program
// builds the software NIC, and executes itself once more with it:
//
//	func TestMain(m *testing.M) {
//		nic.Enter()
//		code := m.Run()
//		nic.Leave()
//		os.Exit(code)
//	}
//
// Processes that tests start share the NIC through their environment. With
// MC_TEST_NIC=real in it, tests use the devices of this host instead.
package nic

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

const (
	folderVariable = "SOFTNIC_DIR" // where the processes of one NIC meet
	ownerVariable  = "MOONCAKE_SOFTNIC_OWNER"
	whyVariable    = "MOONCAKE_SOFTNIC_MISSING"
)

// Enter makes this process use a software NIC that nobody else uses, by executing the
// program again; it returns in the process that does, and where there can be none.
func Enter() {
	if Real() || os.Getenv(ownerVariable) != "" || os.Getenv(whyVariable) != "" {
		return
	}
	library, err := build()
	if err != nil {
		os.Setenv(whyVariable, err.Error())
		return
	}
	removeOld()
	folder := filepath.Join(place(), prefix+strconv.Itoa(os.Getpid()))
	os.RemoveAll(folder)
	if err := os.Mkdir(folder, 0o700); err != nil {
		os.Setenv(whyVariable, err.Error())
		return
	}
	environment := append(os.Environ(), folderVariable+"="+folder, ownerVariable+"="+strconv.Itoa(os.Getpid()),
		"LD_LIBRARY_PATH="+strings.TrimSuffix(library+":"+os.Getenv("LD_LIBRARY_PATH"), ":"))
	self, err := os.Executable()
	if err == nil {
		err = syscall.Exec(self, os.Args, environment)
	}
	os.Setenv(whyVariable, "executing the tests again: "+err.Error())
}

// Leave removes what the software NIC has written, at the end of the tests.
func Leave() {
	if os.Getenv(ownerVariable) == strconv.Itoa(os.Getpid()) {
		os.RemoveAll(os.Getenv(folderVariable))
	}
}

const prefix = "mooncake-softnic-"

// place is a file system in memory, if there is one.
func place() string {
	if info, err := os.Stat("/dev/shm"); err == nil && info.IsDir() {
		return "/dev/shm"
	}
	return os.TempDir()
}

// removeOld removes what tests have left that were killed.
func removeOld() {
	folders, _ := filepath.Glob(filepath.Join(place(), prefix+"*"))
	for _, folder := range folders {
		pid, err := strconv.Atoi(strings.TrimPrefix(filepath.Base(folder), prefix))
		if err == nil && syscall.Kill(pid, 0) == syscall.ESRCH {
			os.RemoveAll(folder)
		}
	}
}

// Real tells whether tests use the devices of this host.
func Real() bool { return os.Getenv("MC_TEST_NIC") == "real" }

// Missing says why there is no software NIC; "" if there is one.
func Missing() string {
	if Real() {
		return "MC_TEST_NIC=real"
	}
	if os.Getenv(ownerVariable) == "" {
		if why := os.Getenv(whyVariable); why != "" {
			return why
		}
		return "nic.Enter was not called"
	}
	return ""
}

// Need skips a test where there is no software NIC, and fails it if MC_REQUIRE contains
// "softnic".
func Need(t testing.TB) {
	t.Helper()
	why := Missing()
	switch {
	case why == "":
	case Required() && !Real():
		t.Fatal("MC_REQUIRE has softnic, and there is none: " + why)
	default:
		t.Skip("no software NIC: " + why)
	}
}

// Required tells whether tests must not be skipped for want of the software NIC.
func Required() bool {
	for _, word := range strings.Split(os.Getenv("MC_REQUIRE"), ",") {
		if strings.TrimSpace(word) == "softnic" {
			return true
		}
	}
	return false
}

// source is the folder of the software NIC's sources.
func source() (string, error) {
	_, file, _, ok := runtime.Caller(0)
	folder := filepath.Dir(filepath.Dir(file))
	if _, err := os.Stat(filepath.Join(folder, "build.sh")); !ok || err != nil {
		return "", fmt.Errorf("its sources are not at %s", folder)
	}
	return folder, nil
}
