#!/usr/bin/env bash
# Runs suites on the two emulated hosts:
#
#   run.sh FOLDER SUITE...     FOLDER has what is kept between runs, and the results
#
# Where the lab cannot be had on this machine it prints why and ends well, but if MC_REQUIRE
# contains rdma it fails. Environment: ROCE_LIMIT (seconds), ROCE_LONG=1 and what else the suites
# know, GO, CC, MC_REQUIRE.
set -euo pipefail
cd "$(dirname "$0")/../.."
folder=${1:?usage: run.sh FOLDER SUITE...}
shift
long=${ROCE_LONG:-} go=${GO:-go}
limit=${ROCE_LIMIT:-$([ -n "$long" ] && echo 3000 || echo 900)}

status=0
said=$(tests/roce/prepare.sh "$folder") || status=$?
case $status,${MC_REQUIRE:-} in
0,*) echo "$said" ;;
3,*rdma*)
    echo "roce: MC_REQUIRE contains rdma, but ${said##*$'\n'}" >&2
    exit 1
    ;;
3,*)
    echo "roce: skipped: ${said##*$'\n'}"
    exit 0
    ;;
*)
    echo "roce: prepare.sh failed: $said" >&2
    exit 1
    ;;
esac

CGO_ENABLED=0 "$go" build -buildvcs=false -trimpath -o "$folder/on2" ./tests/roce/on2
for suite in "$@"; do
    [ -e "tests/roce/suites/$suite.sh" ] || { echo "roce: there is no suite $suite" >&2 && exit 2; }
    # What must be built for it here, where that is quick.
    if [ -e "tests/roce/suites/$suite.build.sh" ]; then
        "tests/roce/suites/$suite.build.sh" "$folder"
    fi
done
"${PYTHON:-python3}" tests/roce/lab.py "$folder" "$@" --limit "$limit"
