#include "textflag.h"

// func prefetchRead(addr, n uintptr)
TEXT ·prefetchRead(SB), NOSPLIT, $0-16
	MOVQ addr+0(FP), SI
	MOVQ n+8(FP), CX
	ADDQ SI, CX

loop:
	PREFETCHT0 (SI)
	ADDQ       $64, SI
	CMPQ       SI, CX
	JCS        loop
	RET

// func prefetchWrite(addr, n uintptr)
TEXT ·prefetchWrite(SB), NOSPLIT, $0-16
	MOVQ addr+0(FP), SI
	MOVQ n+8(FP), CX
	ADDQ SI, CX

loop:
	BYTE $0x0F; BYTE $0x0D; BYTE $0x0E // PREFETCHW (SI)
	ADDQ      $64, SI
	CMPQ      SI, CX
	JCS       loop
	RET
