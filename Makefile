# Targets are verbs; `make` alone lists them. Everything that is built goes to
# build/, but for the library, which is part of the Python package.

PYTHON    ?= python3
GO        ?= go
FUZZTIME  ?= 5s
# In make test, the fuzzing and the packages of make nocgo: there those whose code is not the same
# with cgo, or whose tests leave something out with the race detector. The others' tests compile
# (tests/house), and make race runs them.
TEST_FUZZTIME ?= 3s
TEST_PURE     ?= ./core ./core/metadata ./rdma
# Of make demo; see `build/venv/bin/mooncake replay --help`.
DEMO_ARGS ?=
# Of the short demo in make test.
TEST_DEMO_ARGS ?= --load-scale 32 --scale 8
BENCH_ARGS     ?=
PYTEST_ARGS    ?=
# Processes of make pytest and make interop at the same time; 1: one after the other, in order.
PYTEST_JOBS    ?= 3
# Releases of upstream's wheel that the interop tests run against: TCP framing
# version 2; version 1 with one request a connection; version 1 that keeps them.
UPSTREAM_V2      = 0.3.13.post1
UPSTREAM_V1      = 0.3.9
UPSTREAM_V1_KEEP = 0.3.11

export PYTHON GO PYTEST_JOBS
# A Go that is older than go.mod asks for fetches the right one.
export GOTOOLCHAIN ?= auto

LIB     = python/mooncake/libmooncake.so
PURE    = ./core/... ./pagealloc/... ./rdma/...
TOOLS   = tests/tools
VENV    = build/venv
# cgo refuses --version-script in its own flags. The path must be absolute: the
# linker runs in a folder of its own.
# invalidptr=0: the runtime otherwise aborts the process when it meets a small
# number in a caller's pointer argument, before we can refuse it.
LDFLAGS = -X=runtime.godebugDefault=invalidptr=0 -extldflags '"-Wl,--version-script=$(CURDIR)/capi/mooncake.map"'
PYFILES = $(shell find python -name '*.py' -o -name py.typed) $(wildcard pyproject.toml README.md)

.DEFAULT_GOAL := help
.PHONY: help setup lib check vet fmt race nocgo nocgo-short fuzz abi pytest upstream interop sglang test-rdma demo test bench bench-rdma clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /  \1\t/p' $(MAKEFILE_LIST) | expand -t 14

setup: ## check for compilers and Python; as root install what is missing
	@$(TOOLS)/setup.sh build

# The library is replaced only by another one, so that what depends on it is not
# done again, and never written in place: a process may have it mapped.
lib: ## build python/mooncake/libmooncake.so
	@mkdir -p build/so
	flock build/so/lock $(GO) build -buildvcs=false -trimpath -buildmode=c-shared -ldflags "$(LDFLAGS)" -o build/so/libmooncake.so ./capi
	@cmp -s build/so/libmooncake.so $(LIB) || { cp build/so/libmooncake.so $(LIB).new && mv $(LIB).new $(LIB); }

check: vet ## go vet, and that every Go file is formatted
	@unformatted=$$(gofmt -l capi core rdma pagealloc tests); \
	if [ -n "$$unformatted" ]; then echo "not formatted (make fmt):" $$unformatted; exit 1; fi

vet: ## go vet
	$(GO) vet ./...

fmt: ## format every Go file
	gofmt -l -w capi core rdma pagealloc tests

race: ## every Go test, with the race detector
	$(GO) test -race ./...

nocgo: ## the pure packages' tests without cgo
	CGO_ENABLED=0 $(GO) test $(NOCGO_ARGS) $(PURE)

# In make test: -short leaves out what make race has shown of the same code.
nocgo-short:
	@$(MAKE) --no-print-directory nocgo PURE="$(TEST_PURE)" NOCGO_ARGS=-short

fuzz: ## every fuzz target for FUZZTIME (5s)
	@$(TOOLS)/fuzz.sh $(FUZZTIME)

abi: lib ## header, exports, C and C++ programs
	@tests/abi/run.sh $(LIB) build/so/libmooncake.h build/abi

# The package as a user gets it: installed, not in place. setuptools keeps build/lib
# and would put what it finds there into the wheel.
$(VENV)/installed: $(LIB) $(PYFILES)
	@$(PYTHON) -m venv $(VENV)
	@rm -rf build/lib build/bdist.*
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --force-reinstall --no-deps .
	@rm -rf build/lib build/bdist.*
	@touch $@

$(LIB): lib ;

$(VENV)/tests-installed: $(VENV)/installed tests/requirements.txt
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r tests/requirements.txt
	@touch $@

