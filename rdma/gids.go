package rdma

// #include "shim.h"
import "C"

import (
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
)

// GIDs lists the GIDs of a port that are set, by index. Where verbs knows no types, and
// for the interfaces, it reads sysfs; what neither knows is left unknown.
func (c *Context) GIDs(port int) ([]GID, error) {
	if err := c.use(); err != nil {
		return nil, err
	}
	defer c.leave()
	attributes, err := c.port(port)
	if err != nil {
		return nil, err
	}
	dir := c.portDir(port)
	entries, ok := c.gidTable(port)
	if !ok {
		if entries, err = c.gidsOneByOne(attributes, dir); err != nil {
			return nil, err
		}
	}
	gids := entries[:0]
	for _, gid := range entries {
		// Unset entries are zeros, or a bare prefix fe80:: on InfiniBand.
		if gid.Address.IsUnspecified() || gid.Address == barePrefix {
			continue
		}
		// sysfs first: an interface's index means something in one network namespace only.
		if name := read(dir, "gid_attrs/ndevs/"+strconv.Itoa(gid.Index)); name != "" {
			gid.Interface = name
		}
		gids = append(gids, gid)
	}
	slices.SortFunc(gids, func(a, b GID) int { return a.Index - b.Index })
	return gids, nil
}

func (c *Context) portDir(port int) string {
	return filepath.Join(c.sysfs, "ports", strconv.Itoa(port))
}

// gidTable asks for all at once, which libraries and kernels of some age cannot.
func (c *Context) gidTable(port int) ([]GID, bool) {
	room := 0
	for n := 1; n <= c.attributes.Ports; n++ {
		attributes, err := c.port(n)
		if err != nil {
			return nil, false
		}
		room += attributes.GIDs
	}
	if room == 0 {
		return nil, false
	}
	table := make([]C.struct_mcv_gid, room)
	var count C.size_t
	if C.mcv_query_gid_table(c.ptr, &table[0], C.size_t(room), &count) != 0 {
		return nil, false
	}
	var gids []GID
	for _, entry := range table[:count] {
		if int(entry.port) != port {
			continue
		}
		gid := GID{Index: int(entry.index), Address: gidAddress(entry.raw)}
		switch entry._type {
		case C.IBV_GID_TYPE_IB:
			gid.Type = GIDIB
		case C.IBV_GID_TYPE_ROCE_V1:
			gid.Type = GIDRoCEv1
		case C.IBV_GID_TYPE_ROCE_V2:
			gid.Type = GIDRoCEv2
		}
		if entry._interface != 0 {
			if iface, err := net.InterfaceByIndex(int(entry._interface)); err == nil {
				gid.Interface = iface.Name
			}
		}
		gids = append(gids, gid)
	}
	return gids, true
}

// gidsOneByOne leaves out what cannot be read, for some drivers fail on unset entries.
func (c *Context) gidsOneByOne(port PortAttributes, dir string) ([]GID, error) {
	var gids []GID
	var failed syscall.Errno
	for index := range port.GIDs {
		var raw [16]C.uint8_t
		if errno := syscall.Errno(C.mcv_query_gid(c.ptr, C.int(port.Number), C.int(index), &raw[0])); errno != 0 {
			failed = errno
			continue
		}
		gids = append(gids, GID{
			Index:   index,
			Address: gidAddress(raw),
			Type:    parseGIDType(read(dir, "gid_attrs/types/"+strconv.Itoa(index)), port.LinkLayer),
		})
	}
	if len(gids) == 0 && failed != 0 {
		return nil, fail(fmt.Sprintf("query the GIDs of port %d of %s", port.Number, c.name), ErrDevice, failed, "")
	}
	return gids, nil
}

func gidAddress(raw [16]C.uint8_t) netip.Addr {
	var bytes [16]byte
	for i, b := range raw {
		bytes[i] = byte(b)
	}
	return netip.AddrFrom16(bytes)
}
