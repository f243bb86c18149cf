package core

import (
	"log/slog"
	"math"
	"os"
	"strconv"
	"strings"
	"time"
)

// Config says how an engine works. ConfigFromEnv gives one with every field set.
type Config struct {
	Metadata string       // "P2PHANDSHAKE" or "" for it
	Protocol string       // "tcp", "rdma", or "" for the best there is
	Devices  string       // RDMA devices, comma separated
	RPCPort  uint16       // of the handshake listener; 0: at random
	Log      *slog.Logger // its level is MC_LOG_LEVEL

	ForceTCP          bool          // MC_FORCE_TCP
	Local             LocalMode     // MC_LOCAL
	TransferTimeout   time.Duration // MC_TRANSFER_TIMEOUT: the default deadline, without 1 ns a byte
	MinPort, MaxPort  uint16        // MC_MIN_RPC_PORT, MC_MAX_RPC_PORT
	LegacyPortBinding bool          // MC_LEGACY_RPC_PORT_BINDING: listen on the name's port
	HandshakePort     uint16        // MC_HANDSHAKE_PORT: the name's port then, if it has none
	ConnectTimeout    time.Duration // MC_HANDSHAKE_CONNECT_TIMEOUT
	MaxMessage        uint64        // MC_HANDSHAKE_MAX_LENGTH
	PreferIPv6        bool          // MC_USE_IPV6
	NoMetaCache       bool          // MC_DISABLE_METACACHE: ask the peer before every batch
	Lanes             int           // MC_TCP_LANES_PER_PEER
	SocketBuffer      int           // MC_TCP_SOCKET_BUFFER: bytes; 0: the kernel's choice
	ForceV1           bool          // MC_TCP_PROTO=1
	PlainFraming      bool          // MC_TCP_PROTO=2: upstream's framing, also between two of this kind
	StatusTimeout     time.Duration // MC_TCP_STATUS_TIMEOUT_SEC
	NoAdvice          bool          // MC_ADVICE=0: no warning about small blocks
	MetricInterval    time.Duration // MC_TE_METRIC, MC_TE_METRIC_INTERVAL_SECONDS; 0: off
	RDMA              RDMAConfig

	separate bool          // for tests: engines of this process are reached like other processes
	patience time.Duration // for tests: instead of stallLimit and flushLimit
}

// Getenv looks an environment variable up; ok tells whether it is set.
type Getenv func(name string) (value string, ok bool)

// ignored are variables of upstream's that name something this engine does in
// another way, or does not need. Setting one is worth a line in the log.
var ignored = []string{
	"MC_SLICE_SIZE", "MC_TCP_SLICE_SIZE", "MC_WORKERS_PER_CTX", "MC_FRAGMENT_RATIO", "MC_SLICE_TIMEOUT",
	"MC_TE_METADATA_REFRESH_INTERVAL_SECONDS", "MC_METADATA_CLUSTER_ID", "MC_TCP_BIND_ADDRESS",
	"MC_TCP_MAX_QUEUED_TRANSFERS_PER_PEER", "MC_TCP_MAX_PENDING_ADMISSIONS_PER_PEER",
	"MC_TCP_ADMISSION_TIMEOUT_MS", "MC_HANDSHAKE_LISTEN_BACKLOG", "MC_LOG_DIR", "MC_USE_TENT", "MC_USE_TEV1",
	"MC_FORCE_MNNVL", "MC_INTRANODE_NVLINK", "MC_CUSTOM_TOPO_JSON",
	"MC_NUM_CQ_PER_CTX", "MC_NUM_COMP_CHANNELS_PER_CTX", "MC_ENDPOINT_STORE_TYPE", "MC_RETRY_CNT",
	"MC_RDMA_RAIL_PAUSE_SECONDS", "MC_CONN_PAUSE_TTL_MS", "MC_PATH_ROUNDROBIN", "MC_ENABLE_DEST_DEVICE_AFFINITY",
	"MC_ENABLE_HCA_PEER_AFFINITY", "MC_NIC_PEER_AFFINITY", "MC_LOG_RDMA_SLICE_AFFINITY", "MC_TRACK_RDMA_POSTED_SLICES",
	"MC_ENABLE_PARALLEL_REG_MR", "MC_MAX_CONCURRENT_REG_MR", "MC_MIN_REG_SIZE", "MC_MLX5_QP_UDP_SPORTS",
	"MC_MLX5_QP_LAG_PORT_BALANCE", "WITH_NVIDIA_PEERMEM",
}

