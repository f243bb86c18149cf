package local

import (
	"log/slog"
	"os"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// tracers lets one peer at a time access this process's memory where the Yama
// security module allows that to ancestors only (ptrace_scope 1, the default of
// Ubuntu). The kernel keeps one exception a process, so further peers use the rings.
var tracers tracerSlot

type tracerSlot struct {
	mu     sync.Mutex // guards what follows
	pid    int        // 0: nobody
	shares int        // connections of that process
}

const yamaScope = "/proc/sys/kernel/yama/ptrace_scope"

// allow makes the exception for pid if one is needed and free. true: forbid is due.
func (t *tracerSlot) allow(pid int, log *slog.Logger) bool {
	scope, err := os.ReadFile(yamaScope)
	if err != nil || strings.TrimSpace(string(scope)) != "1" || pid <= 0 {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.pid != 0 && t.pid != pid {
		log.Info("another local peer has the one exception from "+yamaScope+" that a process can make", "peer", pid, "other", t.pid)
		return false
	}
	if t.pid == 0 {
		if err := unix.Prctl(unix.PR_SET_PTRACER, uintptr(pid), 0, 0, 0); err != nil {
			log.Info("let a local peer access this process's memory", "peer", pid, "err", err)
			return false
		}
		t.pid = pid
	}
	t.shares++
	return true
}

// forbid gives back what allow gave.
func (t *tracerSlot) forbid(pid int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.pid != pid {
		return
	}
	if t.shares--; t.shares == 0 {
		t.pid = 0
		unix.Prctl(unix.PR_SET_PTRACER, 0, 0, 0, 0)
	}
}
