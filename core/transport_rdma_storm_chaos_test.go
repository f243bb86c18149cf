//go:build cgo

package core

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"mooncake/tests/softnic/nic"
)

// stormCalm are the settings of a NIC on which nothing is wrong.
var stormCalm = []string{"fail_at=0", "late=0", "rate=0", "bandwidth=0", "latency=0", "freeze=0", "silent=0", "unreachable=0",
	"retry=0", "port=up", "gidnet=0", "fatal=0"}

// run lets trouble and calms take turns.
func (s *storm) run(length time.Duration) {
	for end := time.Now().Add(length); time.Now().Before(end) && s.failed.Load() == 0; {
		s.trouble(min(time.Until(end), time.Second+time.Duration(s.r.IntN(3000))*time.Millisecond))
		s.restore()
		s.quietTimes()
	}
}

// trouble does things to hosts and to NICs, side by side, for a while.
func (s *storm) trouble(length time.Duration) {
	end := time.Now().Add(length)
	for device := range s.base {
		// What is on its way when a queue pair breaks lands late, and slow NICs have a lot of it.
		s.base[device] = []string{"rate=" + pick(s.r, "0", "30k", "200k"), "late=" + pick(s.r, "0", "2", "30"), "latency=" + pick(s.r, "0", "0", "500")}
		s.set(device, s.base[device]...)
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	for i, act := range []func(*rand.Rand) string{s.hostTrouble, s.nicTrouble} {
		r := rand.New(rand.NewPCG(s.seed, s.r.Uint64()+uint64(i)))
		wg.Go(func() {
			for time.Now().Before(end) && s.failed.Load() == 0 {
				began := time.Now()
				s.note(act(r), began)
				s.await(r.IntN(12))
			}
		})
	}
}

// note counts what was done, and the time it took.
func (s *storm) note(what string, began time.Time) {
	s.noting.Lock()
	defer s.noting.Unlock()
	c := s.caused[what]
	if c == nil {
		c = &stormCause{}
		s.caused[what] = c
	}
	took := time.Since(began)
	c.count, c.total, c.longest = c.count+1, c.total+took, max(c.longest, took)
}

// await waits until some more batches have ended, but not for long: they may all stand still.
func (s *storm) await(batches int) {
	from := s.ended.Load()
	for end := time.Now().Add(300 * time.Millisecond); s.ended.Load() < from+int64(batches) && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
}

// linger is like await, and at times so long that patience with what stands still ends.
func (s *storm) linger(r *rand.Rand, batches int) {
	if r.IntN(8) > 0 {
		s.await(batches)
		return
	}
	for end := time.Now().Add(2 * stormStall); time.Now().Before(end) && s.failed.Load() == 0; {
		s.await(1000)
	}
}

func (s *storm) set(device int, entries ...string) {
	if err := nic.Change(stormDevices[device], entries...); err != nil {
		s.t.Error(err)
	}
}

func pick(r *rand.Rand, of ...string) string { return of[r.IntN(len(of))] }

func (s *storm) hostTrouble(r *rand.Rand) string {
	p := s.hosts[r.IntN(stormHosts)]
	switch n := r.IntN(100); {
	case n < 35:
		p.ask("churn")
		return "churn"
	case n < 55:
		p.ask("break")
		return "break"
	case n < 70:
		p.ask("fence " + fmt.Sprintf("127.0.0.1:%d", s.stormShared.hosts[r.IntN(stormHosts)].port.Load()))
		return "fence"
	case n < 78:
		p.ask("sweep")
		return "sweep"
	case n < 86 && p.n >= stormInside:
		s.during(p.n, stormStop, func() {
			p.signal(unix.SIGSTOP)
			s.linger(r, r.IntN(30))
			p.signal(unix.SIGCONT)
		})
		return "stop"
	case n < 93 && p.n >= stormInside:
		s.during(p.n, stormReset, func() {
			p.kill()
			s.await(r.IntN(10))
			p.start()
			p.ask("work")
		})
		return "kill"
	case n < 96 && p.n == stormHosts-1: // which alone has its device
		s.during(p.n, stormReset, func() {
			s.set(1, "fatal=1")
			s.await(r.IntN(20))
			s.set(1, "fatal=0")
			p.ask("reopen")
		})
		return "device lost"
	default:
		s.during(p.n, stormReset, func() { p.ask("reopen") })
		return "reopen"
	}
}

func (s *storm) nicTrouble(r *rand.Rand) string {
	device := r.IntN(len(s.base))
	what, batches := "", r.IntN(15)
	switch n := r.IntN(100); {
	case n < 45:
		what = "fail"
		status := 1 + r.IntN(21)
		if status == 5 || r.IntN(3) == 0 {
			status = statusRetryExceeded
		}
		entries := append(nic.Fail(1+r.IntN(300), status), "late="+pick(r, "0", "5", "80"))
		if r.IntN(8) == 0 {
			entries = append(entries, fmt.Sprintf("fail_for=%d", 1+r.IntN(1000)))
		}
		s.set(device, entries...)
	case n < 65:
		what = "slow"
		s.set(device, pick(r, "rate=20k", "rate=200k", "bandwidth=1", "latency=3000"))
	case n < 73:
		what = "freeze"
		s.set(device, "freeze=1")
	case n < 80:
		what = "lost"
		s.set(device, pick(r, "unreachable=1", "silent=1"), pick(r, "retry=20", "retry=200"))
	case n < 87:
		what = "port"
		s.set(device, "port=down")
	case n < 95:
		what = "gid"
		s.set(device, pick(r, "gidnet=1", "gidnet=2"))
	default:
		what = "event"
		nic.Event(s.t, stormDevices[device], pick(r, "gid_change", "lid_change", "port_active"))
	}
	s.linger(r, batches)
	s.set(device, stormCalm...)
	s.set(device, s.base[device]...)
	return what
}

// restore ends all trouble.
func (s *storm) restore() {
	for device := range s.base {
		s.set(device, stormCalm...)
	}
	for _, p := range s.hosts {
		p.ask("sweep") // who is not sure to be quiet may go on
	}
}

// quietTimes are times in which nothing happens: all must be well again soon, and then no
// batch fails.
func (s *storm) quietTimes() {
	began := time.Now()
	var moved [len(stormRoutes)]int64
	for i := range moved {
		moved[i] = s.workers[i].moved.Load()
	}
	end := time.Now().Add(stormPatience)
	for i := range moved {
		for s.workers[i].moved.Load() == moved[i] && s.failed.Load() == 0 {
			if time.Now().After(end) {
				s.accuse("worker %d, host %d to %d, gets nothing done though all is well again", i, stormRoutes[i].from, stormRoutes[i].to)
				s.explain(i)
			}
			time.Sleep(time.Millisecond)
		}
	}
	s.calm.Add(1)
	s.await(5 + s.r.IntN(60))
	s.calm.Add(1)
	s.note("calm", began)
}

func (s *storm) explain(worker int) {
	p := s.hosts[stormRoutes[worker].from]
	if p.inside != nil {
		s.t.Log(stormStateOf(p.inside.engine.Load().Engine))
		return
	}
	p.ask("explain")
}
