//go:build !cgo

package core

import "github.com/pkg/errors"

// newRDMATransport fails: verbs are reached through C, and this build has none.
func newRDMATransport(*Engine) (transport, error) {
	return nil, errNoCgo
}

var errNoCgo = errors.WithMessage(ErrUnsupported, "rdma: this library was built without cgo")
