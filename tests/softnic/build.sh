#!/usr/bin/env bash
# Builds the software NIC:
#
#   build.sh FOLDER
#
#   FOLDER/libibverbs.so.1        what programs load with LD_LIBRARY_PATH=FOLDER
#   FOLDER/old/libibverbs.so.1    the same without the calls of newer releases
#   FOLDER/libsoftnic-paths.so    for LD_PRELOAD, sends /sys/class/infiniband to our tree
#   FOLDER/softnicctl
#
# Needs a C compiler and the headers of libibverbs. Environment: CC, SOFTNIC_CFLAGS
# (such as -fsanitize=address).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
folder=${1:?usage: build.sh FOLDER}
cc=${CC:-gcc}
flags=(-std=gnu11 -O2 -g -Wall -Wextra -fvisibility=default -pthread)
read -ra more <<<"${SOFTNIC_CFLAGS:-}"
flags+=(${more[@]+"${more[@]}"})

if ! echo '#include <infiniband/verbs.h>' | "$cc" -x c -fsyntax-only - 2>/dev/null; then
    echo "softnic: the headers of libibverbs are missing (package libibverbs-dev)" >&2
    exit 1
fi

shared=(fabric.c tables.c bell.c settings.c gids.c tree.c)
library=(context.c query.c memory.c events.c cq.c qp.c states.c post.c nic.c serve.c wire.c pace.c late.c names.c rest.c)
mkdir -p "$folder/objects" "$folder/old"

# A source that did not change is not compiled again.
same=$(printf '%s\n' "$cc" "${flags[@]}" | cat - "$here"/*.h "$here"/*.map "$0" | sha256sum)
[ "$(cat "$folder/objects/same" 2>/dev/null)" = "$same" ] || rm -f "$folder"/objects/*.o
changed=false
for source in "${shared[@]}" "${library[@]}" softnicctl.c watch.c paths.c; do
    object=$folder/objects/${source%.c}.o
    [ "$object" -nt "$here/$source" ] && continue
    "$cc" "${flags[@]}" -fPIC -c "$here/$source" -o "$object"
    changed=true
done
echo "$same" >"$folder/objects/same"
$changed || [ ! -e "$folder/softnicctl" ] || exit 0

objects() { printf "$folder/objects/%s.o " "${@%.c}"; }
link() { # FILE MAP
    "$cc" "${flags[@]}" -shared -Wl,-soname,libibverbs.so.1 -Wl,--version-script="$2" -Wl,-z,now \
        $(objects "${shared[@]}" "${library[@]}") -o "$1.new"
    mv "$1.new" "$1"
}
sed '/^# Newer/,$d' "$here/libibverbs.map" >"$folder/objects/old.map"
link "$folder/libibverbs.so.1" "$here/libibverbs.map"
link "$folder/old/libibverbs.so.1" "$folder/objects/old.map"
"$cc" "${flags[@]}" -shared "$folder/objects/paths.o" -ldl -o "$folder/libsoftnic-paths.so"
ln -sf libibverbs.so.1 "$folder/libibverbs.so"
"$cc" "${flags[@]}" $(objects "${shared[@]}" softnicctl.c watch.c) -o "$folder/softnicctl"
