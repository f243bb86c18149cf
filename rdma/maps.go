package rdma

import (
	"bufio"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// mapping is one line of /proc/<pid>/maps.
type mapping struct {
	start, end                 uint64
	readable, writable, shared bool
	path                       string // or a word in brackets, or ""
}

// parseMapping reads "7f00-7f10 rw-p 00000000 00:00 0    /path with spaces".
func parseMapping(line string) (mapping, bool) {
	addresses, rest, _ := strings.Cut(line, " ")
	from, to, _ := strings.Cut(addresses, "-")
	start, err1 := strconv.ParseUint(from, 16, 64)
	end, err2 := strconv.ParseUint(to, 16, 64)
	permissions, rest, _ := strings.Cut(rest, " ")
	if err1 != nil || err2 != nil || len(permissions) != 4 {
		return mapping{}, false
	}
	for range 3 { // offset, device, inode
		_, rest, _ = strings.Cut(strings.TrimLeft(rest, " "), " ")
	}
	return mapping{
		start: start, end: end,
		readable: permissions[0] == 'r', writable: permissions[1] == 'w', shared: permissions[3] == 's',
		path: strings.TrimLeft(rest, " "),
	}, true
}

// faultIn finds why the device cannot have the memory, given the text of
// /proc/self/maps: "" when nothing is wrong with it.
func faultIn(maps io.Reader, at AddrRange, access Access) string {
	next, end := at.Addr, at.Addr+at.Length
	lines := bufio.NewScanner(maps)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() && next < end {
		m, ok := parseMapping(lines.Text())
		if !ok || m.end <= next {
			continue
		}
		if m.start > next {
			return unmapped(next, min(m.start, end))
		}
		if text := m.fault(access); text != "" {
			return fmt.Sprintf("from %#x it is %s", next, text)
		}
		next = m.end
	}
	if next < end && lines.Err() == nil {
		return unmapped(next, end)
	}
	return ""
}

func unmapped(from, to uint64) string {
	return fmt.Sprintf("[%#x, %#x) of it is not mapped: it was freed, or never allocated", from, to)
}

const gpuRemedy = "GPU memory is registered as a dma-buf, or needs the kernel module nvidia-peermem"

// fault says what keeps a device out of the mapping, or "".
func (m mapping) fault(access Access) string {
	switch {
	case m.deviceMemory():
		return fmt.Sprintf("memory of a device (%s): %s", m.path, gpuRemedy)
	case !m.readable && !m.writable:
		return "reserved and has no access, as a guard page or GPU memory: " + gpuRemedy
	case !m.writable && access.writes():
		return "mapped read-only" + m.named() + ": register it without write access, or map it writable"
	case m.shared && access.writes() && strings.HasPrefix(m.path, "/") && !m.inMemory():
		return "a shared mapping of a file" + m.named() +
			", which newer kernels let no device write to: use a file in /dev/shm or a memfd"
	}
	return ""
}

func (m mapping) named() string {
	if m.path == "" {
		return ""
	}
	return " (" + m.path + ")"
}

func (m mapping) deviceMemory() bool {
	return strings.HasPrefix(m.path, "/dev/") && !m.inMemory() || strings.HasPrefix(m.path, "/dmabuf:")
}

// inMemory tells whether the mapping is of a file that lives in memory.
func (m mapping) inMemory() bool {
	for _, prefix := range []string{"/dev/shm/", "/dev/zero", "/dev/hugepages", "/memfd:", "/SYSV", "/anon_hugepage"} {
		if strings.HasPrefix(m.path, prefix) {
			return true
		}
	}
	return false
}
