//go:build !cgo

package core

const rdmaInBuild = false

func rdmaObjects() []string { return nil }