pytest: $(VENV)/tests-installed ## the Python tests, against the installed package
	@$(TOOLS)/pytest.sh $(VENV)/bin/python tests --ignore=tests/interop --ignore=tests/serving --ignore=tests/roce -q -ra --timeout=120 $(PYTEST_ARGS)

upstream: ## install upstream's wheels, each into a virtual environment of its own
	@$(TOOLS)/setup.sh upstream
	@$(TOOLS)/upstream.sh build/venv-upstream $(UPSTREAM_V2)
	@$(TOOLS)/upstream.sh build/venv-upstream-v1 $(UPSTREAM_V1)
	@$(TOOLS)/upstream.sh build/venv-upstream-v1-keep $(UPSTREAM_V1_KEEP)

interop: $(VENV)/tests-installed upstream ## the tests with upstream's wheels as peers
	@$(TOOLS)/pytest.sh $(VENV)/bin/python tests/interop -q -ra --timeout=180 $(PYTEST_ARGS)

SGLANG = build/venv-sglang
sglang: lib ## the integration of sglang, with its releases' sources and torch
	@$(TOOLS)/sglang.sh build/sglang $(SGLANG)
	$(SGLANG)/bin/python -m pip install --quiet --disable-pip-version-check --force-reinstall --no-deps .
	@rm -rf build/lib build/bdist.*
	$(SGLANG)/bin/python -m pytest tests/serving -q -ra --timeout=120 $(PYTEST_ARGS)

# The suites that run on the emulated hosts, each tests/roce/suites/NAME.sh. ROCE_LONG=1
# runs the long variants of tests too.
ROCE_SUITES ?= links go engine
test-rdma: $(VENV)/tests-installed ## suites on two emulated hosts with soft-RoCE (ROCE_SUITES, ROCE_LONG=1)
	@$(TOOLS)/setup.sh rdma
	@$(TOOLS)/setup.sh upstream
	@$(TOOLS)/upstream.sh build/venv-upstream $(UPSTREAM_V2)
	@tests/roce/run.sh build/roce $(ROCE_SUITES)

demo: setup ## on a fresh checkout: build, install with pip, and replay the incident and its cure (DEMO_ARGS)
	@$(MAKE) --no-print-directory $(VENV)/bench-installed
	$(VENV)/bin/mooncake replay --page-size 1,64 --allocator fifo,runs --load-scale 8 --json build/demo.json \
		$$(test -e $(VENV)/bench-installed && echo --chart build/demo.png) $(DEMO_ARGS)
	$(VENV)/bin/mooncake advise build/demo.json

test: ## on a fresh checkout: everything above, a short demo, and a summary
	@MAKE="$(MAKE)" $(TOOLS)/test.sh setup lib check race nocgo-short abi pytest interop \
		"test-rdma &" "fuzz FUZZTIME=$(TEST_FUZZTIME)" sglang wait "demo DEMO_ARGS=$(TEST_DEMO_ARGS)"

$(VENV)/bench-installed: $(VENV)/installed tests/bench/requirements.txt
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r tests/bench/requirements.txt \
		&& touch $@ || echo "bench: going on without matplotlib: --chart is refused"

bench: setup ## ours beside upstream's wheel, NIXL, UCX and the machine's limits (BENCH_ARGS)
	@$(MAKE) --no-print-directory $(VENV)/bench-installed
	@$(TOOLS)/setup.sh upstream
	@$(TOOLS)/upstream.sh build/venv-upstream $(UPSTREAM_V2)
	@$(TOOLS)/nixl.sh build/venv-nixl tests/bench/nixl-requirements.txt
	@$(TOOLS)/ucx.sh
	$(VENV)/bin/python tests/bench/bench.py $(BENCH_ARGS)

bench-rdma: setup ## rdma on a software NIC and on emulated hosts, beside a bare loop, upstream and ib_write_bw (BENCH_ARGS)
	@$(TOOLS)/setup.sh rdma
	@$(MAKE) --no-print-directory $(VENV)/bench-installed
	@$(TOOLS)/setup.sh upstream
	@$(TOOLS)/upstream.sh build/venv-upstream $(UPSTREAM_V2)
	@tests/softnic/build.sh build/softnic
	$(VENV)/bin/python tests/bench/bench_rdma.py $(BENCH_ARGS)

clean: ## remove everything that was built
	rm -rf build $(LIB) python/mooncake/libmooncake.h python/*.egg-info .pytest_cache
	find python tests -name __pycache__ -type d -prune -exec rm -rf {} +
