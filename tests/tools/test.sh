#!/usr/bin/env bash
# Runs make targets one after the other, all of them also when one fails, and prints
# a table at the end. The exit status is 1 if any failed.
#
#   test.sh TARGET...     "demo DEMO_ARGS=--quick" passes a variable
#
# Environment: MAKE.
set -uo pipefail
cd "$(dirname "$0")/../.."
make=${MAKE:-make} failed=0 summary=

for step in "$@"; do
    target=${step%% *}
    variable=()
    [ "$target" = "$step" ] || variable=("${step#* }")
    printf '\n=== make %s\n' "$step"
    start=$(date +%s.%N)
    if "$make" --no-print-directory "$target" "${variable[@]}"; then
        outcome=passed
    else
        outcome=FAILED failed=1
    fi
    took=$(echo "$start $(date +%s.%N)" | awk '{ printf "%.0f", $2 - $1 }')
    summary+=$(printf '  %-10s %-7s %5s s' "$target" "$outcome" "$took")$'\n'
    # Nothing can work without these two.
    if [ $outcome = FAILED ] && { [ "$target" = setup ] || [ "$target" = lib ]; }; then
        summary+="  the other targets need $target and were not run"$'\n'
        break
    fi
done

printf '\n=== summary\n%s' "$summary"
exit $failed
