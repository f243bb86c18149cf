#!/usr/bin/env bash
# Installs ucx_perftest for make bench: as root on Debian and Ubuntu with apt-get, the
# distribution's release. Elsewhere, and when that fails, it says so; the benchmark then
# goes on without it.
set -euo pipefail

if command -v ucx_perftest >/dev/null; then
    echo "ucx: $(command -v ucx_perftest)"
    exit 0
fi
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
    echo "ucx: skipped: ucx_perftest is not on PATH; as root: apt-get install ucx-utils"
    exit 0
fi
echo "ucx: apt-get install ucx-utils"
if ! output=$(apt-get -qq update 2>&1 && DEBIAN_FRONTEND=noninteractive \
    apt-get -qq install --no-install-recommends -y ucx-utils 2>&1); then
    echo "ucx: skipped: $(tail -n 1 <<<"$output")"
fi
