#!/bin/sh
# `make test-32`: builds larder and its tests for 32 bits and runs them here: i686 runs on an x86-64 kernel as it is.
#   TEST_ARGS="--lib store" runs only those. What is missing is named, and is a failure.
# Not part of `make test`: the standard library and a linker for i686 are needed, and a second build of everything.
set -eu
target=i686-unknown-linux-gnu
cd "$(dirname "$0")/../.."
cargo=${CARGO:-cargo}

missing() {
    echo "test-32 did NOT run: $*" >&2
    exit 1
}

case $(uname -m) in
x86_64 | i?86) ;;
*) missing "programs for i686 do not run on $(uname -m)" ;;
esac
has_std() {
    [ -d "$(${RUSTC:-rustc} --print sysroot)/lib/rustlib/$target/lib" ]
}
if ! has_std && command -v rustup >/dev/null; then
    timeout 180 rustup target add "$target" || :
fi
has_std || missing "no standard library for $target: rustup target add $target, or set RUSTC to a compiler that has one"

linker=${CARGO_TARGET_I686_UNKNOWN_LINUX_GNU_LINKER:-i686-linux-gnu-gcc}
probe=$(mktemp -d)
trap 'rm -rf -- "$probe"' EXIT
echo 'int main(void) { return 0; }' | "$linker" -x c -o "$probe/probe" - 2>/dev/null ||
    missing "$linker cannot link: apt-get install gcc-i686-linux-gnu libc6-dev-i386-cross"
"$probe/probe" 2>/dev/null || missing "32-bit programs do not run here: apt-get install libc6-i386 lib32gcc-s1"

export CARGO_TARGET_I686_UNKNOWN_LINUX_GNU_LINKER="$linker"
# Its own folder: the debug build of this machine stays as it is. The tests find their larder in it by themselves.
# shellcheck disable=SC2086 # Several words.
"$cargo" test --locked --no-fail-fast --target "$target" --target-dir "${CARGO_TARGET_DIR:-target}" ${TEST_ARGS:-}
