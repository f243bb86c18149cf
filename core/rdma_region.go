package core

// regionKey is what RDMA devices know a part of a registered range by, the one that ends
// there. A range that exceeds what a device registers at once has several parts.
type regionKey struct {
	end        uint64
	lkey, rkey uint32
}

// key returns the part of the memory that holds addr, which the memory does, and where
// that part begins.
func (m *Memory) key(addr uint64) (key *regionKey, start uint64) {
	start = m.start
	for i := range m.keys {
		if addr < m.keys[i].end {
			return &m.keys[i], start
		}
		start = m.keys[i].end
	}
	return nil, 0
}

// remoteKeys are a peer's ranges with the keys of one of its devices.
type remoteKeys struct {
	of    *knowledge
	spans spans
	rkeys []uint32
}

// newRemoteKeys reads the keys of a peer's device off its descriptor; nil if the
// descriptor does not have the device.
func newRemoteKeys(k *knowledge, device string) *remoteKeys {
	at := -1
	for i := range k.descriptor.Devices {
		if k.descriptor.Devices[i].Name == device {
			at = i
		}
	}
	if at < 0 {
		return nil
	}
	// Ranges without a key are not for RDMA, and where ranges overlap the peer is to
	// blame: any of its keys will do, since the peer checks them.
	var with []span
	keyOf := map[span]uint32{}
	for _, b := range k.descriptor.Buffers {
		if at < len(b.RKey) {
			s := span{b.Addr, b.Addr + b.Length}
			with = append(with, s)
			keyOf[s] = b.RKey[at]
		}
	}
	keys := &remoteKeys{of: k, spans: newSpans(with)}
	keys.rkeys = make([]uint32, len(keys.spans))
	for i, s := range keys.spans {
		if key, whole := keyOf[s]; whole {
			keys.rkeys[i] = key
			continue
		}
		for _, w := range with { // trimmed, because it overlaps another one
			if w.start <= s.start && s.end <= w.end {
				keys.rkeys[i] = keyOf[w]
			}
		}
	}
	return keys
}
