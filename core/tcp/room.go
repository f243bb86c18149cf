package tcp

import (
	"time"

	"golang.org/x/sys/unix"
)

// mostConns is the default of ServerConfig.MaxConns where files are plenty.
const mostConns = 4096

// defaultMaxConns leaves at least half of the process's files to its owner: a
// connection has up to two, see polled.
func defaultMaxConns() int {
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) != nil {
		return mostConns
	}
	return int(max(16, min(mostConns, limit.Cur/4)))
}

// warnEvery bounds the lines in the log that say there are too many connections.
const warnEvery = time.Second

// room makes room for one more connection: when there are too many, the oldest that
// has never made a request is closed, so that clients which connect and say
// nothing lock nobody out. Those that have are kept, also when idle: peers do not
// all survive the loss of one. false: there are none but those. s.mu is held.
func (s *Server) room(from *conn) bool {
	if len(s.conns) < s.cfg.MaxConns {
		return true
	}
	var silent *conn
	staying := 0 // those that were evicted are on their way out
	for c := range s.conns {
		if !c.evicted {
			staying++
		}
		if !c.spoke.Load() && !c.evicted && (silent == nil || c.since.Before(silent.since)) {
			silent = c
		}
	}
	if staying < s.cfg.MaxConns && len(s.conns) < s.cfg.MaxConns+mostConns {
		return true
	}
	if now := time.Now(); now.Sub(s.warned) >= warnEvery {
		s.warned = now
		s.cfg.Log.Warn("too many data connections", "limit", s.cfg.MaxConns, "from", from.remote, "evicted_a_silent_one", silent != nil)
	}
	if silent == nil {
		return false
	}
	silent.evicted = true
	silent.sock.interrupt()
	return true
}
