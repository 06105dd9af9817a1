#!/bin/sh
# vegeta (github.com/tsenart/vegeta). Open loop: 70 % reads and 30 % writes of 100 keys at a rate.
#   examples/load/vegeta.sh steady    100 a second for 30 s
#   examples/load/vegeta.sh growing   100, 500 and 1 000 a second for 60, 120 and 180 s
#   examples/load/vegeta.sh arrivals  10, 50 and 100 a second for 60, 120 and 300 s (vegeta knows no pauses)
#   examples/load/vegeta.sh spike     100 a second for 20 s, 1 000 for 10 s, 100 for 30 s
#   examples/load/vegeta.sh stress    250 a second more every 5 s, until p99 is above 50 ms
#   examples/load/vegeta.sh soak      200 a second for four hours
# LARDER_URL, LARDER_TOKEN; SECONDS_MAX (of each step) makes it shorter.
set -eu
url="${LARDER_URL:-http://127.0.0.1:8080}"
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
printf '{"sensor": 1, "celsius": 21.5}' >"$folder/body"
target() {
    echo "$1 $url/api/v1/kv/load/vegeta/k$2"
    [ -z "${LARDER_TOKEN:-}" ] || echo "Authorization: Bearer $LARDER_TOKEN"
    [ "$1" = GET ] || printf 'Content-Type: application/json\n@%s/body\n' "$folder"
    echo
}
number=0
while [ "$number" -lt 100 ]; do
    target PUT "$number" >>"$folder/fill"
    if [ "$((number % 10))" -lt 3 ]; then target PUT "$number"; else target GET "$number"; fi >>"$folder/targets"
    number=$((number + 1))
done
short() { if [ "$1" -gt "${SECONDS_MAX:-$1}" ]; then echo "$SECONDS_MAX"; else echo "$1"; fi; }
rate() { # rate PER_SECOND SECONDS
    echo "== $1 a second for $(short "$2") s"
    vegeta attack -targets "$folder/targets" -rate "$1" -duration "$(short "$2")s" >"$folder/results"
    vegeta report "$folder/results"
}
vegeta attack -targets "$folder/fill" -rate 100 -duration 1s >/dev/null
case "${1:-steady}" in
steady) rate 100 30 ;;
growing) rate 100 60 && rate 500 120 && rate 1000 180 ;;
arrivals) rate 10 60 && rate 50 120 && rate 100 300 ;;
spike) rate 100 20 && rate 1000 10 && rate 100 30 ;;
soak) rate 200 14400 ;;
stress)
    per_second=250
    while [ "$per_second" -le 20000 ]; do
        rate "$per_second" 5
        p99_ns="$(vegeta report -type json "$folder/results" | sed 's/.*"99th":\([0-9]*\).*/\1/')"
        if [ "$p99_ns" -gt 50000000 ]; then
            echo "knee: $((per_second - 250)) a second"
            exit 0
        fi
        per_second=$((per_second + 250))
    done
    ;;
*) echo "vegeta.sh steady|growing|arrivals|spike|stress|soak" >&2; exit 2 ;;
esac
