package rdma

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// lockedMemory is how much memory devices may pin for this process.
type lockedMemory struct {
	limit     uint64 // bytes
	pinned    uint64 // bytes
	unlimited bool
}

func readLockedMemory() lockedMemory {
	text, _ := os.ReadFile("/proc/self/status")
	l := parseStatus(string(text))
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &limit); err != nil || limit.Cur == unix.RLIM_INFINITY {
		l.unlimited = true
	}
	l.limit = limit.Cur
	return l
}

// parseStatus reads /proc/self/status. The limit does not count for those who have the
// capability to lock memory, bit 14.
func parseStatus(text string) (l lockedMemory) {
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(line, ":")
		value = strings.TrimSpace(value)
		switch name {
		case "VmPin":
			kib, _ := strconv.ParseUint(strings.TrimSuffix(value, " kB"), 10, 64)
			l.pinned = kib << 10
		case "CapEff":
			capabilities, _ := strconv.ParseUint(value, 16, 64)
			l.unlimited = capabilities&(1<<unix.CAP_IPC_LOCK) != 0
		}
	}
	return l
}

// allows tells whether need more bytes can be pinned.
func (l lockedMemory) allows(need uint64) bool {
	return l.unlimited || l.pinned <= l.limit && need <= l.limit-l.pinned
}

// remedy is what to do when need more bytes cannot be pinned.
func (l lockedMemory) remedy(need uint64) string {
	return fmt.Sprintf("it needs %d KiB, and of the limit of locked memory (ulimit -l) of %d KiB %d are taken: "+
		"raise it (ulimit -l unlimited; memlock in limits.conf; LimitMEMLOCK=infinity of a systemd service; "+
		"docker run --ulimit memlock=-1)", (need+1023)>>10, l.limit>>10, l.pinned>>10)
}
