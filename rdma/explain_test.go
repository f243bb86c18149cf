package rdma

import (
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

const someMaps = `1000-3000 rw-p 00000000 00:00 0                          [heap]
3000-4000 rw-p 00000000 00:00 0
5000-6000 r--p 00001000 fd:01 1234                       /usr/lib/with space.so
6000-7000 ---p 00000000 00:00 0
7000-8000 rw-s 00000000 00:06 99                         /dev/nvidia-uvm
8000-9000 rw-s 00000000 fd:01 77                         /var/pool
9000-a000 rw-s 00000000 00:01 78                         /memfd:pool (deleted)
a000-b000 rw-s 00000000 00:01 79                         /dev/shm/pool
b000-c000 r--s 00000000 fd:01 77                         /var/pool
`

func TestParseMapping(t *testing.T) {
	m, ok := parseMapping("7f00-7f10 rw-s 00000000 00:06 99     /dev/shm/a b")
	require.True(t, ok)
	require.Equal(t, mapping{0x7f00, 0x7f10, true, true, true, "/dev/shm/a b"}, m)
	m, ok = parseMapping("7f00-7f10 ---p 00000000 00:00 0 ")
	require.True(t, ok)
	require.Equal(t, mapping{start: 0x7f00, end: 0x7f10}, m)
	for _, line := range []string{"", "7f00", "7f00-", "7f00-7f10", "x-7f10 rw-p", "7f00-7f10 rw"} {
		_, ok := parseMapping(line)
		require.False(t, ok, line)
	}
}

func TestFaultInMemory(t *testing.T) {
	const write, readOnly = AccessLocalWrite | AccessRemoteRead, AccessRemoteRead
	tests := map[string]struct {
		at     AddrRange
		access Access
		want   string
	}{
		"sound":                     {AddrRange{0x1000, 0x3000}, write, ""},
		"within":                    {AddrRange{0x2fff, 2}, write, ""},
		"hole behind":               {AddrRange{0x3000, 0x1800}, write, "[0x4000, 0x4800) of it is not mapped"},
		"hole before":               {AddrRange{0x4fff, 0x2}, readOnly, "[0x4fff, 0x5000) of it is not mapped"},
		"below all":                 {AddrRange{0x10, 0x10}, write, "[0x10, 0x20) of it is not mapped"},
		"past all":                  {AddrRange{0xf000, 0x10}, write, "[0xf000, 0xf010) of it is not mapped"},
		"read-only, to be written":  {AddrRange{0x5000, 0x10}, write, "mapped read-only (/usr/lib/with space.so)"},
		"read-only, to be read":     {AddrRange{0x5000, 0x10}, readOnly, ""},
		"reserved":                  {AddrRange{0x5000, 0x1010}, readOnly, "from 0x6000 it is reserved and has no access"},
		"GPU":                       {AddrRange{0x7000, 0x10}, write, "memory of a device (/dev/nvidia-uvm): GPU memory is registered as a dma-buf"},
		"file":                      {AddrRange{0x8000, 0x10}, write, "a shared mapping of a file (/var/pool)"},
		"file, to be read":          {AddrRange{0xb000, 0x10}, readOnly, ""},
		"files that live in memory": {AddrRange{0x9000, 0x2000}, write, ""},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got := faultIn(strings.NewReader(someMaps), test.at, test.access)
			if test.want == "" {
				require.Empty(t, got)
			} else {
				require.Contains(t, got, test.want)
			}
		})
	}
}

func TestExplainRegistration(t *testing.T) {
	limits := Attributes{MaxMR: 7, MaxMRSize: 1 << 40}
	sound := AddrRange{0x1000, 0x2000}
	tight := lockedMemory{limit: 0x2000, pinned: 0x1000}
	free := lockedMemory{unlimited: true}
	tests := map[string]struct {
		refusal
		kind error
		want string
	}{
		"too long":        {refusal{at: AddrRange{0x1000, 1 << 41}, errno: syscall.EINVAL}, ErrMemory, "at most 1099511627776 bytes"},
		"unmapped":        {refusal{at: AddrRange{0x4000, 1}, errno: syscall.EFAULT, locked: free}, ErrMemory, "not mapped"},
		"unmapped first":  {refusal{at: AddrRange{0x4000, 1}, errno: syscall.ENOMEM}, ErrMemory, "not mapped"},
		"locked":          {refusal{at: sound, errno: syscall.ENOMEM, locked: tight}, ErrMemlock, "it needs 8 KiB, and of the limit of locked memory (ulimit -l) of 8 KiB 4 are taken"},
		"privileged":      {refusal{at: sound, errno: syscall.ENOMEM, locked: free}, ErrFull, "holds 7 MRs"},
		"enough left":     {refusal{at: sound, errno: syscall.ENOMEM, locked: lockedMemory{limit: 0x3000, pinned: 0x1000}}, ErrFull, "holds 7 MRs"},
		"strange":         {refusal{at: sound, errno: syscall.EINVAL, locked: free}, ErrMemory, "the memory looks sound"},
		"lost device":     {refusal{at: sound, errno: syscall.EIO, locked: free}, ErrDevice, "the device is lost"},
		"device gone":     {refusal{at: sound, errno: syscall.ENODEV, virtual: true, locked: free}, ErrDevice, "the device is lost"},
		"no dma-buf":      {refusal{at: sound, errno: syscall.EOPNOTSUPP, virtual: true}, ErrMemory, "too old for dma-bufs"},
		"other file":      {refusal{at: sound, errno: syscall.EBADF, virtual: true}, ErrMemory, "not that of a dma-buf"},
		"short dma-buf":   {refusal{at: AddrRange{0x4000, 1}, errno: syscall.EINVAL, virtual: true}, ErrMemory, "may be shorter"},
		"locked dma-buf":  {refusal{at: sound, errno: syscall.ENOMEM, virtual: true, locked: tight}, ErrMemlock, "ulimit -l"},
		"no maps to read": {refusal{at: sound, errno: syscall.EFAULT, locked: free}, ErrMemory, "the memory looks sound"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			test.limits = limits
			if name != "no maps to read" {
				test.maps = someMaps
			}
			kind, text := test.explain()
			require.Equal(t, test.kind, kind)
			require.Contains(t, text, test.want)
		})
	}
}

func TestParseStatus(t *testing.T) {
	require.Equal(t, lockedMemory{pinned: 12 << 10, unlimited: true},
		parseStatus("VmLck:\t       4 kB\nVmPin:\t      12 kB\nCapEff:\t0000000000004000\n"))
	require.Equal(t, lockedMemory{}, parseStatus("VmPin: x\nCapEff: 0000003fffffbfff\n"))
}

// What the kernel says about this process is understood.
func TestLookAtThisProcess(t *testing.T) {
	r := refusal{at: AddrRange{16, 1}, errno: syscall.EFAULT}.look()
	kind, text := r.explain()
	require.Equal(t, ErrMemory, kind)
	require.Contains(t, text, "not mapped")
	require.True(t, r.locked.unlimited || r.locked.limit > 0)
}
