#!/bin/sh
# Installs, through apt and pip, the tools that the tests use and this machine lacks. Where that is not allowed it says
# what is missing; the tests that need it then count as skipped, loudly. In CI a missing tool is an error.
set -u
missing=""
need() { # need COMMAND PACKAGE
    command -v "$1" >/dev/null 2>&1 || missing="$missing $2"
}
need cc gcc
need strace strace
need curl curl
need promtool prometheus
need python3 python3
need fusermount3 fuse3
need valgrind valgrind
need openssl openssl
need man man-db
need ab apache2-utils
need hey hey
need wrk wrk
need node nodejs
need npm npm
python3 -c 'import venv, ensurepip' 2>/dev/null || missing="$missing python3-venv"

fail() {
    echo "SKIPPED: $1" >&2
    [ -z "${CI:-}" ] || exit 1
}

if [ -n "$missing" ]; then
    run=""
    [ "$(id -u)" = 0 ] || run="sudo -n"
    echo "installing:$missing"
    if ! { $run apt-get update -qq && DEBIAN_FRONTEND=noninteractive $run apt-get install -y -qq --no-install-recommends $missing; } >/dev/null; then
        fail "could not install:$missing (run 'apt-get install$missing' and try again)"
    fi
fi
