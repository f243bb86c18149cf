#!/usr/bin/env bash
# Installs NIXL's wheel into a virtual environment of its own, for make bench:
#
#   nixl.sh FOLDER REQUIREMENTS
#
# REQUIREMENTS is a pip file. Without its dependency torch, which it needs for tensors only, and without CUDA. Where
# that release has no wheel for this Python, cannot be fetched, or its UCX backend does not
# start, it says so and leaves the reason in FOLDER.skipped instead. Environment: PYTHON.
set -euo pipefail
usage='usage: nixl.sh FOLDER REQUIREMENTS'
folder=${1:?$usage} requirements=${2:?$usage}
python=${PYTHON:-python3}
wheel=$(sed -n '/^nixl/p' "$requirements")
stamp=$folder/installed

# With the path of the interpreter in it: a changed Python means a new environment.
want=$("$python" -c 'import sys; print(sys.version, sys.base_prefix)' && cksum <"$requirements")
if [ "$(cat "$stamp" 2>/dev/null)" = "$want" ]; then
    echo "nixl: $folder has $wheel"
    exit 0
fi

give_up() {
    rm -rf "$folder"
    echo "$1" >"$folder.skipped"
    echo "nixl: skipped: $1"
    exit 0
}

echo "nixl: install $wheel into $folder"
rm -rf "$folder" "$folder.skipped"
"$python" -m venv "$folder"
if ! output=$("$folder/bin/python" -m pip install --quiet --disable-pip-version-check --only-binary :all: \
    --no-deps -r "$requirements" 2>&1); then
    give_up "$("$python" --version) cannot have $wheel: $(tail -n 1 <<<"$output")"
fi
# An agent whose backend is missing is made all the same. _exit: without a GPU it was
# seen to crash when the interpreter ends, which says nothing about transfers.
if ! output=$(UCX_LOG_LEVEL=error NIXL_LOG_LEVEL=ERROR timeout 60 "$folder/bin/python" -I -c '
import os
from nixl_cu12 import nixl_agent, nixl_agent_config
agent = nixl_agent("check", nixl_agent_config(backends=["UCX"]))
os._exit("UCX" not in agent.backends)
' 2>&1); then
    give_up "the UCX backend of $wheel does not start here: $(tail -n 1 <<<"$output")"
fi
echo "$want" >"$stamp"
