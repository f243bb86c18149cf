# The engine between the hosts, and upstream's wheel as its peer: tests/roce/test_roce_*.py. One
# process for all tests, since a Python takes seconds to start here. ROCE_PYTEST has more arguments,
# quoted as for a shell.
set -uo pipefail
status=0
eval "more=(${ROCE_PYTEST:-})"
build/venv/bin/python -m pytest tests/roce -p no:cacheprovider -q -rfExXs --timeout=180 --durations=10 \
    "${more[@]}" || status=$?
[ ! -e "$ROCE_OUT/measured.log" ] || cat "$ROCE_OUT/measured.log"
exit $status
