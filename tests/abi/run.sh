#!/usr/bin/env bash
# The ABI tests: the header against the library, and C and C++ callers, each plain
# and with the address and undefined behaviour sanitizers.
#
#   run.sh LIBRARY GENERATED_HEADER OUTPUT_FOLDER
#
# GENERATED_HEADER is what `go build -buildmode=c-shared` wrote. Environment: CC, CXX,
# PYTHON.
set -euo pipefail

if [ $# -ne 3 ]; then
    sed -n '2,8s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
library=$(realpath "$1") generated=$(realpath "$2") out=$3
here=$(cd "$(dirname "$0")" && pwd)
header=$(realpath "$here/../../capi/mooncake.h")
capi=$(dirname "$header")
CC=${CC:-gcc} CXX=${CXX:-g++} PYTHON=${PYTHON:-python3}
mkdir -p "$out"
out=$(realpath "$out")

strict=(-Wall -Wextra -Werror -g "-I$capi")
c=("$CC" -std=c11 -D_GNU_SOURCE "${strict[@]}")
cxx=("$CXX" -std=c++17 "${strict[@]}")
link=("$library" "-Wl,-rpath,$(dirname "$library")" -pthread)
sanitize=(-fsanitize=address,undefined -fno-sanitize-recover=all)

# The programs expect the defaults, not what the caller's shell has set.
for name in $(compgen -e | grep '^MC_' || true); do
    unset "$name"
done

say() { printf 'abi: %s\n' "$*"; }

# LeakSanitizer stops the process with ptrace, which some containers forbid; it
# then fails every program. Is it able to see a leak here?
leaks=0
"$CC" "${sanitize[@]}" -x c - -o "$out/leak" <<<'#include <stdlib.h>
int main(void) { return malloc(8) == NULL; }'
if [[ $("$out/leak" 2>&1 || true) == *"detected memory leaks"* ]]; then
    leaks=1
else
    say "LeakSanitizer does not work here: the sanitized programs run without it"
fi
export ASAN_OPTIONS=${ASAN_OPTIONS:-detect_leaks=$leaks}

agree() { # HEADER_FOLDER GENERATED: do the two declare the same functions?
    cp "$2" "$out/generated/libmooncake.h"
    "$CC" -std=c11 -Wall -Werror -fsyntax-only "-I$1" "-I$out/generated" "-I$capi" "$here/header_check.c"
}

mkdir -p "$out/generated" "$out/changed"
say "the header and the exported Go functions have the same types"
agree "$capi" "$generated"

say "a changed parameter is noticed"
sed 's/^int mc_poll(mc_batch_t batch,/int mc_poll(uint32_t batch,/' "$header" >"$out/changed/mooncake.h"
if cmp -s "$header" "$out/changed/mooncake.h"; then
    say "mooncake.h declares mc_poll in another way now: adapt $0"
    exit 1
fi
if agree "$out/changed" "$generated" 2>/dev/null; then
    say "header_check.c compiled although a parameter differs"
    exit 1
fi

say "the header compiles alone, as C11, C++17 and strict C99"
echo '#include "mooncake.h"' >"$out/alone.c"
cp "$out/alone.c" "$out/alone.cpp"
"${c[@]}" -pedantic -fsyntax-only "$out/alone.c"
"${cxx[@]}" -pedantic -fsyntax-only "$out/alone.cpp"
"$CC" -std=c99 -pedantic "${strict[@]}" -fsyntax-only "$out/alone.c"

say "the library exports the functions of the header and nothing else"
"${c[@]}" "$here/layout.c" -o "$out/layout"
"$out/layout" >"$out/layout.json"
"$PYTHON" "$here/check.py" "$header" "$library" "$out/layout.json"

for program in smoke errors outcome pages; do
    say "$program.c"
    "${c[@]}" -O1 "$here/$program.c" -o "$out/$program" "${link[@]}"
    timeout 120 "$out/$program"
    say "$program.c, sanitized"
    "${c[@]}" -O1 "${sanitize[@]}" "$here/$program.c" -o "$out/$program-asan" "${link[@]}"
    timeout 240 "$out/$program-asan"
done

say "smoke.cpp"
"${cxx[@]}" -O1 "$here/smoke.cpp" -o "$out/smoke-cpp" "${link[@]}"
timeout 120 "$out/smoke-cpp"
say "smoke.cpp, sanitized"
"${cxx[@]}" -O1 "${sanitize[@]}" "$here/smoke.cpp" -o "$out/smoke-cpp-asan" "${link[@]}"
timeout 240 "$out/smoke-cpp-asan"
say "ok"
