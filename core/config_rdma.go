package core

import "slices"

// RDMAConfig says how an engine uses its RDMA device. ConfigFromEnv gives one with
// every field set.
type RDMAConfig struct {
	Force           bool   // MC_FORCE_HCA: no other transport instead, over the network
	Filter          string // MC_TE_FILTERS: devices, comma separated, when Config.Devices is empty
	Server          string // MC_RDMA_BIND_ADDRESS: the host in device paths, if not that of the engine
	PortNumber      int    // MC_IB_PORT
	GIDIndex        int    // MC_GID_INDEX, NCCL_IB_GID_INDEX; -1: the best
	GIDRetries      int    // MC_AUTO_GID_MAX_RETRIES: other GIDs that are tried for a peer that the best does not reach
	PKeyIndex       int    // MC_PKEY_INDEX
	MTU             int    // MC_MTU: bytes, at most the port's
	TrafficClass    int    // MC_IB_TC
	ServiceLevel    int    // MC_IB_SL
	QueuePairs      int    // MC_NUM_QP_PER_EP: towards upstream, whose number must be the same
	OwnQueuePairs   int    // MC_RDMA_QUEUE_PAIRS: towards others of this kind; 0: as suits the device
	Depth           int    // MC_MAX_WR: work requests in flight on a queue pair
	MaxSGE          int    // MC_MAX_SGE: pieces of a work request, at most the device's
	Inline          int    // MC_MAX_INLINE: bytes
	Completions     int    // MC_MAX_CQE_PER_CTX: of the completion queue; 0: as the device can
	Endpoints       int    // MC_MAX_EP_PER_CTX: connections
	MaxRegion       uint64 // MC_MAX_MR_SIZE: bytes, at most the device's
	RelaxedOrdering bool   // MC_IB_PCI_RELAXED_ORDERING
	ReadBack        bool   // MC_RDMA_READ_BACK: a batch that writes ends with a read of what was written last
}

func (e *envReader) rdma() RDMAConfig {
	c := RDMAConfig{
		Force:         e.present("MC_FORCE_HCA"),
		PortNumber:    int(e.number("MC_IB_PORT", 1, 1, 255)),
		GIDIndex:      e.gidIndex(),
		GIDRetries:    int(e.number("MC_AUTO_GID_MAX_RETRIES", 8, 0, 16)),
		PKeyIndex:     int(e.number("MC_PKEY_INDEX", 0, 0, 65535)),
		MTU:           int(e.number("MC_MTU", 4096, 256, 4096)),
		TrafficClass:  int(e.number("MC_IB_TC", 0, 0, 255)),
		ServiceLevel:  int(e.number("MC_IB_SL", 0, 0, 15)),
		QueuePairs:    int(e.number("MC_NUM_QP_PER_EP", 2, 1, 255)),
		OwnQueuePairs: int(e.number("MC_RDMA_QUEUE_PAIRS", 0, 1, 32)),
		Depth:         int(e.number("MC_MAX_WR", 256, 4, 65535)),
		MaxSGE:        int(e.number("MC_MAX_SGE", 16, 1, 65535)),
		Inline:        int(e.number("MC_MAX_INLINE", 0, 0, 65535)),
		Completions:   int(e.number("MC_MAX_CQE_PER_CTX", 0, 64, 1<<22)),
		Endpoints:     int(e.number("MC_MAX_EP_PER_CTX", 65536, 1, 65536)),
		MaxRegion:     e.number("MC_MAX_MR_SIZE", 1<<40, 4096, 1<<62),
		ReadBack:      e.boolean("MC_RDMA_READ_BACK"),
	}
	if !slices.Contains([]int{256, 512, 1024, 2048, 4096}, c.MTU) {
		e.log.Warn("variable is none of 256, 512, 1024, 2048 and 4096, using the default", "name", "MC_MTU", "value", c.MTU, "default", 4096)
		c.MTU = 4096
	}
	c.Filter, _ = e.get("MC_TE_FILTERS")
	c.Server, _ = e.get("MC_RDMA_BIND_ADDRESS")
	// Upstream's default is on. What is done must be visible, so ours is off.
	c.RelaxedOrdering = e.boolean("MC_IB_PCI_RELAXED_ORDERING")
	return c
}

// gidIndex reads MC_GID_INDEX, or NCCL's variable of the same meaning.
func (e *envReader) gidIndex() int {
	for _, name := range []string{"MC_GID_INDEX", "NCCL_IB_GID_INDEX"} {
		v, ok := e.get(name)
		if !ok || v == "" || v == "-1" {
			continue
		}
		const unset = 1 << 20
		if n := e.number(name, unset, 0, 255); n != unset {
			return int(n)
		}
	}
	return -1
}
