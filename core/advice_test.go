package core

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// moved sets an engine's counters as if it had moved so much.
func moved(e *Engine, batches, runs, runBytes uint64) {
	e.counts.batches.Store(batches)
	e.counts.blocks.Store(2 * runs)
	e.counts.runs.Store(runs)
	e.counts.moved[Write].Store(runs * runBytes)
	e.counts.batchTime.Store(int64(16 * time.Second))
}

func TestSmallBlocksAreWarnedOfOnce(t *testing.T) {
	tests := map[string]struct {
		batches, runs, runBytes uint64
		vars                    map[string]string
		lines                   int
	}{
		"small":            {1000, 1_000_000, 1023, nil, 1},
		"long enough":      {1000, 1_000_000, 1024, nil, 0},
		"too few batches":  {999, 1_000_000, 256, nil, 0},
		"too few runs":     {1000, 999_999, 256, nil, 0},
		"silenced":         {1000, 1_000_000, 256, map[string]string{"MC_ADVICE": "0"}, 0},
		"silenced by word": {1000, 1_000_000, 256, map[string]string{"MC_ADVICE": "off"}, 0},
		"asked for":        {1000, 1_000_000, 256, map[string]string{"MC_ADVICE": "1"}, 1},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			cfg := testConfig(test.vars)
			cfg.Log = slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelWarn}))
			e := openEngine(t, "127.0.0.1", cfg)
			moved(e, test.batches, test.runs, test.runBytes)
			e.smallBlocks()
			e.smallBlocks()
			require.Equal(t, test.lines, strings.Count(out.String(), "\n"), out.String())
			if test.lines > 0 {
				for _, part := range []string{"blocks=2000000", "runs=1000000", "took=16s", "per_run=16µs",
					"at_page_size_16_at_best=1s", "at_page_size_64_at_best=250ms"} {
					assert.Contains(t, out.String(), part)
				}
			}
		})
	}
}

func TestTheWarningComesWithTheBatch(t *testing.T) {
	var out bytes.Buffer
	p := newPair(t, 1<<16, nil)
	p.a.log = slog.New(slog.NewTextHandler(&out, nil))
	moved(p.a, adviceBatches-1, adviceRuns-1, 256)
	b, err := p.seg.Submit(Write, Blocks{Local: []uint64{p.memA.addr()}, Remote: []uint64{p.memB.addr()}, Length: []uint64{64}}, Options{})
	require.NoError(t, err)
	require.NoError(t, b.Wait(deadline))
	b.Close()
	require.Contains(t, out.String(), "blocks are small")
}

func TestMessagesAndTimeAreCounted(t *testing.T) {
	for _, way := range ways {
		t.Run(way, func(t *testing.T) {
			over(t, way)
			p := newPair(t, 1<<20, nil)
			var blocks Blocks
			for at := uint64(0); at < 1<<20; at += 2048 {
				blocks.Local = append(blocks.Local, p.memA.addr()+at)
				blocks.Remote = append(blocks.Remote, p.memB.addr()+at)
				blocks.Length = append(blocks.Length, 1024)
			}
			b, err := p.seg.Submit(Write, blocks, Options{})
			require.NoError(t, err)
			require.NoError(t, b.Wait(deadline))
			b.Close()
			s := p.a.Stats()
			assert.Positive(t, s.BatchTime)
			if way == "self" {
				assert.Zero(t, s.Messages, "nothing is sent within the process")
				return
			}
			assert.Positive(t, s.Messages)
			if way != "rdma" { // a work request has one stretch of the peer's memory
				assert.Less(t, s.Messages, uint64(len(blocks.Length)), "a message carries many blocks")
			}
			assert.Zero(t, p.b.Stats().Messages)
		})
	}
}
