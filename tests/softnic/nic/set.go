package nic

import (
	"cmp"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// initial are the settings that differ from 0 at first.
var initial = map[string]string{"mode": "copy", "burst": "200000", "port": "up", "gids": "v2at3", "link": "roce",
	"fail_for": "1", "fail_status": "retry", "dead_gid_errno": "22"}

// Set changes settings of a device, "key=value" each, until the test ends. An engine must
// be open on the software NIC: settings last as long as somebody uses it.
func Set(t testing.TB, device string, entries ...string) {
	t.Helper()
	Need(t)
	control(t, device, entries)
	t.Cleanup(func() {
		var before []string
		for _, entry := range entries {
			key, _, _ := strings.Cut(entry, "=")
			before = append(before, key+"="+cmp.Or(initial[key], "0"))
		}
		control(nil, device, before)
	})
}

// control runs softnicctl; t is nil where its failure does not matter, because nobody uses
// the NIC any more.
func control(t testing.TB, device string, entries []string) {
	if err := Change(device, entries...); err != nil && t != nil {
		t.Helper()
		t.Fatal(err)
	}
}

// Change changes settings of a device for good, "key=value" each: for tests that do so very
// often, and put them back themselves.
func Change(device string, entries ...string) error {
	output, err := exec.Command(program(), append([]string{"set", device}, entries...)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("softnicctl set %s %v: %v: %s", device, entries, err, output)
	}
	return nil
}

// QueuePairs tells about every queue pair of every process, a line each.
func QueuePairs() (string, error) {
	output, err := exec.Command(program(), "qps").CombinedOutput()
	return string(output), err
}

// Event makes a device raise an event by name; see softnicctl.
func Event(t testing.TB, device, name string) {
	t.Helper()
	Need(t)
	if output, err := exec.Command(program(), "event", device, name).CombinedOutput(); err != nil {
		t.Fatalf("softnicctl event %s %s: %v: %s", device, name, err, output)
	}
}

// Statuses are the words of fail_status, by enum ibv_wc_status.
var Statuses = []string{"success", "loc_len", "loc_qp_op", "loc_eec_op", "loc_prot", "flush", "mw_bind", "bad_resp",
	"loc_access", "rem_inv_req", "rem_access", "rem_op", "retry", "rnr_retry", "loc_rdd", "rem_inv_rd", "rem_abort",
	"inv_eecn", "inv_eec_state", "fatal", "timeout", "general"}

// Fail are the settings that make a work request fail, the one with this number from now
// on, counted from 1, with a status of enum ibv_wc_status.
func Fail(at, status int) []string {
	return []string{"fail_for=1", "fail_status=" + Statuses[status], "fail_at=" + strconv.Itoa(at)}
}

// QPs are the queue pairs of this process, each as softnicctl tells of it: its state, and
// what it was told.
func QPs(t testing.TB) (list []map[string]string) {
	t.Helper()
	output, err := exec.Command(program(), "qps").CombinedOutput()
	if err != nil {
		t.Fatalf("softnicctl qps: %v: %s", err, output)
	}
	for line := range strings.Lines(string(output)) {
		qp := map[string]string{}
		for _, field := range strings.Fields(line) {
			name, value, _ := strings.Cut(field, "=")
			qp[name] = value
		}
		if qp["pid"] == strconv.Itoa(os.Getpid()) {
			list = append(list, qp)
		}
	}
	return list
}

// program is softnicctl, which lies beside the library.
func program() string {
	first, _, _ := strings.Cut(os.Getenv("LD_LIBRARY_PATH"), ":")
	return filepath.Join(first, "softnicctl")
}
