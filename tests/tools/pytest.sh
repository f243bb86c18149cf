#!/usr/bin/env bash
# Runs pytest in several processes at once, and after that the tests with the marker
# alone, one after the other.
#
#   pytest.sh PYTHON ARGUMENT...
#
# Environment: PYTEST_JOBS, how many processes; 1 runs all tests in one, in order.
set -uo pipefail
cd "$(dirname "$0")/../.."
python=${1:?usage: pytest.sh PYTHON ARGUMENT...} jobs=${PYTEST_JOBS:-3}
shift

[ "$jobs" -gt 1 ] || exec "$python" -m pytest "$@"

nothing_selected=5
"$python" -m pytest -n "$jobs" --dist loadgroup --no-loadscope-reorder -m "not alone" "$@"
together=$?
# Not after an interrupt and the like.
if [ $together -gt 1 ] && [ $together -ne $nothing_selected ]; then exit $together; fi
"$python" -m pytest -m alone "$@"
alone=$?
for status in $together $alone; do
    if [ "$status" -ne 0 ] && [ "$status" -ne $nothing_selected ]; then exit "$status"; fi
done
# Neither half had a test: then the arguments select none.
[ $together -eq 0 ] || exit $alone
