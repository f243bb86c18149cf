package core

import (
	"sync/atomic"
	"time"
)

// Stats are an engine's counters; see mc_engine_stats_t in capi/mooncake.h.
type Stats struct {
	Batches, BatchesFailed, Blocks, Runs      uint64
	BytesWritten, BytesRead                   uint64
	ServedWritten, ServedRead, ServedRejected uint64
	ConnectionsOpened, Retries                uint64
	Memories, BatchesOpen, Connections        uint64 // now
	BatchesSelf, BytesSelf                    uint64 // within this process
	BatchesLocal, BytesLocal, BytesPacked     uint64 // other processes of this host
	LocalRefused                              uint64
	PeersLocal                                uint64 // now
	Messages                                  uint64
	BatchesRDMA, BytesRDMA                    uint64
	BatchTime                                 time.Duration // of all batches that have ended
}

// counts are the counters that the engine itself keeps.
type counts struct {
	batches, failed, blocks, runs atomic.Uint64
	messages                      atomic.Uint64
	batchTime                     atomic.Int64     // nanoseconds
	advised                       atomic.Bool      // see smallBlocks
	moved                         [2]atomic.Uint64 // bytes confirmed, by Op
	opened, resent                atomic.Uint64
	open                          atomic.Int64 // batches not closed

	batchesSelf, bytesSelf                atomic.Uint64
	batchesLocal, bytesLocal, bytesPacked atomic.Uint64
	localRefused                          atomic.Uint64
	batchesRDMA, bytesRDMA                atomic.Uint64
	peersLocal                            atomic.Int64
}

// Stats reads the engine's counters.
func (e *Engine) Stats() Stats {
	c := &e.counts
	s := Stats{
		Batches: c.batches.Load(), BatchesFailed: c.failed.Load(), Blocks: c.blocks.Load(), Runs: c.runs.Load(),
		BytesWritten: c.moved[Write].Load(), BytesRead: c.moved[Read].Load(),
		ConnectionsOpened: c.opened.Load(), Retries: c.resent.Load(),
		Memories: uint64(len(e.memory.state.Load().list)), BatchesOpen: uint64(c.open.Load()),
	}
	s.BatchesSelf, s.BytesSelf = c.batchesSelf.Load(), c.bytesSelf.Load()
	s.BatchesLocal, s.BytesLocal, s.BytesPacked = c.batchesLocal.Load(), c.bytesLocal.Load(), c.bytesPacked.Load()
	s.LocalRefused, s.PeersLocal = c.localRefused.Load(), uint64(c.peersLocal.Load())
	s.BatchesRDMA, s.BytesRDMA = c.batchesRDMA.Load(), c.bytesRDMA.Load()
	s.Messages, s.BatchTime = c.messages.Load(), time.Duration(c.batchTime.Load())
	for _, t := range e.transports {
		t.counters(&s)
	}
	return s
}

// logMetrics writes a line of throughput to the log at intervals, until the
// engine closes.
func (e *Engine) logMetrics(every time.Duration) {
	defer e.background.Done()
	tick := time.NewTicker(every)
	defer tick.Stop()
	last := e.Stats()
	for {
		select {
		case <-e.ctx.Done():
			return
		case <-tick.C:
		}
		now := e.Stats()
		perSecond := func(a, b uint64) float64 { return float64(a-b) / every.Seconds() / 1e6 }
		// Asked for by MC_TE_METRIC, so it is shown at every log level but ERROR.
		e.log.Warn("throughput",
			"write_MBps", perSecond(now.BytesWritten, last.BytesWritten), "read_MBps", perSecond(now.BytesRead, last.BytesRead),
			"served_write_MBps", perSecond(now.ServedWritten, last.ServedWritten), "served_read_MBps", perSecond(now.ServedRead, last.ServedRead),
			"blocks_per_s", float64(now.Blocks-last.Blocks)/every.Seconds(), "batches", now.Batches, "failed", now.BatchesFailed)
		last = now
	}
}
