#!/bin/sh
# Builds the release binary for a target triple and prints where it is: build-for.sh aarch64-unknown-linux-gnu
# A foreign target needs its standard library (rustup's or Debian's) and a linker; what is missing is named.
set -eu
target=$1
cd "$(dirname "$0")/.."
cargo=${CARGO:-cargo}
folder=${CARGO_TARGET_DIR:-target}

die() {
    echo "build-for: $*" >&2
    exit 1
}

has_std() { # has_std RUSTC: whether it can compile for the target
    [ -d "$("$1" --print sysroot)/lib/rustlib/$target/lib" ]
}

new_enough() { # new_enough RUSTC: whether it is at least the version that Cargo.toml asks for
    have=$("$1" --version | cut -d ' ' -f 2)
    [ "$(printf '%s\n%s\n' "$wanted" "$have" | sort -V | head -n 1)" = "$wanted" ]
}

command -v "$cargo" >/dev/null || die "there is no $cargo; install Rust from https://rustup.rs"
rustc=${RUSTC:-rustc}
if [ "$("$rustc" -vV | sed -n 's/^host: //p')" = "$target" ]; then
    "$cargo" build --release --locked >&2
    echo "$folder/release/larder"
    exit
fi

case $target in
aarch64-unknown-linux-gnu) gcc=aarch64-linux-gnu-gcc package=gcc-aarch64-linux-gnu debian=arm64 ;;
armv7-unknown-linux-gnueabihf) gcc=arm-linux-gnueabihf-gcc package=gcc-arm-linux-gnueabihf debian=armhf ;;
x86_64-unknown-linux-gnu) gcc=x86_64-linux-gnu-gcc package=gcc-x86-64-linux-gnu debian=amd64 ;;
*) die "no recipe for $target; build it by hand and deploy with BIN=path" ;;
esac
wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)

if ! has_std "$rustc"; then
    if command -v rustup >/dev/null && timeout 180 rustup target add "$target" >&2 && has_std "$rustc"; then
        :
    elif [ -x /usr/bin/rustc ] && new_enough /usr/bin/rustc && has_std /usr/bin/rustc; then
        echo "build-for: using Debian's $(/usr/bin/rustc --version)" >&2
        RUSTC=/usr/bin/rustc
        export RUSTC
    else
        die "no standard library for $target. One of these gives it:
  rustup target add $target
  dpkg --add-architecture $debian && apt-get update && apt-get install rustc-web libstd-rust-web-dev:$debian   # needs Rust $wanted
or build on the board itself and deploy with BIN=path"
    fi
fi

variable=CARGO_TARGET_$(echo "$target" | tr 'a-z-' 'A-Z_')_LINKER
linker=$(printenv "$variable" || echo "$gcc")
# Found out now, not at the end of a long build.
echo 'int main(void) { return 0; }' | "$linker" -x c -o /dev/null - 2>/dev/null ||
    die "$linker cannot link for $target: apt-get install $package libc6-dev-$debian-cross (or set $variable)"
export "$variable=$linker"
"$cargo" build --release --locked --target "$target" >&2
echo "$folder/$target/release/larder"
