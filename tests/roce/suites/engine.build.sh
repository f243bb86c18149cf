#!/usr/bin/env bash
# Has the tests compiled, which takes a minute in the lab and cannot be kept there.
set -euo pipefail
[ -x build/venv/bin/python ] || { echo "roce: build/venv is missing: make build/venv/tests-installed" >&2 && exit 1; }
build/venv/bin/python -m pytest tests/roce --collect-only -q >"$1/collected" 2>&1 || { cat "$1/collected" && exit 1; }
