package core

import "time"

// When the blocks of an engine's batches are called small: after so many batches and
// contiguous runs, when a run has less than this on average. What moves is the runs:
// small blocks that merge to long ones cost nothing.
const (
	adviceBatches  = 1000
	adviceRuns     = 1_000_000
	adviceRunBytes = 1024
)

// smallBlocks writes one line to the log, once for an engine, when its runs are so
// short that their number and not their bytes decides how long transfers take.
func (e *Engine) smallBlocks() {
	c := &e.counts
	runs := c.runs.Load()
	if runs < adviceRuns || c.batches.Load() < adviceBatches || e.cfg.NoAdvice || c.advised.Load() {
		return
	}
	bytes := c.moved[Read].Load() + c.moved[Write].Load()
	if bytes >= runs*adviceRunBytes || c.advised.Swap(true) {
		return
	}
	took := time.Duration(c.batchTime.Load())
	// Where a page is one token, as many times as long blocks are as many times as few.
	atSize := func(tokens uint64) time.Duration { return (took / time.Duration(tokens)).Round(time.Millisecond) }
	e.log.Warn("blocks are small: their number decides how long transfers take, not their bytes. Longer pages, or an allocator that keeps pages in runs (mooncake.PagePool), would help; `mooncake advise` says by how much (MC_ADVICE=0 silences this)",
		"blocks", c.blocks.Load(), "runs", runs, "run_bytes", bytes/runs, "batches", c.batches.Load(), "took", took.Round(time.Millisecond),
		"per_run", (took / time.Duration(runs)).Round(time.Nanosecond),
		"at_page_size_16_at_best", atSize(16), "at_page_size_64_at_best", atSize(64))
}
