#!/usr/bin/env bash
# Makes sure that what the Makefile needs from the system is there:
#
#   setup.sh build       compilers, Go, Python, the headers of libibverbs
#   setup.sh upstream    the shared libraries that upstream's wheels need
#   setup.sh rdma        the emulator and tools of the RoCE lab (tests/roce)
#
# As root on Debian and Ubuntu it installs missing packages with apt-get, otherwise it
# prints what to run and fails. What only serves tests, upstream's wheels and the lab, may be
# missing: then it fails only if MC_REQUIRE contains interop, or rdma.
# Environment: PYTHON, GO, CC, CXX, MC_REQUIRE.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-python3} go=${GO:-go} cc=${CC:-gcc} cxx=${CXX:-g++}
go_minor=26 go_apt_minor=21 python_minor=10

packages=() # what is missing, by Debian's names
missing() { # PACKAGE REASON
    echo "setup: missing: $2 (package $1)"
    packages+=("$1")
}

compiles() { # COMPILER LANGUAGE HEADER
    echo "#include <$3>" | "$1" -x "$2" -fsyntax-only - 2>/dev/null
}

# go is Go 1.26, or at least 1.21: since then it fetches the Go that go.mod names.
go_minor_of() {
    { "$go" version 2>/dev/null || true; } | sed -n 's/^go version go1\.\([0-9]*\).*/\1/p'
}

check_go() {
    local have
    have=$(go_minor_of)
    if [ -n "$have" ] && [ "$have" -ge $go_minor ]; then
        echo "setup: $("$go" version)"
        return
    fi
    if [ -n "$have" ]; then
        echo "setup: $(cd / && "$go" version 2>/dev/null) is too old, and could not fetch Go 1.$go_minor"
    fi
    missing golang-go "Go 1.$go_minor or newer"
}

check_python() {
    if ! "$python" -c "import sys; sys.exit(sys.version_info < (3, $python_minor))" 2>/dev/null; then
        missing python3 "Python 3.$python_minor or newer as $python"
        missing python3-venv "Python's venv and ensurepip"
    elif ! "$python" -c 'import venv, ensurepip' 2>/dev/null; then
        missing python3-venv "venv and ensurepip for $("$python" --version)"
    else
        echo "setup: $("$python" --version)"
    fi
}

check_build() {
    compiles "$cc" c stdio.h || { missing gcc "a C compiler" && missing libc6-dev "C headers"; }
    compiles "$cxx" c++ vector || missing g++ "a C++17 compiler"
    # Only its headers are needed to build: the library is loaded where there is one.
    compiles "$cc" c infiniband/verbs.h || missing libibverbs-dev "the headers of libibverbs"
    command -v make >/dev/null || missing make make
    command -v nm >/dev/null || missing binutils nm
    command -v cmp >/dev/null || missing diffutils cmp
    compiles "$cc" c infiniband/verbs.h || missing libibverbs-dev "the headers of libibverbs"
    # Go fetches modules over https and trusts the system's certificates.
    [ -n "$(find /etc/ssl/certs /etc/pki/tls/certs -name '*.crt' -o -name '*.pem' 2>/dev/null | head -n 1)" ] ||
        missing ca-certificates "root certificates"
    check_python
    check_go
}

check_upstream() {
    local known
    known=$(/sbin/ldconfig -p 2>/dev/null || ldconfig -p)
    for pair in libibverbs.so.1:libibverbs1 libnuma.so.1:libnuma1 libcurl.so.4:libcurl4 libstdc++.so.6:libstdc++6; do
        grep -qF "${pair%%:*} " <<<"$known" || missing "${pair##*:}" "${pair%%:*}, which upstream's wheels load"
    done
}

check_rdma() {
    local path=$PATH:/sbin:/usr/sbin
    for pair in qemu-system-x86_64:qemu-system-x86 busybox:busybox-static cpio:cpio depmod:kmod rdma:iproute2 \
        ibv_devinfo:ibverbs-utils ib_write_bw:perftest; do
        PATH=$path command -v "${pair%%:*}" >/dev/null || missing "${pair##*:}" "${pair%%:*}, for the RoCE lab"
    done
    # Its package only recommends it.
    [ -e /usr/share/seabios/bios-256k.bin ] || missing seabios "the emulator's BIOS, for the RoCE lab"
    [ -n "$(find /usr/lib /usr/lib64 -name 'librxe-rdmav*.so' 2>/dev/null | head -n 1)" ] ||
        missing ibverbs-providers "the verbs library of soft-RoCE, for the RoCE lab"
}

# The Go of the distribution is worth installing only if it can fetch a newer one.
apt_has_go() {
    local offered
    offered=$({ apt-cache policy golang-go 2>/dev/null || true; } | sed -n 's/^ *Candidate: *[0-9]*:1\.\([0-9]*\).*/\1/p')
    [ -n "$offered" ] && [ "$offered" -ge $go_apt_minor ]
}

install() {
    local root=false
    if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
        root=true
        apt-get -qq update
    fi
    if [[ " ${packages[*]} " == *" golang-go "* ]] && ! apt_has_go; then
        echo "setup: Go 1.$go_minor or newer is needed, and there is no package of it:" \
            "install it from the Go project and put its bin folder on PATH" >&2
        return 1
    fi
    if ! $root; then
        echo "setup: run as root: apt-get install ${packages[*]}" >&2
        return 1
    fi
    echo "setup: apt-get install ${packages[*]}"
    DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends -y "${packages[@]}" >/dev/null
}

required() { [[ ",${MC_REQUIRE:-}," == *$1* ]]; }

case ${1:-} in
build)
    check_build
    [ ${#packages[@]} -eq 0 ] && exit 0
    install || exit 1
    packages=()
    check_build
    [ ${#packages[@]} -eq 0 ] || { echo "setup: still missing after the installation" >&2 && exit 1; }
    ;;
upstream)
    check_upstream
    [ ${#packages[@]} -eq 0 ] && exit 0
    if ! install; then
        if required interop; then exit 1; fi
        echo "setup: going on without; the interop tests will be skipped"
    fi
    ;;
rdma)
    check_rdma
    [ ${#packages[@]} -eq 0 ] && exit 0
    if ! install; then
        if required rdma; then exit 1; fi
        echo "setup: going on without; the RoCE lab will be skipped"
    fi
    ;;
*)
    sed -n '2,12s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac
