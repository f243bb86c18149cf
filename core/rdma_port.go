//go:build cgo

package core

import (
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"

	"mooncake/core/endpoint"
	"mooncake/rdma"
)

// rdmaPort is the device port that an engine uses, with what all connections share: the
// protection domain, the completion queue and the thread that polls it.
type rdmaPort struct {
	cfg     RDMAConfig
	log     *slog.Logger // nil while the port is being opened
	name    string       // of the device
	device  *rdma.Context
	limits  rdma.Attributes
	pd      *rdma.PD
	cq      *rdma.CQ
	port    *rdma.Port
	scratch rdma.ReadBack // what is read back goes there
	page    []byte        // which holds it
	pageMR  *rdma.MR
	matrix  []byte // the priority matrix, which knows this device only
	nodes   []string

	address     atomic.Pointer[rdmaAddress]
	readdressed func(now *rdmaAddress, reasons []string) // hears that a peer made the port change it; may be nil
	choosing    sync.Mutex                               // orders changes of address, and guards what follows
	shunned     map[rdma.GID]bool                        // GIDs that did not reach a peer that another one reached

	down atomic.Pointer[string] // why nothing can be sent; nil: the port is up

	inline atomic.Int32 // bytes that a work request can carry itself, as far as is known

	mu       sync.Mutex // guards what follows
	regions  map[*Memory][]*rdma.MR
	promised int       // work requests that lanes may have in flight, of the completion queue's entries
	enrolled int       // memories: those on their way in or out, too
	empty    sync.Cond // enrolled is 0
	closed   bool
}

// rdmaAddress is where peers find the port.
type rdmaAddress struct {
	gid rdma.GID
	lid uint16
	mtu int
}

// openRDMAPort opens the first usable port of the devices that cfg allows.
func openRDMAPort(cfg *Config) (*rdmaPort, error) {
	exist, err := rdmaDevices()
	if err != nil {
		return nil, err
	}
	wanted := allowedDevices(cfg, exist)
	if err := checkDevices(wanted, exist); err != nil {
		return nil, err
	}
	var first error
	var reasons []string
	for _, name := range wanted {
		p, err := openRDMADevice(name, cfg.RDMA)
		if err == nil {
			return p, nil
		}
		if first == nil {
			first = err
		}
		reasons = append(reasons, err.Error())
	}
	if len(reasons) == 1 {
		return nil, first
	}
	return nil, errors.WithMessagef(ErrDevice, "no RDMA device can be used: %s", strings.Join(reasons, "; "))
}

// rdmaDevices names the devices of this host; there is at least one.
func rdmaDevices() ([]string, error) {
	if err := rdma.Load(); err != nil {
		return nil, rdmaCause(err)
	}
	exist, err := rdma.DeviceNames()
	if err != nil {
		return nil, rdmaCause(err)
	}
	if len(exist) == 0 {
		return nil, errors.WithMessage(ErrDevice, "this host has no RDMA device (ibv_devices lists none): load its driver, or use protocol tcp")
	}
	return exist, nil
}

// allowedDevices are those that the caller names, else the environment; else all.
func allowedDevices(cfg *Config, exist []string) []string {
	for _, list := range []string{cfg.Devices, cfg.RDMA.Filter} {
		if wanted := rdma.ParseDevices(list); len(wanted) > 0 {
			return wanted
		}
	}
	return exist
}

// checkDevices refuses names of devices that do not exist, by name.
func checkDevices(wanted, exist []string) error {
	var unknown []string
	for _, name := range wanted {
		if !slices.Contains(exist, name) {
			unknown = append(unknown, strconv.Quote(name))
		}
	}
	if len(unknown) == 0 {
		return nil
	}
	return errors.WithMessagef(ErrInvalid, "devices: unknown RDMA device %s; this host has %s",
		strings.Join(unknown, ", "), strings.Join(exist, ", "))
}

func openRDMADevice(name string, cfg RDMAConfig) (p *rdmaPort, err error) {
	p = &rdmaPort{cfg: cfg, name: name, regions: map[*Memory][]*rdma.MR{}}
	p.empty.L = &p.mu
	p.inline.Store(int32(cfg.Inline))
	defer func() {
		if err != nil {
			p.close()
			err = rdmaCause(err)
		}
	}()
	if p.device, err = rdma.OpenDevice(name); err != nil {
		return p, err
	}
	p.limits = p.device.Attributes()
	if p.cfg.OwnQueuePairs == 0 {
		p.cfg.OwnQueuePairs = queuePairsFor(name)
	}
	if err = p.look(); err != nil {
		return p, err
	}
	if p.pd, err = p.device.NewPD(); err != nil {
		return p, err
	}
	if p.cq, err = p.device.NewCQ(p.completions()); err != nil {
		return p, err
	}
	if p.port, err = rdma.NewPort(p.cq, rdma.PortConfig{Spin: pollerSpin()}); err != nil {
		return p, err
	}
	p.locate()
	return p, p.prepareReadBack()
}

// queuePairsFor is how many queue pairs a connection between two of ours has. A NIC serves them at
// once. Soft-RoCE serves them in turn, and is so slow with it that acknowledgements come too
// late and all is sent again.
func queuePairsFor(device string) int {
	if rdma.IsSoftware("/", device) {
		return 1
	}
	return 4
}