// ConfigFromEnv reads every MC_* variable that this engine knows; nothing else
// in the library reads the environment. A malformed value is answered with a
// line in the log and the default, as upstream does.
func ConfigFromEnv(getenv Getenv) Config {
	e := envReader{get: getenv}
	level := e.level("MC_LOG_LEVEL", slog.LevelWarn)
	e.log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level, ReplaceAttr: plainErrors})).With("lib", "mooncake")
	c := Config{
		Log:               e.log,
		ForceTCP:          e.present("MC_FORCE_TCP"),
		Local:             e.localMode(),
		TransferTimeout:   time.Duration(e.number("MC_TRANSFER_TIMEOUT", 30, 0, math.MaxInt32)) * time.Second,
		MinPort:           uint16(e.port("MC_MIN_RPC_PORT", "MC_MIN_PRC_PORT", 15000)),
		MaxPort:           uint16(e.port("MC_MAX_RPC_PORT", "MC_MAX_PRC_PORT", 17000)),
		LegacyPortBinding: e.present("MC_LEGACY_RPC_PORT_BINDING"),
		HandshakePort:     uint16(e.number("MC_HANDSHAKE_PORT", 12001, 1, 65535)),
		ConnectTimeout:    time.Duration(e.number("MC_HANDSHAKE_CONNECT_TIMEOUT", 5, 1, 3599)) * time.Second,
		MaxMessage:        e.number("MC_HANDSHAKE_MAX_LENGTH", 1<<20, 1<<20, 128<<20),
		PreferIPv6:        e.present("MC_USE_IPV6"),
		NoMetaCache:       e.present("MC_DISABLE_METACACHE"),
		Lanes:             int(e.lanes()),
		SocketBuffer:      int(e.number("MC_TCP_SOCKET_BUFFER", 0, 4096, 1<<30)),
		StatusTimeout:     time.Duration(e.number("MC_TCP_STATUS_TIMEOUT_SEC", 30, 1, 86400)) * time.Second,
		RDMA:              e.rdma(),
	}
	// A transfer may not be cut off before a slow link has had a chance.
	c.TransferTimeout = max(c.TransferTimeout, 5*time.Second)
	switch v, _ := getenv("MC_TCP_PROTO"); v {
	case "1":
		c.ForceV1 = true
	case "2":
		c.PlainFraming = true
	}
	if _, set := getenv("MC_ADVICE"); set {
		c.NoAdvice = !e.boolean("MC_ADVICE")
	}
	if e.boolean("MC_TE_METRIC") {
		c.MetricInterval = time.Duration(e.number("MC_TE_METRIC_INTERVAL_SECONDS", 5, 1, 86400)) * time.Second
	}
	if c.MinPort > c.MaxPort {
		e.log.Warn("MC_MIN_RPC_PORT is above MC_MAX_RPC_PORT, using the default range", "min", c.MinPort, "max", c.MaxPort)
		c.MinPort, c.MaxPort = 15000, 17000
	}
	for _, name := range ignored {
		if v, ok := getenv(name); ok {
			e.log.Info("variable has no effect on this engine", "name", name, "value", v)
		}
	}
	return c
}

// plainErrors writes errors as their text: the handler would print their stack, too.
func plainErrors(_ []string, a slog.Attr) slog.Attr {
	if err, ok := a.Value.Any().(error); ok {
		a.Value = slog.StringValue(err.Error())
	}
	return a
}

// envReader reads variables and reports malformed ones.
type envReader struct {
	get Getenv
	log *slog.Logger
}

func (e *envReader) present(name string) bool {
	_, ok := e.get(name)
	return ok
}

// boolean is off for unset, empty, 0, false, no and off.
func (e *envReader) boolean(name string) bool {
	v, ok := e.get(name)
	switch strings.ToLower(strings.TrimSpace(v)) {
	case "", "0", "false", "no", "off":
		return false
	}
	return ok
}

// number reads a decimal number within [lo, hi].
func (e *envReader) number(name string, def, lo, hi uint64) uint64 {
	v, ok := e.get(name)
	if !ok || v == "" {
		return def
	}
	n, err := strconv.ParseUint(strings.TrimSpace(v), 10, 64)
	if err != nil || n < lo || n > hi {
		e.log.Warn("variable is not a number in its range, using the default", "name", name, "value", v, "min", lo, "max", hi, "default", def)
		return def
	}
	return n
}

// port reads a port that the kernel does not give out by itself, under its name
// or under the misspelt one that upstream accepts too.
func (e *envReader) port(name, alias string, def uint64) uint64 {
	if _, ok := e.get(name); !ok && e.present(alias) {
		name = alias
	}
	n := e.number(name, def, 1024, 65535)
	if n >= 32768 && n <= 60999 {
		e.log.Warn("port lies in the kernel's own range 32768-60999, using the default", "name", name, "value", n, "default", def)
		return def
	}
	return n
}

// LocalMode says how bytes move to and from peers on this host.
type LocalMode int

const (
	LocalBest   LocalMode = iota // whatever is fastest
	LocalOff                     // as to peers on other hosts
	LocalPacked                  // through shared memory, without access to each other's
	LocalCMA                     // by process_vm_readv and process_vm_writev, where allowed
)

func (e *envReader) localMode() LocalMode {
	v, _ := e.get("MC_LOCAL")
	switch strings.ToLower(strings.TrimSpace(v)) {
	case "", "1", "on":
		return LocalBest
	case "0", "off":
		return LocalOff
	case "packed":
		return LocalPacked
	case "cma":
		return LocalCMA
	}
	e.log.Warn("variable is none of on, off, packed and cma, using the default", "name", "MC_LOCAL", "value", v, "default", "on")
	return LocalBest
}

// lanes reads MC_TCP_LANES_PER_PEER or its older name.
func (e *envReader) lanes() uint64 {
	if e.present("MC_TCP_LANES_PER_PEER") {
		return e.number("MC_TCP_LANES_PER_PEER", 4, 1, 16)
	}
	return e.number("MC_TCP_MAX_CONNECTIONS_PER_PEER", 4, 1, 16)
}

func (e *envReader) level(name string, def slog.Level) slog.Level {
	v, _ := e.get(name)
	switch strings.ToUpper(strings.TrimSpace(v)) {
	case "TRACE", "DEBUG":
		return slog.LevelDebug
	case "INFO":
		return slog.LevelInfo
	case "WARNING", "WARN":
		return slog.LevelWarn
	case "ERROR":
		return slog.LevelError
	}
	return def
}
