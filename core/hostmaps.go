package core

import (
	"bufio"
	"os"
	"strconv"
	"strings"

	"github.com/pkg/errors"
)

// hostMaps is what the kernel says about this process's address space. Asking it
// does not touch the memory. Read once for a batch of registrations.
type hostMaps struct {
	read  bool
	areas []area // ascending
	cuda  bool   // a GPU driver's library is loaded
}

// area is one line of /proc/self/maps.
type area struct {
	start, end         uint64
	readable, writable bool
	gpu                bool // mapped by a GPU driver: not the host's to read
}

// check tells whether range i is ordinary memory of this process, and writable.
func (h *hostMaps) check(i int, r Range) (writable bool, err error) {
	if !h.read {
		if err := h.load("/proc/self/maps"); err != nil {
			return false, err
		}
	}
	writable = true
	addr, end := r.Addr, r.Addr+r.Length
	for _, a := range h.areas {
		if a.end <= addr {
			continue
		}
		if a.start > addr {
			break
		}
		if a.gpu {
			return false, errors.WithMessagef(ErrUnsupported,
				"range %d at %#x is GPU memory: this build moves host memory only; copy it to host memory first", i, r.Addr)
		}
		if !a.readable {
			return false, h.notHost(i, r, "mapped without read permission")
		}
		writable = writable && a.writable
		if addr = a.end; addr >= end {
			return writable, nil
		}
	}
	return false, h.notHost(i, r, "not mapped in this process")
}

// notHost is the error for a range that is not ordinary memory. Drivers reserve
// addresses for GPU memory without access, so where one is loaded that is the
// likely reason.
func (h *hostMaps) notHost(i int, r Range, why string) error {
	if h.cuda {
		return errors.WithMessagef(ErrUnsupported,
			"range %d at %#x of %d bytes is %s, as GPU memory is: this build moves host memory only; copy it to host memory first", i, r.Addr, r.Length, why)
	}
	return errors.WithMessagef(ErrAddress,
		"range %d at %#x of %d bytes is %s (freed, or reserved); register host memory that is mapped", i, r.Addr, r.Length, why)
}

// load reads a maps file.
func (h *hostMaps) load(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return errors.Wrap(ErrDevice, err.Error())
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		if a, ok := parseArea(lines.Text()); ok {
			h.areas = append(h.areas, a)
		}
		h.cuda = h.cuda || strings.Contains(lines.Text(), "libcuda.so")
	}
	if err := lines.Err(); err != nil {
		return errors.Wrap(ErrDevice, err.Error())
	}
	h.read = true
	return nil
}

// parseArea reads "start-end perms offset dev inode path".
func parseArea(line string) (a area, ok bool) {
	fields := strings.Fields(line)
	if len(fields) < 2 || len(fields[1]) < 2 {
		return a, false
	}
	from, to, _ := strings.Cut(fields[0], "-")
	start, err1 := strconv.ParseUint(from, 16, 64)
	end, err2 := strconv.ParseUint(to, 16, 64)
	if err1 != nil || err2 != nil {
		return a, false
	}
	a = area{start: start, end: end, readable: fields[1][0] == 'r', writable: fields[1][1] == 'w'}
	if len(fields) >= 6 {
		a.gpu = strings.HasPrefix(fields[5], "/dev/nvidia") || strings.HasPrefix(fields[5], "/dev/dri/") || strings.HasPrefix(fields[5], "/dev/kfd")
	}
	return a, true
}
