# The Go tests of verbs, on soft-RoCE: all of package rdma, and those of core that say something
# about a real device, between engines of this host. ROCE_GO_PACKAGES and ROCE_GO_RUN, a regular
# expression, select among them.
set -uo pipefail
export MC_REQUIRE=rdma MC_TEST_NIC=real MC_TEST_VIA=rdma MC_ROCE_LAB=1
failed=0

# Not here: what needs a NIC that fails on demand, or counts on a fast one, or freezes a peer to
# stop its transfers, which kernel verbs go on to serve.
core=(
    PortsOfThisHost RDMARefusesBad RDMALargeRanges RDMAGathers ConnectBefore BlocksInPieces EmptyAnd
    Loopback LateRegistrationIsVisible$ PagesOfLate
)
# The suite engine has these between two hosts.
[ -z "${ROCE_LONG:-}" ] || core+=(
    RDMADeregister RDMAStaleKey NeighboursLeave BlocksSpan ManyThreadsShare CancelIsQuiet Fence
    PeerThatDies RestartedPeer PageGroupsMean TransferMoves RDMALongRun MemoryThatIsGone
)
# These compile C programs, and need no device.
skip=TestPorts

pattern() {
    [ "$1" = core ] || { echo . && return; }
    local IFS='|'
    echo "Test.*(${core[*]})"
}

run() { # PACKAGE PATTERN
    local log=$ROCE_OUT/go-$1.log status=0
    (cd "$1" && "../build/roce/$1.test" -test.v -test.timeout=240s -test.skip="$skip" -test.run="$2" >"$log" 2>&1) ||
        status=$?
    echo "$1: $(grep -ac '^--- PASS' "$log") passed, $(grep -ac '^--- SKIP' "$log") skipped," \
        "$(grep -ac '^--- FAIL' "$log") failed"
    if [ $status -ne 0 ]; then
        failed=1
        # What a failed test has printed stands before its line, and a crash at the end.
        grep -aB12 '^ *--- FAIL' "$log" | cut -c1-300
        tail -n 20 "$log" | cut -c1-300
    elif ! grep -aq '^--- PASS' "$log"; then
        failed=1
        echo "$1: no test ran"
    fi
}

for package in ${ROCE_GO_PACKAGES:-rdma core}; do
    run "$package" "${ROCE_GO_RUN:-$(pattern "$package")}"
done
exit $failed
