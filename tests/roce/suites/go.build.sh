#!/usr/bin/env bash
# Builds the Go tests that suites/go.sh runs. Environment: GO, ROCE_GO_PACKAGES.
set -euo pipefail
folder=$(realpath "${1:?usage: go.build.sh FOLDER}")
for package in ${ROCE_GO_PACKAGES:-rdma core}; do
    "${GO:-go}" test -c -buildvcs=false -o "$folder/$package.test" "./$package"
done
