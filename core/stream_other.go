//go:build !amd64

package core

const canStream = false

func streamBlocks(dst, src, n uintptr) { panic("no streaming stores on this processor") }
