package metadata

import (
	"context"
	"math/rand/v2"
	"net"
	"strconv"
	"syscall"

	"github.com/pkg/errors"
)

// portAttempts is how many ports of a range are tried, as upstream does.
const portAttempts = 500

// ListenInRange listens on a random free port from min to max, both included,
// on all addresses: IPv6 and IPv4, or IPv4 alone on a host without IPv6. The
// socket is bound when it returns, so nobody else gets the port.
// It is ErrArgument for a range that makes no sense and ErrNoPort if none of at
// most 500 ports is free.
func ListenInRange(min, max uint16) (net.Listener, error) {
	if min == 0 || min > max {
		return nil, failf(ErrArgument, "port range %d to %d: set MC_MIN_RPC_PORT and MC_MAX_RPC_PORT to ports of which the first is at least 1 and not above the second", min, max)
	}
	order := rand.Perm(int(max) - int(min) + 1)
	if len(order) > portAttempts {
		order = order[:portAttempts]
	}
	for _, offset := range order {
		listener, err := listen(min + uint16(offset))
		if err == nil {
			return listener, nil
		}
		if !isTaken(err) {
			return nil, err
		}
	}
	return nil, failf(ErrNoPort, "tried %d ports from %d to %d: give MC_MIN_RPC_PORT and MC_MAX_RPC_PORT a range with free ports", len(order), min, max)
}

// ListenPort listens on one port, as ListenInRange does. It is ErrNoPort if the
// port is taken.
func ListenPort(port uint16) (net.Listener, error) {
	if port == 0 {
		return nil, failf(ErrArgument, "port 0: give a port from 1 to 65535")
	}
	listener, err := listen(port)
	if err != nil && isTaken(err) {
		return nil, fail(ErrNoPort, err)
	}
	return listener, err
}

// PortOf is the port that a TCP listener is bound to, 0 for any other listener.
func PortOf(listener net.Listener) uint16 {
	if address, ok := listener.Addr().(*net.TCPAddr); ok {
		return uint16(address.Port)
	}
	return 0
}

func listen(port uint16) (net.Listener, error) {
	var config net.ListenConfig
	// Multipath TCP is Go's default for listeners; nothing here needs it, and
	// its sockets do not take all options of plain ones.
	config.SetMultipathTCP(false)
	// Without a host, Go binds [::] with IPv4 included, or 0.0.0.0 where there
	// is no IPv6.
	listener, err := config.Listen(context.Background(), "tcp", ":"+strconv.Itoa(int(port)))
	return listener, errors.Wrapf(err, "listen on port %d", port)
}

// isTaken tells errors that another port may not have.
func isTaken(err error) bool {
	return errors.Is(err, syscall.EADDRINUSE) || errors.Is(err, syscall.EACCES)
}
