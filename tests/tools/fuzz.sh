#!/usr/bin/env bash
# Runs every fuzz target of the module, one after the other:
#
#   fuzz.sh TIME        such as 5s
#
# Environment: GO.
set -euo pipefail
cd "$(dirname "$0")/../.."
time=${1:?usage: fuzz.sh TIME, such as 5s}
go=${GO:-go} count=0
programs=$PWD/build/fuzz
cache=$("$go" env GOCACHE)/fuzz

# A package's targets are one program, built once, with the instructions that guide the fuzzer.
build() { # PACKAGE
    local program
    program=$programs/$(tr / - <<<"$1")
    [ -e "$program" ] || "$go" test -c -fuzz . -o "$program" "./$1" || return 1
    echo "$program"
}

# The fuzzer itself sometimes fails when its time is up in the middle of a run: "context
# deadline exceeded", and no input is blamed. Only
# then it has a second try.
fuzz() { # PROGRAM PACKAGE TARGET
    local log status
    log=$(mktemp)
    for try in 1 2; do
        status=0
        # -test.run '^$': the other tests have a target of their own in the Makefile. Targets with
        # sockets never cover the same twice, and making their inputs shorter would take
        # all the time.
        (cd "$2" && exec "$1" -test.run '^$' -test.fuzz "^$3\$" -test.fuzztime "$time" \
            -test.fuzzminimizetime 10x -test.fuzzcachedir "$cache/mooncake/$2" 2>&1) | tee "$log" || status=$?
        if [ "$status" -eq 0 ]; then break; fi
        if grep -q 'Failing input written' "$log" || ! grep -q 'context deadline exceeded' "$log"; then break; fi
        echo "fuzz: try $try ended without a failing input"
    done
    rm -f "$log"
    return "$status"
}

rm -rf "$programs"
mkdir -p "$programs"
while IFS=: read -r file name; do
    package=$(dirname "$file")
    echo "fuzz: ./$package $name, $time"
    program=$(build "$package")
    fuzz "$program" "$package" "$name"
    count=$((count + 1))
done < <(grep -rHo --include='*_test.go' '^func Fuzz[A-Za-z0-9_]*' capi core pagealloc rdma tests | sed 's/func //' | sort)

if [ "$count" -eq 0 ]; then
    echo "fuzz: found no fuzz target" >&2
    exit 1
fi
echo "fuzz: $count targets passed"
