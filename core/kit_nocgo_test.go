//go:build !cgo

package core

const rdmaInBuild = false

func rdmaObjects() []string { return nil }

// beStormMember is for the helper processes of a test that needs cgo.
func beStormMember() bool { return false }
