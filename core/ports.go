package core

import (
	"encoding/json"

	"github.com/pkg/errors"
)

// portList is the RDMA ports of this host.
type portList struct {
	Ports []portReport `json:"ports"`
	Why   string       `json:"why"` // there are none; "" if there are
}

// portReport is one port, or a device of which no port can be looked at.
type portReport struct {
	Device    string      `json:"device"`
	Port      int         `json:"port"`
	State     string      `json:"state"`
	MTU       int         `json:"mtu"`        // bytes; 0: unknown
	LinkLayer string      `json:"link_layer"` // "" if unknown
	RateGbps  float64     `json:"rate_gbps"`  // of the link; 0: unknown
	PCIe      *pcieReport `json:"pcie"`       // null: unknown
	LID       int         `json:"lid"`
	GIDs      []gidReport `json:"gids"`   // the best first
	Chosen    *int        `json:"chosen"` // index of the GID that peers are told
	Used      bool        `json:"used"`   // engines with these devices and variables use it
	Error     string      `json:"error"`  // why it cannot be used, and the remedy
}

// pcieReport is how a device is attached to the host.
type pcieReport struct {
	Width    int     `json:"width"` // lanes in use
	MaxWidth int     `json:"max_width"`
	Speed    float64 `json:"speed"` // of a lane, GT/s
	MaxSpeed float64 `json:"max_speed"`
	Gbps     float64 `json:"gbps"` // each way, at most
}

// gidReport is a GID that is set.
type gidReport struct {
	Index     int    `json:"index"`
	Address   string `json:"address"`
	Type      string `json:"type"`
	Interface string `json:"interface"`
	Reason    string `json:"reason"` // for its place among the others
}

// RDMAPorts describes, as JSON, the RDMA ports of this host as an engine with cfg sees
// them: state, addresses and the reasons for the choice among them, and what is wrong with
// a port that cannot be used. A host without RDMA has none, and the text says why. It opens
// each device for a moment, which takes milliseconds.
func RDMAPorts(cfg Config) (string, error) {
	list := rdmaPorts(cfg)
	if list.Ports == nil {
		list.Ports = []portReport{}
	}
	text, err := json.Marshal(list)
	if err != nil {
		return "", errors.Wrap(err, "RDMA ports")
	}
	return string(text), nil
}
