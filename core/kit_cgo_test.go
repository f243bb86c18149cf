//go:build cgo

package core

import "mooncake/rdma"

const rdmaInBuild = true

// rdmaObjects names the verbs objects that are open.
func rdmaObjects() []string { return rdma.OpenObjects() }
