# Both links carry verbs: the ports are active with the largest MTU, their GIDs are what the
# other suites rely on, and ib_write_bw moves bytes over each, and over no other.
set -euo pipefail
size=65536 count=100

fail() {
    echo "FAILED: $*"
    exit 1
}

for port in 0 1; do
    info=$(ibv_devinfo -d "rxe$port")
    grep -q 'state:.*PORT_ACTIVE' <<<"$info" || fail "rxe$port is not active: $info"
    grep -q 'active_mtu:.*4096' <<<"$info" || fail "rxe$port has a small MTU: $info"
    gids=/sys/class/infiniband/rxe$port/ports/1
    [ "$(cat "$gids/gid_attrs/types/1")" = "RoCE v2" ] || fail "GID 1 of rxe$port is not RoCE v2"
    want=$(printf '0000:0000:0000:0000:0000:ffff:c000:02%02x' $((port * 16 + ROCE_ROLE)))
    [ "$(cat "$gids/gids/1")" = "$want" ] || fail "GID 1 of rxe$port is $(cat "$gids/gids/1"), not $want"
done

# Host 2's server listens on the port.
listens() {
    on2 run cat /proc/net/tcp /proc/net/tcp6 | grep -qiE ":$(printf '%04x' "$1") 0+:0000 0A"
}

sent() { cat "/sys/class/net/rail$1/statistics/tx_bytes"; }

for port in 0 1; do
    tcp=$((18515 + port)) other=$((1 - port))
    ours=$(sent $port) theirs=$(sent $other)
    on2 run ib_write_bw -d "rxe$port" -x 1 -s $size -n $count -F -p $tcp >"$ROCE_OUT/links-server$port.log" 2>&1 &
    for ((i = 0; i < 200; i++)); do listens $tcp && break; done # a call takes 50 ms and more
    output=$(timeout 60 ib_write_bw -d "rxe$port" -x 1 -s $size -n $count -F -p $tcp "192.0.2.$((port * 16 + 2))") ||
        fail "ib_write_bw over rxe$port ended with $?: $output"
    wait $! || fail "ib_write_bw's server on rxe$port ended with $?"
    rate=$(awk -v size=$size '$1 == size { print $4 }' <<<"$output")
    awk -v rate="$rate" 'BEGIN { exit !(rate > 0) }' || fail "ib_write_bw over rxe$port has no result: $output"
    [ $(($(sent $port) - ours)) -ge $((size * count)) ] || fail "the bytes of rxe$port did not cross its link"
    [ $(($(sent $other) - theirs)) -lt $size ] || fail "the bytes of rxe$port crossed the other link"
    echo "rxe$port: $rate MB/s"
done
