package rdma

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/pkg/errors"
)

// GIDChoice is the GID of a port to use, and why.
type GIDChoice struct {
	GID     GID
	Reasons []string // one line for each candidate, the chosen one first
}

// ChooseGID chooses among the GIDs of a port as peers expect it: RoCE v2 and InfiniBand
// before others, then addresses that are reachable from far, then those that belong to
// a network interface, then the lowest index. fixed is an index that was configured, or
// -1. It fails with ErrNoGID when there is none, or none of that index.
func ChooseGID(gids []GID, fixed int) (GIDChoice, error) {
	if fixed >= 0 {
		return fixedGID(gids, fixed)
	}
	if len(gids) == 0 {
		return GIDChoice{}, errors.WithMessage(ErrNoGID,
			"the port has no GID at all: with RoCE, give its network interface an address")
	}
	ranked := RankGIDs(gids)
	choice := GIDChoice{GID: ranked[0].GID}
	for i, gid := range ranked {
		reason := fmt.Sprintf("%s: %s", gid.GID, gid.Reason)
		if i == 0 {
			reason += ": chosen"
		}
		choice.Reasons = append(choice.Reasons, reason)
	}
	return choice, nil
}

// RankedGID is a GID and why it stands where it does among others.
type RankedGID struct {
	GID
	Reason string
}

// RankGIDs sorts the GIDs of a port by how well they will do, the best first.
func RankGIDs(gids []GID) []RankedGID {
	ranked := make([]RankedGID, len(gids))
	for i, gid := range gids {
		ranked[i] = RankedGID{gid, rankGID(gid).String()}
	}
	slices.SortFunc(ranked, func(a, b RankedGID) int {
		return cmp.Or(cmp.Compare(rankGID(a.GID), rankGID(b.GID)), cmp.Compare(a.Index, b.Index))
	})
	return ranked
}

func fixedGID(gids []GID, index int) (GIDChoice, error) {
	var set []string
	for _, gid := range gids {
		if gid.Index == index {
			return GIDChoice{gid, []string{gid.String() + ": chosen by its index"}}, nil
		}
		set = append(set, gid.String())
	}
	have := "the port has none"
	if len(set) > 0 {
		have = "the port has " + strings.Join(set, "; ")
	}
	return GIDChoice{}, errors.WithMessagef(ErrNoGID, "GID index %d: %s", index, have)
}

func (g GID) String() string {
	text := fmt.Sprintf("GID %d %s", g.Index, g.Address.Unmap())
	if g.Type != GIDUnknown {
		text += " " + string(g.Type)
	}
	if g.Interface != "" {
		text += " on " + g.Interface
	}
	return text
}

// gidRank orders GIDs, the best first.
type gidRank int

const (
	rankInterface gidRank = iota + 1
	rankBare
	rankInterfacePrivate
	rankInterfaceDegraded
	rankBarePrivate
	rankBareDegraded
	rankOther
)

func (r gidRank) String() string {
	return [...]string{
		rankInterface:         "routable, with an interface",
		rankBare:              "routable, without an interface",
		rankInterfacePrivate:  "private IPv4 address, with an interface",
		rankInterfaceDegraded: "overlay network or link-local address, with an interface",
		rankBarePrivate:       "private IPv4 address, without an interface",
		rankBareDegraded:      "link-local address, without an interface",
		rankOther:             "neither RoCE v2 nor InfiniBand: only if there is nothing else",
	}[r]
}

func rankGID(g GID) gidRank {
	if g.Type != GIDRoCEv2 && g.Type != GIDIB {
		return rankOther
	}
	degraded := overlay(g.Interface) || g.Address.Is6() && !g.Address.Is4In6() && g.Address.IsLinkLocalUnicast()
	switch named := g.Interface != ""; {
	case degraded && named:
		return rankInterfaceDegraded
	case degraded:
		return rankBareDegraded
	case privateIPv4(g.Address) && named:
		return rankInterfacePrivate
	case privateIPv4(g.Address):
		return rankBarePrivate
	case named:
		return rankInterface
	}
	return rankBare
}

// overlay tells whether an interface belongs to a container network, by its name.
func overlay(name string) bool {
	for _, prefix := range []string{"flannel", "cni", "calico", "vxlan", "docker"} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return name == "tunl0"
}

// The peers' list, which has not 192.168/16: that is what many RoCE fabrics use.
var privateNets = []netip.Prefix{
	netip.MustParsePrefix("10.0.0.0/8"),
	netip.MustParsePrefix("172.16.0.0/12"),
	netip.MustParsePrefix("100.64.0.0/10"),
}

func privateIPv4(address netip.Addr) bool {
	return slices.ContainsFunc(privateNets, func(net netip.Prefix) bool { return net.Contains(address.Unmap()) })
}
