//go:build !cgo

package core

// rdmaPorts knows none: verbs are reached through C.
func rdmaPorts(Config) portList { return portList{Why: errNoCgo.Error()} }
