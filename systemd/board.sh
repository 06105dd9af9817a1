#!/bin/sh
# The half of a deploy that runs on the board, as root: board.sh deploy|rollback ENGINE TUNE WAIT_SECONDS
#
# Invariant: the files of a version (binary, units, engine drop-in) change together, by renames. Until /health has
# answered, the version before stands beside them as *.old and comes back if it does not; afterwards it is *.previous.
set -u
# A connection that breaks must not stop this half-way.
trap '' HUP PIPE
action=$1 engine=$2 tune=$3 wait=$4
here=$(cd "$(dirname "$0")" && pwd)
program=/usr/local/bin/larder
units=/etc/systemd/system
dropin=$units/larder.service.d/10-engine.conf
files="$program $units/larder.service $units/larder.socket $dropin"
config=/etc/larder/larder.toml

say() {
    printf '%s\n' "$*" 2>/dev/null || :
}

die() {
    printf 'deploy: %s\n' "$*" >&2 2>/dev/null || :
    exit 1
}

cleanup() {
    for file in $files; do
        rm -f -- "$file.new"
    done
    case $here in /tmp/larder-deploy.*) rm -rf -- "$here" ;; esac
}

property() {
    systemctl show -p "$1" --value larder.service
}

version() {
    "$1" --version 2>/dev/null || echo "an unknown version"
}

# Where larder told systemd that it listens; an address for all of the board becomes one to ask at.
address() {
    property StatusText | grep -oE '(http://|unix:)[^ ,]+' | head -n 1 |
        sed -e 's|//0\.0\.0\.0:|//127.0.0.1:|' -e 's|//\[::\]:|//[::1]:|'
}

# The status of /health: 200, 503, or nothing if there is no answer.
health() {
    url=$(address)
    case $url in
    unix:*)
        curl -s -m 5 -o /dev/null -w '%{http_code}' --unix-socket "${url#unix:}" http://localhost/health 2>/dev/null
        ;;
    http://*)
        # Small boards often have no curl; bash is always there.
        port=${url##*:} host=${url#http://}
        host=${host%:*} host=${host#[} host=${host%]}
        # shellcheck disable=SC2016 # The inner bash expands them.
        timeout 5 bash -c 'exec 3<>"/dev/tcp/$0/$1" || exit
            printf "GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n" >&3
            IFS=" " read -r _ status _ <&3 && echo "$status"' "$host" "$port" 2>/dev/null
        ;;
    esac
}

# Waits for /health of the program that is installed now. $1: the worst status that will do.
healthy() {
    waited=0
    while [ "$waited" -lt "$wait" ]; do
        case $(property ActiveState) in
        active)
            if [ "$(readlink "/proc/$(property MainPID)/exe")" = "$program" ]; then
                status=$(health)
                [ "$status" = 200 ] && return 0
                [ "$status" = 503 ] && [ "$1" = 503 ] && return 0
            fi
            ;;
        failed) return 1 ;;
        esac
        # It came up and fell three times: it will not do better.
        [ "$(property NRestarts)" -lt 3 ] || return 1
        sleep 1
        waited=$((waited + 1))
    done
    return 1
}

start() { # start WORST_STATUS
    systemctl daemon-reload || return 1
    systemctl reset-failed larder.service 2>/dev/null
    systemctl enable -q larder.service || return 1
    # Its own result says less than /health: a start that fails is tried again by systemd.
    timeout "$wait" systemctl restart larder.service 2>/dev/null
    healthy "$1"
}

restore() {
    for file in $files; do
        if [ -e "$file.old" ]; then mv -f -- "$file.old" "$file"; else rm -f -- "$file"; fi
    done
}

# Puts every *.new in place ($1: and removes these), and takes all of it back if /health does not come.
switch() {
    before=
    [ "$(property ActiveState)" != active ] || before=$(health)
    worst=200
    if [ "$before" = 503 ]; then
        worst=503
        say "note: /health was 503 before, so 503 is accepted now"
    fi
    # IMPORTANT: all ways back exist before the first file changes.
    for file in $files; do
        rm -f -- "$file.old"
        if [ -e "$file" ]; then ln -- "$file" "$file.old" || die "cannot keep $file; nothing was changed"; fi
    done
    for file in $files; do
        if [ -e "$file.new" ]; then mv -f -- "$file.new" "$file"; fi
    done
    for file in $1; do
        rm -f -- "$file"
    done
    sync
    if start "$worst"; then
        for file in $files; do
            rm -f -- "$file.previous"
            if [ -e "$file.old" ]; then mv -f -- "$file.old" "$file.previous"; fi
        done
        sync
        return
    fi
    say "/health did not come; the last lines of the log:"
    journalctl -u larder.service -n 15 --no-pager -o cat 2>/dev/null | sed 's/^/  | /'
    if [ ! -e "$program.old" ]; then
        systemctl disable -q --now larder.service 2>/dev/null
        restore
        systemctl daemon-reload
        die "$(hostname) had no larder before: the service is stopped and removed, its data and configuration stay"
    fi
    restore
    sync
    if start 503; then
        die "the new one was refused; $(version "$program") is back and answers"
    fi
    die "the new one was refused, and $(version "$program"), which is back, does not answer either: see journalctl -u larder"
}

