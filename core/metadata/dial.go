package metadata

import (
	"context"
	"io"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/pkg/errors"
)

// dial connects to host, which may have several addresses.
func (c *Client) dial(ctx context.Context, host string, port uint16) (net.Conn, error) {
	addresses, err := c.resolve(ctx, host)
	if err != nil {
		return nil, err
	}
	return c.connect(ctx, addresses, port)
}

// connect connects to the first of the addresses that accepts. Only if none does
// is it an error, which tells the reason of each.
func (c *Client) connect(ctx context.Context, addresses []netip.Addr, port uint16) (net.Conn, error) {
	dialer := net.Dialer{Timeout: c.connectTimeout()}
	var failures error
	for _, address := range addresses {
		target := netip.AddrPortFrom(address, port).String()
		conn, err := dialer.DialContext(ctx, "tcp", target)
		if err == nil {
			return conn, nil
		}
		if end := ended(ctx); end != nil {
			return nil, fail(ErrConnect, errors.WithMessage(end, "connect to "+target))
		}
		// net's errors name the address and the reason.
		if failures == nil {
			failures = errors.Wrap(err, "connect")
		} else {
			failures = &alsoError{first: failures, next: err}
		}
	}
	return nil, fail(ErrConnect, failures)
}

// ended is why ctx has ended, nil while it goes on. The network can run into a
// deadline of ctx a moment before ctx itself says so.
func ended(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if deadline, ok := ctx.Deadline(); ok && !time.Now().Before(deadline) {
		return context.DeadlineExceeded
	}
	return nil
}

// resolve gives the addresses of host, each once.
func (c *Client) resolve(ctx context.Context, host string) ([]netip.Addr, error) {
	if literal, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{literal}, nil
	}
	found, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		if end := ended(ctx); end != nil {
			err = end
		}
		return nil, fail(ErrResolve, errors.Wrap(err, excerptString(host)))
	}
	addresses := orderAddresses(found, c.PreferIPv6)
	if len(addresses) == 0 {
		return nil, failf(ErrResolve, "%s has no address", excerptString(host))
	}
	return addresses, nil
}

// orderAddresses puts one family first, keeps the order otherwise, and drops
// duplicates.
func orderAddresses(found []netip.Addr, preferIPv6 bool) []netip.Addr {
	var first, second []netip.Addr
	for _, address := range found {
		address = address.Unmap()
		if slices.Contains(first, address) || slices.Contains(second, address) {
			continue
		}
		if address.Is6() == preferIPv6 {
			first = append(first, address)
		} else {
			second = append(second, address)
		}
	}
	return append(first, second...)
}

// alsoError is one failure after others.
type alsoError struct{ first, next error }

func (e *alsoError) Error() string   { return e.first.Error() + "; " + e.next.Error() }
func (e *alsoError) Unwrap() []error { return []error{e.first, e.next} }

func isEOF(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}
