# A larder that serves for the tools beside this file, which read this in: skip, start, stop, venv. They stand in the
# root of the repository, and may set WHAT, which a skipped test is called.
LARDER=${LARDER_BINARY:-target/debug/larder}
GIVEN=${LARDER_BINARY:-}
# larder takes what begins with LARDER_ for a setting.
unset LARDER_BINARY

skip() {
    echo "SKIPPED: $WHAT: $1" >&2
    [ -z "${CI:-}" ] || exit 1
    exit 0
}

venv() { # venv FOLDER PACKAGE==VERSION…: a virtual environment with these, made once
    made=$1
    shift
    [ ! -x "$made/bin/python" ] || return 0
    command -v python3 >/dev/null || skip "there is no python3"
    rm -rf "$made.new" "$made"
    python3 -m venv "$made.new" || skip "python3 has no venv (apt-get install python3-venv)"
    "$made.new/bin/python" -m pip install --quiet --disable-pip-version-check "$@" || skip "$* could not be installed"
    # A virtual environment that is moved has scripts which name its old place: only its python is used.
    mv "$made.new" "$made"
}

build() {
    [ -n "$GIVEN" ] || ${CARGO:-cargo} build --locked --quiet
}

folder=$(mktemp -d)
server=""
cleanup() {
    if [ -n "$server" ]; then kill "$server" 2>/dev/null || true; wait "$server" 2>/dev/null || true; fi
    rm -rf "$folder"
}
stop() {
    kill "$server" 2>/dev/null || true
    wait "$server" 2>/dev/null || true
    server=""
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
