#!/usr/bin/env bash
# What an emulated host does once it has booted: it brings up the links and soft-RoCE on them;
# then host 1 runs the suites, and host 2 what host 1 asks for.
#
#   host.sh ROLE REPOSITORY OUT
#
# OUT/suites names the suites, one a line, each suites/NAME.sh; OUT/environment has variables for
# them, NAME=VALUE. OUT/NAME.log gets a suite's output, and OUT/results a line: its name, its
# exit status and its seconds. A status of 77 means skipped, for the reason in its last line.
set -uo pipefail
role=$1 repository=$2 out=$3
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export HOME=/tmp TMPDIR=/tmp LANG=C.UTF-8 PYTHONDONTWRITEBYTECODE=1
export ROCE_ROLE=$role ROCE_OUT=$out ROCE_ON2=198.51.100.2:7000 ROCE_HOST1=198.51.100.1 ROCE_HOST2=198.51.100.2
set -a
# shellcheck disable=SC1091
. "$out/environment"
set +a
cd "$repository" || exit 1
PATH=$repository/build/roce:$PATH
ulimit -c 0 -l unlimited
# A process can be started at the port of one that was killed.
echo 0 >/proc/sys/net/ipv4/tcp_max_tw_buckets

# The device of a link: the fifth byte of its address is the link's number, the sixth the role.
interface() {
    local mac
    mac=$(printf '52:54:00:00:%02x:%02x' "$1" "$role")
    basename "$(dirname "$(grep -lx "$mac" /sys/class/net/*/address)")"
}

link_up() { # NAME NUMBER ADDRESS MTU
    ip link set "$(interface "$2")" name "$1" &&
        ip address add "$3" dev "$1" &&
        ip link set "$1" mtu "$4" up
}

# 4200 is room for RoCE's headers and its largest packets, of 4096 bytes.
bring_up() {
    link_up control 2 "198.51.100.$role/28" 1500 &&
        link_up rail0 0 "192.0.2.$role/28" 4200 &&
        link_up rail1 1 "192.0.2.$((16 + role))/28" 4200 &&
        rdma link add rxe0 type rxe netdev rail0 &&
        rdma link add rxe1 type rxe netdev rail1
}

run_suite() { # SUITE COMMAND...: run by the command, if there is one
    local suite=$1 status start
    shift
    start=$(date +%s)
    "$@" bash "tests/roce/suites/$suite.sh" </dev/null >"$out/$suite.log" 2>&1
    status=$?
    echo "$suite $status $(($(date +%s) - start))" >>"$out/results"
}

# The suite go needs one host only. It runs on host 2, which has less to do, beside those that
# follow; but nothing is measured beside it.
run_suites() {
    local suite
    while read -r suite; do
        case $suite in
        go) run_suite go on2 run & ;;
        bench) wait && run_suite bench ;;
        *) run_suite "$suite" ;;
        esac
    done <"$out/suites"
    wait
}

bring_up || {
    echo "lab: host $role has no soft-RoCE on its links"
    exit 1
}
echo "lab: host $role is up after $(cut -d' ' -f1 /proc/uptime) s"
if [ "$role" = 2 ]; then
    exec on2 serve
fi
on2 wait || exit 1
echo "lab: both hosts are up"
run_suites
on2 stop
