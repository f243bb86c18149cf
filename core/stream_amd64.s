#include "textflag.h"

// func streamBlocks(dst, src, n uintptr)
//
// Copies n bytes, a multiple of 128 and not 0, to dst, which is aligned to 32, past
// the caches. An access that faults is the caller's to recover from: nothing is held.
TEXT ·streamBlocks(SB), NOSPLIT, $0-24
	MOVQ dst+0(FP), DI
	MOVQ src+8(FP), SI
	MOVQ n+16(FP), CX

loop:
	PREFETCHNTA 512(SI)
	VMOVDQU     (SI), Y0
	VMOVDQU     32(SI), Y1
	VMOVDQU     64(SI), Y2
	VMOVDQU     96(SI), Y3
	VMOVNTDQ    Y0, (DI)
	VMOVNTDQ    Y1, 32(DI)
	VMOVNTDQ    Y2, 64(DI)
	VMOVNTDQ    Y3, 96(DI)
	ADDQ        $128, SI
	ADDQ        $128, DI
	SUBQ        $128, CX
	JNZ         loop

	// Streaming stores are not ordered with others: what comes after the copy must
	// not be seen before it.
	SFENCE
	VZEROUPPER
	RET
