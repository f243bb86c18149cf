#!/usr/bin/env bash
# Runs make targets, all of them also when one fails, and prints a table at the end. The exit
# status is 1 if any failed.
#
#   test.sh STEP...
#
#   TARGET                   waits for its end before the next step
#   "demo DEMO_ARGS=--quick" passes a variable
#   "TARGET &"               goes on beside the next steps; what it prints comes when they wait for it
#   wait                     until those have ended
#
# Environment: MAKE.
set -uo pipefail
cd "$(dirname "$0")/../.."
make=${MAKE:-make} failed=0 summary=
beside=() # pid:target:begin:log

now() { date +%s.%N; }

run() { # STEP
    local target=${1%% *} variable=()
    [ "$target" = "$1" ] || variable=("${1#* }")
    "$make" --no-print-directory "$target" "${variable[@]}"
}

ended() { # TARGET STATUS BEGIN END
    local outcome=passed
    [ "$2" -eq 0 ] || outcome=FAILED failed=1
    summary+=$(echo "$3 $4" | awk -v t="$1" -v o=$outcome '{ printf "  %-12s %-7s %5.0f s", t, o, $2 - $1 }')$'\n'
}

wait_for_all() {
    local each pid target begin log status
    for each in "${beside[@]}"; do
        IFS=: read -r pid target begin log <<<"$each"
        wait "$pid"
        status=$?
        printf '\n=== make %s, beside the steps before\n' "$target"
        cat "$log"
        ended "$target" $status "$begin" "$(stat -c %.Y "$log.end")"
    done
    beside=()
}

# Who is interrupted takes those along: each is a process group of its own.
trap 'for each in "${beside[@]}"; do kill -- "-${each%%:*}" 2>/dev/null; done' EXIT
trap 'exit 130' INT TERM

for step in "$@"; do
    if [ "$step" = wait ]; then
        wait_for_all
        continue
    fi
    begin=$(now)
    if [ "${step% &}" != "$step" ]; then
        step=${step% &} target=${step%% *} log=build/test-${step%% *}.log
        printf '\n=== make %s: begun beside the next steps, in %s\n' "$step" "$log"
        set -m
        (
            run "$step" >"$log" 2>&1
            status=$?
            touch "$log.end"
            exit $status
        ) &
        set +m
        beside+=("$!:$target:$begin:$log")
        continue
    fi
    printf '\n=== make %s\n' "$step"
    run "$step"
    status=$?
    target=${step%% *}
    ended "$target" $status "$begin" "$(now)"
    # Nothing can work without these two.
    if [ $status -ne 0 ] && { [ "$target" = setup ] || [ "$target" = lib ]; }; then
        summary+="  the other targets need $target and were not run"$'\n'
        break
    fi
done
wait_for_all

printf '\n=== summary\n%s' "$summary"
exit $failed
