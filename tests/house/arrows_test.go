package house

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const (
	module = "mooncake"
	root   = "../.."
	// testNIC runs tests on the software NIC; it is for tests of every package.
	testNIC = module + "/tests/softnic/nic"
)

// graph maps each package, named by its directory, to what its files import. Tests
// and files that build tags leave out count too: an arrow is an arrow.
type graph map[string][]string

// readGraph reads every Go file of the checkout.
func readGraph(t *testing.T) graph {
	t.Helper()
	g := graph{}
	err := filepath.WalkDir(root, func(file string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			name := entry.Name()
			if file != root && (strings.HasPrefix(name, ".") || name == "build" || name == "testdata") {
				return fs.SkipDir
			}
			return nil
		}
		if filepath.Ext(file) != ".go" {
			return nil
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		dir, err := filepath.Rel(root, filepath.Dir(file))
		if err != nil {
			return err
		}
		for _, spec := range parsed.Imports {
			name, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			if strings.HasSuffix(file, "_test.go") && name == testNIC {
				continue
			}
			g[filepath.ToSlash(dir)] = append(g[filepath.ToSlash(dir)], name)
		}
		return nil
	})
	require.NoError(t, err)
	return g
}

// mayImport tells whether package from may import package to, both ours. Arrows go
// capi -> core -> leaves, and a leaf imports nothing of ours, but for the handshake of
// rdma, whose messages are those of metadata.
func mayImport(from, to string) bool {
	leaf := func(dir string) bool {
		return dir == "rdma" || dir == "pagealloc" || path.Dir(dir) == "core"
	}
	switch {
	case from == to: // a test in package x_test
		return true
	case from == "capi":
		return to == "core"
	case from == "core":
		return leaf(to)
	case from == "core/endpoint":
		return to == "core/metadata"
	case strings.HasPrefix(from, "tests/"):
		return to != "capi"
	}
	return false
}

func mayUseC(dir string) bool { return dir == "capi" || dir == "rdma" }

// wrongArrows lists the arrows of g that must not be there, as "from -> to".
func wrongArrows(g graph) []string {
	var wrong []string
	for from, imports := range g {
		for _, name := range imports {
			to, ours := strings.CutPrefix(name, module+"/")
			if ours && !mayImport(from, to) || name == "C" && !mayUseC(from) {
				wrong = append(wrong, from+" -> "+strings.TrimPrefix(name, module+"/"))
			}
		}
	}
	slices.Sort(wrong)
	return slices.Compact(wrong)
}

func TestArrowsPointOneWay(t *testing.T) {
	g := readGraph(t)
	for _, dir := range []string{"capi", "core", "core/metadata", "core/tcp", "rdma", "pagealloc"} {
		require.NotEmpty(t, g[dir], "the walk found no Go file in %s", dir)
	}
	require.Contains(t, g["capi"], module+"/core")
	require.Contains(t, g["capi"], "C")
	require.Empty(t, wrongArrows(g))
}

func TestWrongArrowsAreSeen(t *testing.T) {
	good := graph{
		"capi":          {"C", "mooncake/core", "unsafe"},
		"core":          {"mooncake/core/tcp", "mooncake/rdma", "mooncake/pagealloc"},
		"rdma":          {"C", "net/netip"},
		"core/tcp":      {"net", "mooncake/core/tcp"},
		"core/endpoint": {"mooncake/core/metadata"},
		"tests/bench":   {"mooncake/core"},
	}
	require.Empty(t, wrongArrows(good))

	for from, to := range map[string]string{
		"rdma":          "mooncake/core",
		"core":          "mooncake/capi",
		"capi":          "mooncake/rdma",
		"pagealloc":     "mooncake/rdma",
		"core/tcp":      "mooncake/core/metadata",
		"core/metadata": "mooncake/core/endpoint",
		"core/endpoint": "mooncake/rdma",
		"core/local":    "C",
		"tests/house":   "mooncake/capi",
		"elsewhere":     "mooncake/core",
	} {
		want := []string{from + " -> " + strings.TrimPrefix(to, "mooncake/")}
		require.Equal(t, want, wrongArrows(graph{from: {"fmt", to}}))
	}
}

// Verbs are for rdma alone, and for tests that stand in for a device. cgo files and C
// sources count.
func TestOnlyRDMAIncludesVerbs(t *testing.T) {
	seen := 0
	err := filepath.WalkDir(root, func(file string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := entry.Name()
		if entry.IsDir() && file != root && (strings.HasPrefix(name, ".") || name == "build" || name == "tests") {
			return fs.SkipDir
		}
		if !slices.Contains([]string{".go", ".c", ".h"}, filepath.Ext(file)) {
			return nil
		}
		text, err := os.ReadFile(file)
		if err != nil || !strings.Contains(string(text), "#include <infiniband/") {
			return err
		}
		seen++
		require.Equal(t, "rdma", filepath.Base(filepath.Dir(file)), "%s includes a header of libibverbs", file)
		return nil
	})
	require.NoError(t, err)
	require.Positive(t, seen)
}

func TestModulePath(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, "go.mod"))
	require.NoError(t, err)
	require.Contains(t, string(text), "module "+module+"\n")
}
