#!/bin/sh
# A whole client session with curl: write, read, guard an update, count, patch, batch, list, delete.
# Usage: session.sh [http://127.0.0.1:8080]     (a token goes into LARDER_TOKEN)
set -eu
base=${1:-http://127.0.0.1:8080}
kv=$base/api/v1/kv/demo/session
# Arguments show in the process list, and so the token comes to curl in a file that only its owner reads.
fields=$(mktemp)
trap 'rm -f "$fields"' EXIT
trap 'exit 1' HUP INT TERM
[ -z "${LARDER_TOKEN:-}" ] || printf 'Authorization: Bearer %s\n' "$LARDER_TOKEN" >"$fields"
c() { curl -sS --fail-with-body --max-time 20 -H "@$fields" "$@"; }
tag_of() { c -o /dev/null -D - "$1" | tr -d '\r' | sed -n 's/^ETag: //p'; }

echo "write and read"
c -X PUT "$kv/greeting" -H 'Content-Type: text/plain' -d 'hello'
test "$(c "$kv/greeting")" = hello

echo "change it only if nobody else did"
tag=$(tag_of "$kv/greeting")
c -X PUT "$kv/greeting" -H 'Content-Type: text/plain' -H "If-Match: $tag" -d 'hello again'
status=$(curl -sS -o /dev/null -w '%{http_code}' -H "@$fields" \
    -X PUT "$kv/greeting" -H "If-Match: $tag" -d 'too late')
test "$status" = 412

echo "count, patch, batch"
c -X POST "$kv/visits/incr" -H 'Content-Type: application/json' -d '{"by": 2}' >/dev/null
c -X PATCH "$kv/profile" -H 'Content-Type: application/merge-patch+json' -d '{"name": "Ada", "room": "attic"}' >/dev/null
c -X POST "$base/api/v1/batch" -H 'Content-Type: application/json' -d '{
    "namespace": "demo", "collection": "session",
    "operations": [{"op": "set", "key": "a", "value": 1}, {"op": "set", "key": "b", "value": 2}, {"op": "get", "key": "profile"}]
}' >/dev/null

echo "list"
c "$kv?limit=100"
echo

echo "clean up"
c -X DELETE "$kv" >/dev/null
echo done
