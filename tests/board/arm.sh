#!/bin/bash
# `make test-arm`: boots a 64-bit ARM board with 512 MB and four cores in QEMU, with an ext4 card, and runs larder there:
# writes, a kill, a power cut, a clean stop. BIN=path takes that binary instead of cross-building the release.
# Debian: qemu-system-arm cpio kmod e2fsprogs, and `dpkg --add-architecture arm64` for the kernel and C library it downloads.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
top=$(cd "$here/../.." && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/larder-board/arm
boot_seconds=300

die() {
    printf 'arm: %s\n' "$*" >&2
    exit 1
}

for tool in qemu-system-aarch64 cpio depmod mkfs.ext4 dpkg-deb; do
    command -v "$tool" >/dev/null || PATH=$PATH:/usr/sbin:/sbin command -v "$tool" >/dev/null || die "there is no $tool"
done
PATH=$PATH:/usr/sbin:/sbin
if [ -z "${BIN:-}" ]; then
    BIN=$("$top/systemd/build-for.sh" aarch64-unknown-linux-gnu)
    case $BIN in /*) ;; *) BIN=$top/$BIN ;; esac
fi

# What Debian has of the board: kernel, C library, shell.
if [ ! -d "$cache/system" ]; then
    echo "fetching the board's kernel and libraries into $cache (once)"
    rm -rf -- "$cache"
    mkdir -p -- "$cache/packages"
    kernel=$(apt-cache depends linux-image-cloud-arm64:arm64 | sed -n 's/.*Depends: \(linux-image[^:]*\).*/\1/p' | head -n 1)
    [ -n "$kernel" ] || die "apt knows no kernel for arm64: dpkg --add-architecture arm64 && apt-get update"
    (cd "$cache/packages" && apt-get download -qq "$kernel:arm64" busybox-static:arm64 libc6:arm64 libgcc-s1:arm64)
    for package in "$cache"/packages/*.deb; do
        dpkg-deb -x "$package" "$cache/system.new"
    done
    mv -- "$cache/system.new" "$cache/system"
fi

run=$(mktemp -d)
trap 'rm -rf -- "$run"' EXIT
system=$cache/system
release=$(basename "$system"/lib/modules/*)
root=$run/root
mkdir -p "$root"/{bin,proc,sys,dev,data,tmp,lib/modules}
cp -- "$system/bin/busybox" "$root/bin/"
cp -aL -- "$system/lib/aarch64-linux-gnu" "$system/lib/ld-linux-aarch64.so.1" "$root/lib/"
install -m 755 -- "$BIN" "$root/bin/larder"
install -m 755 -- "$here/arm-init" "$root/init"
mkdir -p "$root/lib/modules/$release/kernel/drivers" "$root/lib/modules/$release/kernel/fs" "$root/lib/modules/$release/kernel/arch"
for part in drivers/virtio drivers/block fs/ext4 fs/jbd2 fs/mbcache.ko lib crypto arch/arm64; do
    from=$system/lib/modules/$release/kernel/$part
    [ ! -e "$from" ] || { mkdir -p "$root/lib/modules/$release/kernel/$(dirname "$part")" && cp -a -- "$from" "$root/lib/modules/$release/kernel/$part"; }
done
cp -- "$system/lib/modules/$release"/modules.{order,builtin,builtin.modinfo} "$root/lib/modules/$release/"
depmod -b "$root" "$release"
(cd "$root" && find . | cpio -o -H newc --quiet | gzip -1) >"$run/initramfs"
truncate -s 1G "$run/card"
mkfs.ext4 -q "$run/card"

# boot SCRIPT_PART: one life of the board, its console on the standard output and in a file.
boot() {
    timeout "$boot_seconds" qemu-system-aarch64 -M virt -cpu cortex-a72 -smp 4 -m 512 -nographic -nodefaults -serial stdio \
        -no-reboot -kernel "$system/boot/vmlinuz-$release" -initrd "$run/initramfs" \
        -append "console=ttyAMA0 quiet panic=-1 larder.part=$1" \
        -drive "file=$run/card,if=none,id=card,format=raw" -device virtio-blk-device,drive=card </dev/null |
        tr -d '\r' | tee "$run/console"
    grep -q "^part $1: all well" "$run/console" || die "the board did not get through part $1"
}

boot first
boot second
echo "larder runs on a 64-bit ARM board"
