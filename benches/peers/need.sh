#!/bin/sh
# Installs and builds what the comparison needs: Debian packages, our Go and Rust peers, npm for the Node one.
# Everything it builds goes under target/; run it again and it does only what is missing.
set -eu
cd "$(dirname "$0")/../.."
PROFILE=${PROFILE:-release}
OUT=target/peers
mkdir -p "$OUT"

missing=
need() { # command or file, package
    command -v "$1" >/dev/null 2>&1 || [ -e "$1" ] || missing="$missing $2"
}
need wrk wrk
need nginx nginx-light
need redis-server redis-server
need webdis webdis
need etcd etcd-server
need caddy caddy
need go golang-go
need npm npm
need fusermount3 fuse3
need ss iproute2
need taskset util-linux
need /usr/share/gocode/src/github.com/gin-gonic/gin golang-github-gin-gonic-gin-dev
need /usr/share/gocode/src/go.etcd.io/bbolt golang-github-coreos-bbolt-dev
if [ -n "$missing" ]; then
    echo "installing:$missing" >&2
    # shellcheck disable=SC2086
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $missing >&2
fi

(cd benches/peers/gin-bbolt && GO111MODULE=off GOPATH=/usr/share/gocode GOCACHE="$OLDPWD/target/go-cache" \
    go build -o "$OLDPWD/$OUT/gin-bbolt" .)
CARGO_TARGET_DIR=target/peers-axum cargo build --quiet --release --locked \
    --manifest-path benches/peers/axum-fjall/Cargo.toml
cp target/peers-axum/release/axum-fjall "$OUT/"
mkdir -p "$OUT/express"
cp benches/peers/express/server.js benches/peers/express/package.json benches/peers/express/package-lock.json "$OUT/express/"
[ -d "$OUT/express/node_modules/express" ] || (cd "$OUT/express" && npm ci --no-audit --no-fund --silent)
cargo build --quiet --profile "$PROFILE" --bin larder
cargo build --quiet --profile fast --example card
