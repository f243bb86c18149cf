#!/usr/bin/env bash
# Makes the kernel and the initramfs that the emulated hosts boot from:
#
#   prepare.sh FOLDER     writes FOLDER/vmlinuz and FOLDER/initramfs.gz
#
# The kernel is the distribution's, unpacked from its package and not installed: the machine's
# own may lack soft-RoCE, and the flavours for clouds do. What is there is used again until an
# input changes. Exits with 3, and one line that says why, where this machine cannot run the lab.
set -euo pipefail
here=$(dirname "$(realpath "$0")")
folder=$(realpath -m "${1:?usage: prepare.sh FOLDER}")
# Loaded in this order. rdma_rxe asks the kernel for crc32 when a device is added, which fails
# if that is not loaded yet, and modprobe knows nothing of it.
modules=(virtio_pci 9pnet_virtio 9p virtio_net crc32_generic crc32_pclmul ib_uverbs rdma_rxe sch_tbf sch_netem)

cannot() {
    echo "$1"
    exit 3
}

needs() { # COMMAND PACKAGE
    PATH=$PATH:/sbin:/usr/sbin command -v "$1" >/dev/null || cannot "$1 is missing (package $2)"
}

# The name of the kernel package that the distribution recommends, without a flavour.
kernel_package() {
    local meta
    for meta in linux-image-amd64 linux-image-generic; do
        apt-cache depends --important "$meta" 2>/dev/null |
            awk '$1 == "Depends:" && $2 ~ /^linux-image-[0-9]/ { print $2 }' || true
    done | sed -n 1p
}

# Debian has all modules in the package of the image, Ubuntu in two of their own.
unpack_kernel() { # PACKAGE
    local release=${1#linux-image-} package
    rm -rf "$folder/kernel" "$folder/packages"
    mkdir -p "$folder/kernel" "$folder/packages"
    for package in "$1" "linux-modules-$release" "linux-modules-extra-$release"; do
        apt-cache show "$package" >/dev/null 2>&1 || continue
        (cd "$folder/packages" && apt-get -qq download "$package" >log 2>&1) ||
            cannot "the package $package cannot be fetched: $(tail -n 1 "$folder/packages/log")"
        dpkg -x "$folder/packages/$package"_*.deb "$folder/kernel"
        rm "$folder/packages/$package"_*.deb
    done
    # A link where the distribution has merged /lib into /usr.
    [ -e "$folder/kernel/lib/modules" ] || ln -sT usr/lib "$folder/kernel/lib"
    /sbin/depmod -b "$folder/kernel" "$release"
}

# The files of the modules and of all that they need, in the order of loading.
module_files() { # RELEASE
    local name
    for name in "${modules[@]}"; do
        # Nothing is printed for one that this kernel has built in, or has no more.
        /sbin/modprobe -d "$folder/kernel" -S "$1" --show-depends "$name" 2>/dev/null || true
    done | awk '$1 == "insmod" && !seen[$2]++ { print $2 }'
}

pack_initramfs() { # RELEASE
    local root=$folder/initramfs file name
    rm -rf "$root"
    mkdir -p "$root"/{bin,proc,sys,dev,host,modules}
    cp "$(command -v busybox)" "$root/bin/busybox"
    cp "$here/init" "$root/init"
    module_files "$1" >"$folder/modules"
    grep -q '/rdma_rxe\.ko' "$folder/modules" || cannot "kernel $1 has no module rdma_rxe"
    while read -r file; do
        name=${file##*/}
        case $file in
        *.xz) xz -dc "$file" >"$root/modules/${name%.xz}" ;;
        *.zst) zstd -qdc "$file" >"$root/modules/${name%.zst}" ;;
        *) cp "$file" "$root/modules/$name" ;;
        esac
        echo "/modules/${name%%.ko*}.ko" >>"$root/modules/order"
    done <"$folder/modules"
    (cd "$root" && find . | cpio --quiet -o -H newc | gzip -1) >"$folder/initramfs.gz"
    rm -rf "$root"
}

[ "$(uname -m)" = x86_64 ] || cannot "the lab emulates x86-64 hosts, and this is $(uname -m)"
needs qemu-system-x86_64 qemu-system-x86
needs busybox busybox-static
needs cpio cpio
needs depmod kmod
needs apt-get apt
! ldd "$(command -v busybox)" >/dev/null 2>&1 || cannot "busybox is not static (package busybox-static)"

mkdir -p "$folder"
package=$(kernel_package)
[ -n "$package" ] || cannot "apt knows no kernel package, linux-image-amd64 or linux-image-generic"
if [ "$(cat "$folder/kernel.is" 2>/dev/null)" != "$package" ]; then
    echo "roce: unpack $package"
    rm -f "$folder/kernel.is" "$folder/initramfs.is"
    unpack_kernel "$package"
    cp "$folder/kernel/boot/vmlinuz-${package#linux-image-}" "$folder/vmlinuz"
    echo "$package" >"$folder/kernel.is"
fi
inputs=$(sha256sum "$folder/kernel.is" "$here/init" "$here/prepare.sh" "$(command -v busybox)" | sha256sum)
if [ "$(cat "$folder/initramfs.is" 2>/dev/null)" != "$inputs" ]; then
    pack_initramfs "${package#linux-image-}"
    echo "$inputs" >"$folder/initramfs.is"
fi
echo "roce: kernel ${package#linux-image-}"
