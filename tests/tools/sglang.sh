#!/usr/bin/env bash
# Fetches what the tests of the sglang integration need:
#
#   sglang.sh SOURCES VENV
#
# The Python sources of every release of sglang that the integration knows, into SOURCES/RELEASE,
# out of its wheel and without its dependencies; and a virtual environment that has torch:
# that of $PYTHON if it has one, else the distribution's build for the CPU, which is a twentieth of
# the size of the one on PyPI. As root on Debian and Ubuntu it installs that with apt-get.
#
# What cannot be had is said, and the tests that need it are skipped; if MC_REQUIRE
# contains sglang or torch it fails instead. Environment: PYTHON, MC_REQUIRE.
set -euo pipefail
cd "$(dirname "$0")/../.."
sources=${1:?usage: sglang.sh SOURCES VENV} venv=${2:?usage: sglang.sh SOURCES VENV}
python=${PYTHON:-python3}

go_on_without() { # FEATURE REASON
    case ",${MC_REQUIRE:-}," in
    *,"$1",*)
        echo "sglang: MC_REQUIRE contains $1, but $2" >&2
        exit 1
        ;;
    esac
    echo "sglang: going on without $1: $2"
}

# The wheels are for one Python and one platform, but of their files only Python's are used.
fetch() { # RELEASE
    local folder output
    folder=$(mktemp -d)
    # shellcheck disable=SC2064
    trap "rm -rf '$folder'" RETURN
    if ! output=$("$python" -m pip download --quiet --disable-pip-version-check --no-deps --dest "$folder" \
        --only-binary :all: --python-version 3.11 --implementation cp --abi cp311 --platform manylinux_2_34_x86_64 \
        "sglang==$1" 2>&1); then
        go_on_without sglang "sglang $1 cannot be fetched: $(tail -n 1 <<<"$output")"
        return
    fi
    "$python" - "$folder"/*.whl "$folder/unpacked" <<'PYTHON'
import sys, zipfile
wheel = zipfile.ZipFile(sys.argv[1])
wanted = [n for n in wheel.namelist() if n.endswith(".py") and n.startswith("sglang/srt/") or ".dist-info/" in n]
wheel.extractall(sys.argv[2], wanted)
PYTHON
    mkdir -p "$sources"
    mv "$folder/unpacked" "$sources/$1"
    echo "sglang: $sources/$1"
}

for release in $(PYTHONPATH=python "$python" -c 'from mooncake.integrations.sglang import KNOWN; print(*KNOWN)'); do
    [ -d "$sources/$release" ] || fetch "$release"
done

has_torch() { "$1" -c 'import torch, venv, ensurepip' 2>/dev/null; }

if ! has_torch "$python" && ! has_torch /usr/bin/python3 &&
    [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
    echo "sglang: apt-get install python3-torch python3-venv"
    apt-get -qq update || true
    DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends -y \
        python3-torch python3-venv >/dev/null || true
fi
if has_torch "$python"; then
    base=$python
elif has_torch /usr/bin/python3; then
    base=/usr/bin/python3
else
    go_on_without torch "neither $python nor /usr/bin/python3 has it (package python3-torch)"
    base=$python
fi

want=$("$base" -c 'import sys; print(sys.version, sys.base_prefix)')
if [ "$(cat "$venv/made-for" 2>/dev/null)" != "$want" ]; then
    echo "sglang: $venv of $base"
    rm -rf "$venv"
    "$base" -m venv --system-site-packages "$venv"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -r tests/serving/requirements.txt
    "$venv/bin/python" -c 'import numpy' 2>/dev/null ||
        "$venv/bin/python" -m pip install --quiet --disable-pip-version-check numpy
    echo "$want" >"$venv/made-for"
fi
