package core

import (
	"testing"
)

// What an engine promises does not depend on the transport.
func TestTheSameOverEveryTransport(t *testing.T) {
	long(t)
	promises := []struct {
		name string
		test func(*testing.T)
	}{
		{"blocks", TestTransferMovesBlocksAndNothingElse},
		{"100,000 blocks", TestHundredThousandBlocksInOneCall},
		{"neighbours", TestNeighboursLeaveAsOneRun},
		{"nothing", TestEmptyAndZeroLengthBlocksAreDoneAtOnce},
		{"loopback", TestLoopback},
		{"adjacent ranges", TestBlocksSpanAdjacentRanges},
		{"threads", TestManyThreadsShareOneSegment},
		{"late registration", TestLateRegistrationIsVisible},
		{"late registration, threads", TestLateRegistrationIsVisibleToManyThreads},
		{"pieces", TestBlocksInPieces},
		{"empty open batch", TestAnEmptyOpenBatchIsDone},
		{"page groups", TestPageGroupsMeanTheirBlockList},
		{"long page lists", TestLongPageLists},
		{"bad piece", TestABadPieceFailsTheBatch},
		{"open batch ends", TestAnOpenBatchEnds},
		{"cancel while adding", TestCancelWhileBlocksAreAdded},
		{"cancel after the end", TestCancelAfterTheEndChangesNothing},
		{"cancel", TestCancelIsQuietAtBothEnds},
		{"peer dies", TestPeerThatDiesFailsTheBatchSoon},
		{"peer restarts", TestRestartedPeerIsNotMistakenForTheOldOne},
		{"fence", TestFence},
		{"random ends", TestRandomEndsTellTheTruth},
	}
	for _, way := range ways[1:] {
		for _, p := range promises {
			t.Run(way+"/"+p.name, func(t *testing.T) {
				over(t, way)
				p.test(t)
			})
		}
	}
}
