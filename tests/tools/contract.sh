#!/bin/sh
# Holds the running server against the document it serves: schemathesis reads /openapi.json and sends what it allows and
# what it forbids, to every engine, all checks on. CONTRACT_SEED and CONTRACT_EXAMPLES (per operation) take
# the place of what is fixed here.
# What it may accept and leave out stands, with its reasons, in contract.toml and contract_hooks.py.
set -eu
cd "$(dirname "$0")/../.."
VERSION=4.32.5
EXAMPLES=${CONTRACT_EXAMPLES:-15}
SEED=${CONTRACT_SEED:-20241121}
ENGINES=${TEST_ENGINES:-tiny_http,epoll}
VENV=target/schemathesis-$VERSION

WHAT="the contract was not tested"
. tests/tools/served.sh
venv "$VENV" "schemathesis==$VERSION"
build

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
        --checks all --max-examples "$EXAMPLES" --seed "$SEED" --generation-codec "$codec" \
        --generation-database none --request-timeout 20 --no-color || failed="$failed $engine"
    kill -0 "$server" 2>/dev/null || { echo "larder did not live through it" >&2; failed="$failed $engine"; }
    if grep -Eq 'not in the contract|panicked' "$folder/$engine/log"; then
        grep -E 'not in the contract|panicked' "$folder/$engine/log" | sort | uniq -c >&2
        failed="$failed $engine"
    fi
    stop
done
[ -z "$failed" ] || { echo "the contract does not hold on:$failed" >&2; exit 1; }