// prepareReadBack registers a byte for what is read back, if that was asked for.
func (p *rdmaPort) prepareReadBack() (err error) {
	if !p.cfg.ReadBack {
		return nil
	}
	p.page, err = unix.Mmap(-1, 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return errors.WithMessage(ErrDevice, "map a page: "+err.Error())
	}
	at := uint64(uintptr(unsafe.Pointer(&p.page[0])))
	if p.pageMR, err = p.pd.Register(at, uint64(len(p.page)), rdma.AccessLocalWrite); err != nil {
		return err
	}
	p.scratch = rdma.ReadBack{Local: at, LKey: p.pageMR.LKey()}
	return nil
}

// spareCores is how many cores a host must have for a thread of ours to spin.
const spareCores = 8

// pollerSpin is how long the thread that polls looks before it sleeps: on a small host it
// would take the core from those who have something to do.
func pollerSpin() time.Duration {
	if runtime.GOMAXPROCS(0) >= spareCores {
		return 20 * time.Microsecond
	}
	return 0
}

// completions is the size of the completion queue: every work request in flight may end
// in one, so it bounds how many connections can have their full depth.
func (p *rdmaPort) completions() int {
	const wanted = 1 << 16
	if p.cfg.Completions > 0 {
		return min(p.cfg.Completions, p.limits.MaxCQE)
	}
	return min(wanted, p.limits.MaxCQE)
}

// look reads the state of the port and chooses its address.
func (p *rdmaPort) look() error {
	p.choosing.Lock()
	defer p.choosing.Unlock()
	attr, err := p.device.Port(p.cfg.PortNumber)
	if err != nil {
		return err
	}
	if err := attr.Ready(); err != nil {
		return err
	}
	gids, err := p.device.GIDs(p.cfg.PortNumber)
	if err != nil {
		return err
	}
	if p.cfg.GIDIndex < 0 {
		gids = p.unshunned(gids)
	}
	choice, err := rdma.ChooseGID(gids, p.cfg.GIDIndex)
	if err != nil {
		remedy := ""
		if p.cfg.GIDIndex >= 0 {
			remedy = "; set MC_GID_INDEX (or NCCL_IB_GID_INDEX) to an index that it has, or unset it"
		}
		return errors.WithMessagef(ErrDevice, "%s port %d: %v%s", p.name, p.cfg.PortNumber, err, remedy)
	}
	p.address.Store(&rdmaAddress{gid: choice.GID, lid: attr.LID, mtu: min(p.cfg.MTU, attr.ActiveMTU)})
	p.down.Store(nil)
	return nil
}

// locate writes the priority matrix: to peers, each of this host's locations is near the
// one device, or has it as the only choice.
func (p *rdmaPort) locate() {
	node := -1
	if text, err := os.ReadFile("/sys/class/infiniband/" + p.name + "/device/numa_node"); err == nil {
		if n, err := strconv.Atoi(strings.TrimSpace(string(text))); err == nil {
			node = n
		}
	}
	device := strconv.Quote(p.name)
	var rows []string
	for _, n := range rdma.NUMANodes("/") {
		location := fmt.Sprintf("cpu:%d", n)
		p.nodes = append(p.nodes, location)
		row := fmt.Sprintf("%q:[[%s],[]]", location, device)
		if node >= 0 && n != node {
			row = fmt.Sprintf("%q:[[],[%s]]", location, device)
		}
		rows = append(rows, row)
	}
	p.matrix = []byte("{" + strings.Join(rows, ",") + "}")
}

// endpoint is the address in the handshake's terms.
func (a *rdmaAddress) endpoint() endpoint.Address {
	return endpoint.Address{GID: a.gid.Address.As16(), LID: a.lid, MTU: a.mtu}
}

// gidText is the GID as the handshake has it.
func (a *rdmaAddress) gidText() string { return a.endpoint().GID.String() }

// close gives everything back; what was not opened is passed over.
func (p *rdmaPort) close() {
	if p.port != nil {
		p.released("poller", p.port.Close())
	}
	if p.cq != nil {
		p.released("completion queue", p.cq.Close())
	}
	if p.pageMR != nil {
		p.released("memory", p.pageMR.Close())
	}
	if p.page != nil {
		unix.Munmap(p.page)
		p.page = nil
	}
	if p.pd != nil {
		p.released("protection domain", p.pd.Close())
	}
	if p.device != nil {
		p.released("device", p.device.Close())
	}
}

// released reports what could not be given back: whoever still holds it is in error.
func (p *rdmaPort) released(object string, err error) {
	if err != nil && p.log != nil {
		p.log.Error("bug in mooncake: rdma cannot be closed", "device", p.name, "object", object, "err", err)
	}
}

// rdmaCause puts an error of package rdma in this package's terms.
func rdmaCause(err error) error {
	kinds := []struct{ from, to error }{
		{rdma.ErrUnknownDevice, ErrInvalid}, {rdma.ErrFull, ErrFull}, {rdma.ErrMemory, ErrInvalid},
		{rdma.ErrNoVerbs, ErrUnsupported},
	}
	for _, own := range []error{ErrInvalid, ErrDevice, ErrFull, ErrUnsupported} {
		if errors.Is(err, own) {
			return err
		}
	}
	for _, k := range kinds {
		if errors.Is(err, k.from) {
			return errors.WithMessage(k.to, err.Error())
		}
	}
	return errors.WithMessage(ErrDevice, err.Error())
}
