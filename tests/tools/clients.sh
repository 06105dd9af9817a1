#!/bin/sh
# Makes clients from the served /openapi.json, as people do: openapi-python-client, and openapi-typescript with
# openapi-fetch. What they warn of is known by name; every module of the one is loaded, the other is compiled strictly;
# and both do the same operations on a running larder (clients/). Everything is installed under target/.
set -eu
cd "$(dirname "$0")/../.."
PYTHON_CLIENT=0.29.1
SPEC_VALIDATOR=0.9.0
TYPESCRIPT_CLIENT="openapi-typescript@7.13.0 openapi-fetch@0.17.0 typescript@5.9.3"
VENV=target/openapi-python-client-$PYTHON_CLIENT
NODE=target/openapi-typescript-7.13.0
HERE=$PWD/tests/tools/clients

WHAT="no clients were generated"
. tests/tools/served.sh
venv "$VENV" "openapi-python-client==$PYTHON_CLIENT" "openapi-spec-validator==$SPEC_VALIDATOR"
if [ ! -d "$NODE" ]; then
    command -v npm >/dev/null || skip "there is no npm"
    rm -rf "$NODE.new"
    mkdir -p "$NODE.new"
    # shellcheck disable=SC2086 # one word a package
    npm install --prefix "$NODE.new" --no-audit --no-fund --no-save --loglevel error $TYPESCRIPT_CLIENT >&2 \
        || skip "$TYPESCRIPT_CLIENT could not be installed"
    mv "$NODE.new" "$NODE"
fi
build
start "${CLIENTS_ENGINE:-tiny_http}"
PYTHON=$PWD/$VENV/bin/python
NODE=$PWD/$NODE
URL=$url
export URL
cd "$folder"
"$PYTHON" -c 'import os, urllib.request; open("openapi.json", "wb").write(urllib.request.urlopen(os.environ["URL"] + "/openapi.json").read())'
"$PYTHON" -m openapi_spec_validator openapi.json

# A client cannot have two forms of one body, nor lines; for both it has the other form.
KNOWN='Unsupported content type (text/plain|application/x-ndjson)$|Missing schema$|\(Unsupported content_type application/x-ndjson\)'
echo "== a Python client of openapi-python-client $PYTHON_CLIENT =="
"$PYTHON" -m openapi_python_client generate --path openapi.json --meta none --output-path larder_client >made 2>&1 \
    || { cat made >&2; exit 1; }
said='Unsupported|Unable|Missing|Cannot|removal|not be generated'
if grep -E "$said" made | grep -Ev "$KNOWN" >&2; then
    echo "openapi-python-client leaves something out" >&2
    exit 1
fi
cp "$HERE/client.py" .
"$PYTHON" client.py

echo "== a TypeScript client of $TYPESCRIPT_CLIENT =="
mkdir typescript
cp "$HERE/client.ts" typescript/
echo '{ "type": "module" }' >typescript/package.json
ln -s "$NODE/node_modules" typescript/node_modules
"$NODE/node_modules/.bin/openapi-typescript" openapi.json --output typescript/larder.d.ts >made 2>&1 || { cat made >&2; exit 1; }
cd typescript
"$NODE/node_modules/.bin/tsc" --strict --target es2022 --module nodenext --lib es2022,dom client.ts
node client.js
