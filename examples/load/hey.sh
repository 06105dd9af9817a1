#!/bin/sh
# hey (Debian: hey). Rates are limits for each worker, so that a stall lowers the rate: latencies leave out what waited.
#   examples/load/hey.sh steady    100 reads a second for 30 s
#   examples/load/hey.sh health    10 000 requests by 100 connections on /health
#   examples/load/hey.sh users     100 connections for 30 s on one key
#   examples/load/hey.sh growing   100, 500 and 1 000 reads a second for 60, 120 and 180 s
#   examples/load/hey.sh spike     100 a second for 20 s, 1 000 for 10 s, 100 for 30 s
# LARDER_URL, LARDER_TOKEN; REQUESTS and SECONDS_MAX (of each step) make it shorter.
# hey takes header fields as arguments only, which everybody on the machine can read: use a token for this run alone,
# `larder token add load --scope write --namespace load --expires 1h`.
set -eu
url="${LARDER_URL:-http://127.0.0.1:8080}"
requests="${REQUESTS:-10000}"
key="$url/api/v1/kv/load/hey/key"
set -- "${1:-steady}" ${LARDER_TOKEN:+-H "Authorization: Bearer $LARDER_TOKEN"}
scenario=$1
shift
short() { if [ "$1" -gt "${SECONDS_MAX:-$1}" ]; then echo "$SECONDS_MAX"; else echo "$1"; fi; }
run_rate() {
    per_second=$1
    seconds="$(short "$2")"
    echo "== $per_second a second for $seconds s"
    hey ${LARDER_TOKEN:+-H "Authorization: Bearer $LARDER_TOKEN"} -z "${seconds}s" -c 10 -q "$((per_second / 10))" "$key"
}
hey "$@" -n 1 -c 1 -m PUT -T application/json -d '{"sensor": 1, "celsius": 21.5}' "$key" >/dev/null
case "$scenario" in
steady) run_rate 100 30 ;;
health)
    workers=100
    [ "$requests" -ge 100 ] || workers=$requests
    hey "$@" -n "$requests" -c "$workers" "$url/health"
    ;;
users) hey "$@" -z "$(short 30)s" -c 100 "$key" ;;
growing)
    run_rate 100 60
    run_rate 500 120
    run_rate 1000 180
    ;;
spike)
    run_rate 100 20
    run_rate 1000 10
    run_rate 100 30
    ;;
*) echo "hey.sh steady|health|users|growing|spike" >&2; exit 2 ;;
esac
