# The engine between the hosts, and upstream's wheel as its peer: tests/roce/test_roce_*.py. One
# process for all tests, since a Python takes seconds to start here. ROCE_PYTEST has more arguments,
# quoted as for a shell.
set -uo pipefail
status=0
eval "more=(${ROCE_PYTEST:-})"
# To look for plugins, and to load those that are not used, takes seconds too.
export PYTEST_DISABLE_PLUGIN_AUTOLOAD=1
without=()
for plugin in cacheprovider doctest junitxml legacypath nose pastebin stepwise unittest; do
    without+=(-p "no:$plugin")
done
build/venv/bin/python -m pytest tests/roce -p pytest_timeout "${without[@]}" -q -rfExXs --timeout=180 --durations=10 \
    "${more[@]}" || status=$?
[ ! -e "$ROCE_OUT/measured.log" ] || cat "$ROCE_OUT/measured.log"
exit $status
