#!/bin/sh
# ApacheBench (Debian: apache2-utils). Closed loop only: it cannot keep a rate, and its latencies leave out what waited.
#   examples/load/ab.sh health   10 000 requests by 100 connections on /health
#   examples/load/ab.sh users    100 connections for 30 s on one key
#   examples/load/ab.sh write    10 000 writes by 32 connections of one key
# LARDER_URL, LARDER_TOKEN; REQUESTS and SECONDS_MAX make it shorter.
# ab takes header fields as arguments only, which everybody on the machine can read: use a token for this run alone,
# `larder token add load --scope write --namespace load --expires 1h`.
set -eu
url="${LARDER_URL:-http://127.0.0.1:8080}"
requests="${REQUESTS:-10000}"
seconds="${SECONDS_MAX:-30}"
key="$url/api/v1/kv/load/ab/key"
# -l: a body may have another length each time, as that of /health has with its uptime.
set -- "${1:-health}" -k -q -l ${LARDER_TOKEN:+-H "Authorization: Bearer $LARDER_TOKEN"}
scenario=$1
shift
body="$(mktemp)"
trap 'rm -f "$body"' EXIT
printf '{"sensor": 1, "celsius": 21.5}' >"$body"
few() { if [ "$requests" -lt "$1" ]; then echo "$requests"; else echo "$1"; fi; }
case "$scenario" in
health) ab "$@" -n "$requests" -c "$(few 100)" "$url/health" ;;
users)
    ab "$@" -n 1 -u "$body" -T application/json "$key" >/dev/null
    # -t sets a count of 50 000; the -n after it takes that back.
    ab "$@" -t "$seconds" -n 100000000 -c 100 "$key"
    ;;
write) ab "$@" -n "$requests" -c "$(few 32)" -u "$body" -T application/json "$key" ;;
*) echo "ab.sh health|users|write" >&2; exit 2 ;;
esac
