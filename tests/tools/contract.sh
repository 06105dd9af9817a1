#!/bin/sh
# Holds the running server against the document it serves: schemathesis reads /openapi.json and sends what it allows and
# what it forbids, to every engine, all checks on. A fixed seed; CONTRACT_EXAMPLES says how many per operation.
# What it may accept and leave out stands, with its reasons, in contract.toml and contract_hooks.py.
set -eu
cd "$(dirname "$0")/../.."
VERSION=4.32.5
EXAMPLES=${CONTRACT_EXAMPLES:-15}
ENGINES=${TEST_ENGINES:-tiny_http,epoll}
LARDER=${LARDER_BINARY:-target/debug/larder}
GIVEN=${LARDER_BINARY:-}
# larder takes what begins with LARDER_ for a setting.
unset LARDER_BINARY
VENV=target/schemathesis-$VERSION

skip() {
    echo "SKIPPED: the contract was not tested: $1" >&2
    [ -z "${CI:-}" ] || exit 1
    exit 0
}

if [ ! -x "$VENV/bin/schemathesis" ]; then
    command -v python3 >/dev/null || skip "there is no python3"
    rm -rf "$VENV.new" "$VENV"
    python3 -m venv "$VENV.new" || skip "python3 has no venv (apt-get install python3-venv)"
    "$VENV.new/bin/python" -m pip install --quiet --disable-pip-version-check "schemathesis==$VERSION" \
        || skip "schemathesis $VERSION could not be installed"
    # A virtual environment that is moved has scripts which name its old place: only its python is used.
    mv "$VENV.new" "$VENV"
fi
[ -n "$GIVEN" ] || ${CARGO:-cargo} build --locked --quiet

folder=$(mktemp -d)
server=""
cleanup() {
    if [ -n "$server" ]; then kill "$server" 2>/dev/null || true; wait "$server" 2>/dev/null || true; fi
    rm -rf "$folder"
}
trap cleanup EXIT
trap 'exit 1' INT TERM

start() { # start ENGINE: sets $server and $url
    data=$folder/$1
    mkdir -p "$data" "$folder/www"
    echo '<!doctype html><title>a page</title>' >"$folder/www/index.html"
    printf '[auth]\ntokens_file = "%s/tokens"\n[www]\ndir = "%s/www"\n[store]\nreserve = "0"\n' "$data" "$folder" >"$data/larder.toml"
    TOKEN=$("$LARDER" token add --config "$data/larder.toml" --scope admin contract 2>/dev/null)
    export TOKEN
    : >"$data/out"
    "$LARDER" serve --config "$data/larder.toml" --listen 127.0.0.1:0 --engine "$1" --data "$data/data" \
        >"$data/out" 2>"$data/log" &
    server=$!
    for _ in $(seq 200); do
        url=$(sed -n 's/^larder listening on //p' "$data/out")
        [ -z "$url" ] || return 0
        kill -0 "$server" 2>/dev/null || break
        sleep 0.1
    done
    cat "$data/log" >&2
    echo "larder did not start on $1" >&2
    exit 1
}

failed=""
for engine in $(echo "$ENGINES" | tr , ' '); do
    start "$engine"
    # tiny_http takes no bytes beyond ASCII in a head, which are 400 there, so they stay within it.
    codec=utf-8
    [ "$engine" != tiny_http ] || codec=ascii
    export CONTRACT_CODEC=$codec
    echo "== the contract on $engine, $EXAMPLES examples an operation =="
    SCHEMATHESIS_HOOKS=contract_hooks PYTHONPATH=tests/tools "$VENV/bin/python" -m schemathesis.cli \
        --config-file tests/tools/contract.toml run "$url/openapi.json" \
        --checks all --max-examples "$EXAMPLES" --seed 20241121 --generation-codec "$codec" \
        --generation-database none --request-timeout 20 --no-color || failed="$failed $engine"
    kill -0 "$server" 2>/dev/null || { echo "larder did not live through it" >&2; failed="$failed $engine"; }
    if grep -Eq 'not in the contract|panicked' "$folder/$engine/log"; then
        grep -E 'not in the contract|panicked' "$folder/$engine/log" | sort | uniq -c >&2
        failed="$failed $engine"
    fi
    kill "$server" 2>/dev/null || true
    wait "$server" 2>/dev/null || true
    server=""
done
[ -z "$failed" ] || { echo "the contract does not hold on:$failed" >&2; exit 1; }
