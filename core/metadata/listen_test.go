package metadata

import (
	"math/rand/v2"
	"net"
	"testing"
)

func TestListenInRange(t *testing.T) {
	listener, err := ListenInRange(15000, 17000)
	must(t, err)
	defer listener.Close()
	port := PortOf(listener)
	if port < 15000 || port > 17000 {
		t.Errorf("port %d", port)
	}
	// The socket is kept bound: nobody else gets the port.
	_, err = ListenInRange(port, port)
	wantKind(t, err, ErrNoPort)
	wantText(t, err, "MC_MIN_RPC_PORT", "MC_MAX_RPC_PORT", "tried 1 ports")
	_, err = ListenPort(port)
	wantKind(t, err, ErrNoPort)
}

func TestListenInRangeFindsTheOneFreePort(t *testing.T) {
	for range 100 { // another process may have a port, or take it in between
		// Not one of those that the kernel gives to connections: with many of them
		// around, no two neighbours are free.
		port := uint16(20000 + 2*rand.IntN(5000))
		second, err := ListenPort(port + 1)
		if err != nil {
			continue
		}
		third, err := ListenInRange(port, port+1)
		second.Close()
		if err != nil {
			continue
		}
		got := PortOf(third)
		third.Close()
		if got != port {
			t.Fatalf("port %d, want %d: %d is taken", got, port, port+1)
		}
		return
	}
	t.Fatal("100 tries, and not once two neighbouring ports")
}

func TestListenRefuses(t *testing.T) {
	for _, r := range [][2]uint16{{0, 0}, {0, 10}, {17000, 15000}} {
		_, err := ListenInRange(r[0], r[1])
		wantKind(t, err, ErrArgument)
		wantText(t, err, "MC_MIN_RPC_PORT")
	}
	_, err := ListenPort(0)
	wantKind(t, err, ErrArgument)
}

func TestListenServesBothFamilies(t *testing.T) {
	listener, err := listen(0)
	must(t, err)
	defer listener.Close()
	hosts := []string{"127.0.0.1"}
	if probe, err := net.Listen("tcp6", "[::1]:0"); err == nil {
		probe.Close()
		hosts = append(hosts, "::1")
	} else {
		t.Logf("IPv6 left out: %v", err)
	}
	for _, host := range hosts {
		conn, err := net.Dial("tcp", JoinName(host, PortOf(listener)))
		must(t, err)
		conn.Close()
	}
}
