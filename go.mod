module mooncake

go 1.26.0

require (
	github.com/Mellanox/rdmamap v1.2.0
	github.com/pkg/errors v0.9.1
	github.com/stretchr/testify v1.12.1
	golang.org/x/sys v0.49.0
)

require (
	github.com/vishvananda/netlink v1.3.1 // indirect
	github.com/vishvananda/netns v0.0.5 // indirect
	go.yaml.in/yaml/v3 v3.0.5 // indirect
)
