package core

import "golang.org/x/sys/cpu"

//go:noescape
func streamBlocks(dst, src, n uintptr)

var canStream = cpu.X86.HasAVX