tell() {
    say "$(version "$program") runs: $(address), /health $(health)"
    if [ -e "$program.previous" ]; then say "before it: $(version "$program.previous"), kept as $program.previous"; fi
    if [ -e /sys/fs/cgroup/cgroup.controllers ] && ! grep -qw memory /sys/fs/cgroup/cgroup.controllers; then
        say "note: this kernel does not limit memory; on a Raspberry Pi add cgroup_enable=memory to cmdline.txt"
    fi
    case $(address) in
    http://127.* | http://\[::1\]*)
        say "only this board can reach it; for others: larder token add NAME --scope admin, then server.listen in $config"
        ;;
    esac
}

# Copies one of the files that came along, with the folder it goes to.
put() {
    install -D -m 644 -- "$here/$1" "$2" || die "cannot write $2; larder runs on as it was"
}

tune_board() {
    put larder-sysctl.conf /etc/sysctl.d/60-larder.conf
    put larder-journald.conf /etc/systemd/journald.conf.d/60-larder.conf
    sysctl -q -p /etc/sysctl.d/60-larder.conf || say "note: the kernel took not all of /etc/sysctl.d/60-larder.conf"
    systemctl try-restart systemd-journald.service
}

# Brings the new files beside the old ones and refuses what cannot work, before anything is interrupted.
stage() {
    put larder "$program.new"
    chmod 755 "$program.new"
    put larder.service "$units/larder.service.new"
    put larder.socket "$units/larder.socket.new"
    if [ -n "$engine" ]; then
        mkdir -p "${dropin%/*}"
        printf '# make deploy ENGINE=%s; stronger than server.engine in %s.\n[Service]\nEnvironment=LARDER_SERVER_ENGINE=%s\n' \
            "$engine" "$config" "$engine" >"$dropin.new" || die "cannot write $dropin; nothing was changed"
    fi
    # A file that was half written when the power went must not be what the board boots.
    sync
    reason=$("$program.new" --version 2>&1 >/dev/null) ||
        die "the binary does not run on this board; nothing was changed
  $reason"
    [ -e "$config" ] || put larder.toml "$config"
    reason=$(LARDER_CONFIG=$config "$program.new" check 2>&1 >/dev/null) ||
        die "the configuration on the board does not suit $(version "$program.new"); nothing was changed
  $reason"
}

deploy() {
    stage
    changed=
    for file in $files; do
        if [ -e "$file.new" ] && ! cmp -s -- "$file.new" "$file"; then changed=yes; fi
    done
    [ -z "$tune" ] || tune_board
    if [ -z "$changed" ] && [ "$(property ActiveState)" = active ] && [ "$(health)" = 200 ]; then
        say "nothing to do: the board has these very files"
    elif [ -z "$changed" ]; then
        start 200 || die "the board has these very files, but /health does not come: see journalctl -u larder"
    else
        switch ""
    fi
    tell
}

rollback() {
    [ -e "$program.previous" ] || die "there is no $program.previous to go back to"
    gone=
    for file in $files; do
        if [ -e "$file.previous" ]; then
            cp -p -- "$file.previous" "$file.new" || die "cannot copy $file.previous; nothing was changed"
        else
            gone="$gone $file"
        fi
    done
    switch "$gone"
    tell
}

exec 9>/run/larder-deploy.lock
flock -n 9 || die "another deploy is under way on this board"
trap cleanup EXIT
# A deploy that lost its power half-way: what it left as *.old is what one would go back to.
if [ -e "$program.old" ]; then
    say "note: an earlier deploy did not come to its end"
    for file in $files; do
        if [ -e "$file.old" ]; then mv -f -- "$file.old" "$file.previous"; fi
    done
fi
case $action in
deploy | rollback) "$action" ;;
*) die "unknown action $action" ;;
esac
