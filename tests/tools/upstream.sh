#!/usr/bin/env bash
# Installs a release of upstream's wheel into a virtual environment of its own:
#
#   upstream.sh FOLDER VERSION
#
# Where that release has no wheel for this Python, or cannot be fetched, it says so
# and leaves no folder but the reason in FOLDER.skipped, so that the tests which need it are
# skipped; if MC_REQUIRE contains interop it fails instead. Environment: PYTHON, MC_REQUIRE.
set -euo pipefail
folder=${1:?usage: upstream.sh FOLDER VERSION} version=${2:?usage: upstream.sh FOLDER VERSION}
python=${PYTHON:-python3}
wheel=mooncake-transfer-engine-non-cuda==$version
stamp=$folder/installed-$version

# With the path of the interpreter in it: a changed Python means a new environment.
want=$("$python" -c 'import sys; print(sys.version, sys.base_prefix)')
if [ "$(cat "$stamp" 2>/dev/null)" = "$want" ]; then
    echo "upstream: $folder has $wheel"
    exit 0
fi

give_up() {
    rm -rf "$folder"
    case ",${MC_REQUIRE// /}," in
    *,interop,*)
        echo "upstream: MC_REQUIRE contains interop, but $1" >&2
        exit 1
        ;;
    esac
    echo "$1" >"$folder.skipped"
    echo "upstream: skipped: $1"
    exit 0
}
MC_REQUIRE=${MC_REQUIRE:-}

echo "upstream: install $wheel into $folder"
rm -rf "$folder" "$folder.skipped"
"$python" -m venv "$folder"
if ! output=$("$folder/bin/python" -m pip install --quiet --disable-pip-version-check --only-binary :all: "$wheel" 2>&1); then
    give_up "$("$python" --version) cannot have $wheel: $(tail -n 1 <<<"$output")"
fi
if ! output=$("$folder/bin/python" -I -c 'import mooncake.engine' 2>&1); then
    give_up "$wheel does not import: $(tail -n 1 <<<"$output")"
fi
echo "$want" >"$stamp"
