package core

import (
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The manual has the variables that are read, and no others.
func TestVariablesAreInTheManual(t *testing.T) {
	text, err := os.ReadFile("../docs/variables.md")
	require.NoError(t, err)
	read := map[string]bool{}
	ConfigFromEnv(func(name string) (string, bool) {
		read[name] = true
		return "1", name == "MC_TE_METRIC" // of which the interval depends
	})
	for _, name := range ignored {
		delete(read, name)
	}
	told := map[string]bool{}
	for line := range strings.Lines(string(text)) {
		if cells := strings.Split(line, "|"); len(cells) > 3 {
			for _, cell := range []string{cells[1], cells[len(cells)-2]} {
				for _, name := range regexp.MustCompile("`((?:MC|NCCL)_[A-Z0-9_]+)").FindAllStringSubmatch(cell, -1) {
					told[name[1]] = true
				}
			}
		}
	}
	assert.Equal(t, slices.Sorted(maps.Keys(told)), slices.Sorted(maps.Keys(read)))
}

// Every variable by which upstream's data path is set is either read or named as one
// without effect: nobody who sets it is left to wonder.
func TestUpstreamsVariablesAreKnown(t *testing.T) {
	read := map[string]bool{}
	ConfigFromEnv(func(name string) (string, bool) { read[name] = true; return "", false })
	for _, name := range []string{
		"MC_NUM_CQ_PER_CTX", "MC_NUM_COMP_CHANNELS_PER_CTX", "MC_IB_PORT", "MC_GID_INDEX", "NCCL_IB_GID_INDEX",
		"MC_PKEY_INDEX", "MC_MAX_CQE_PER_CTX", "MC_MAX_EP_PER_CTX", "MC_NUM_QP_PER_EP", "MC_MAX_SGE", "MC_MAX_WR",
		"MC_MAX_INLINE", "MC_MTU", "MC_IB_TC", "MC_IB_SL", "MC_IB_PCI_RELAXED_ORDERING", "MC_MLX5_QP_UDP_SPORTS",
		"MC_MLX5_QP_LAG_PORT_BALANCE", "MC_WORKERS_PER_CTX", "MC_SLICE_SIZE", "MC_FRAGMENT_RATIO", "MC_RETRY_CNT",
		"MC_SLICE_TIMEOUT", "MC_CONN_PAUSE_TTL_MS", "MC_RDMA_RAIL_PAUSE_SECONDS", "MC_MAX_MR_SIZE",
		"MC_ENABLE_PARALLEL_REG_MR", "MC_MAX_CONCURRENT_REG_MR", "MC_MIN_REG_SIZE", "MC_ENDPOINT_STORE_TYPE",
		"MC_PATH_ROUNDROBIN", "MC_ENABLE_DEST_DEVICE_AFFINITY", "MC_ENABLE_HCA_PEER_AFFINITY", "MC_NIC_PEER_AFFINITY",
		"MC_LOG_RDMA_SLICE_AFFINITY", "MC_TRACK_RDMA_POSTED_SLICES", "MC_RDMA_BIND_ADDRESS", "WITH_NVIDIA_PEERMEM",
		"MC_TE_FILTERS", "MC_CUSTOM_TOPO_JSON", "MC_FORCE_HCA",
	} {
		assert.True(t, read[name], name)
	}
}
