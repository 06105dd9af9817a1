#!/bin/sh
# The half of a deploy that runs on the board, as root: board.sh deploy|rollback ENGINE TUNE WAIT_SECONDS ADDRESS UNDO
# ADDRESS is the board's, as the network has it; UNDO the command that takes this deploy back.
#
# Invariant: the files of a version (binary, units, engine drop-in) change together, by renames. Until /health has
# answered, the version before stands beside them as *.old and comes back if it does not, with the sockets and states
# of its units; afterwards it is *.previous. What the board's owner has changed in a unit stays: a copy of what was
# installed last tells it apart.
set -u
# A connection that breaks must not stop this half-way.
trap '' HUP PIPE
action=$1 engine=$2 tune=$3 wait=$4 board_address=$5 undo=$6
here=$(cd "$(dirname "$0")" && pwd)
program=/usr/local/bin/larder
units=/etc/systemd/system
dropin=$units/larder.service.d/10-engine.conf
shipped=/usr/local/lib/larder
sysctl=/etc/sysctl.d/60-larder.conf
journald=/etc/systemd/journald.conf.d/60-larder.conf
files="$program $units/larder.service $units/larder.socket $dropin $shipped/larder.service $shipped/larder.socket"
config=/etc/larder/larder.toml
# Found out on the way: files of the owner that stay, the sockets that larder is given, and as what they were opened.
kept='' sockets='' sockets_text=''

say() {
    printf '%s\n' "$*" 2>/dev/null || :
}

die() {
    printf 'deploy: %s\n' "$*" >&2 2>/dev/null || :
    exit 1
}

cleanup() {
    for file in $files "$sysctl" "$journald" "$shipped/larder-sysctl.conf" "$shipped/larder-journald.conf"; do
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

now() {
    cut -d . -f 1 /proc/uptime
}

# Where larder told systemd that it listens.
addresses() {
    property StatusText | grep -oE '(http://|unix:)[^ ,]+'
}

# The status of /health: 200, 503, or nothing if there is no answer. It is asked at each address in turn, since larder
# also waits for addresses that the board does not have now; an address for all of the board is asked at home.
health() {
    addresses | sed -e 's|//0\.0\.0\.0:|//127.0.0.1:|' -e 's|//\[::\]:|//[::1]:|' | while read -r url; do
        status=$(health_at "$url")
        case $status in
        200 | 503) echo "$status" && break ;;
        esac
    done
}

health_at() { # health_at URL
    case $1 in
    unix:*)
        curl -s -m 5 -o /dev/null -w '%{http_code}' --unix-socket "${1#unix:}" http://localhost/health 2>/dev/null
        ;;
    http://*)
        # Small boards often have no curl; bash is always there.
        port=${1##*:} host=${1#http://}
        host=${host%:*} host=${host#[} host=${host%]}
        # shellcheck disable=SC2016 # The inner bash expands them.
        timeout 5 bash -c 'exec 3<>"/dev/tcp/$0/$1" || exit
            printf "GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n" >&3
            IFS=" " read -r _ status _ <&3 && echo "$status"' "$host" "$port" 2>/dev/null </dev/null
        ;;
    esac
}

# Waits for /health of the program that is installed now. $1: the worst status that will do, $2: for how many seconds.
healthy() {
    end=$(($(now) + $2))
    while :; do
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
        [ "$(now)" -lt "$end" ] || return 1
        sleep 1
    done
}

# Which sockets of systemd larder is given, and how they stand in their files. $1: what `larder check` says.
find_sockets() {
    case $(printf '%s\n' "$1" | grep '^server.listen ') in
    '' | *fd://*) ;;
    *) return ;;
    esac
    for socket in $(echo larder.socket "$(property TriggeredBy)" | tr ' ' '\n' | grep '\.socket$' | sort -u); do
        case $(systemctl is-active "$socket" 2>/dev/null)/$(systemctl is-enabled "$socket" 2>/dev/null) in
        active/* | failed/* | */enabled) sockets="$sockets $socket" ;;
        esac
    done
    [ -n "$sockets" ] || return
    # shellcheck disable=SC2086 # They are several words, here and below.
    case $(systemctl show -p NeedDaemonReload --value $sockets) in
    *yes*) ;; # Edited, and not read yet: what is open is not what stands there.
    *) sockets_text=$(systemctl cat $sockets) ;;
    esac
}

# Whether somebody listens wherever the sockets say. larder is stopped, so that it can only be systemd.
sockets_are_open() {
    # shellcheck disable=SC2086
    systemctl show -p Listen --value $sockets | sed -n 's/ (Stream)$//p' | while read -r address; do
        case $address in
        /* | @*) grep -q -- " $address\$" /proc/net/unix ;;
        *) grep -qs ": [0-9A-F]*:$(printf %04X "${address##*:}") [0-9A-F]*:0000 0A " /proc/net/tcp /proc/net/tcp6 ;;
        esac || exit 1
    done
}

# systemd closes a socket whose address was edited when it reads its files, and opens the new one at a restart only,
# which it refuses while larder runs.
open_sockets() {
    [ -n "$sockets" ] || return 0
    # shellcheck disable=SC2086
    text=$(systemctl cat $sockets)
    if [ "$text" != "$sockets_text" ] || ! sockets_are_open; then
        # shellcheck disable=SC2086
        systemctl restart $sockets || return 1
    fi
    sockets_text=$text
}

start() { # start WORST_STATUS SECONDS
    systemctl daemon-reload || return 1
    # Sockets that are to be opened anew go first: a client that came meanwhile would start larder, and systemd opens none
    # of a service that runs.
    anew=
    # shellcheck disable=SC2086
    if [ -n "$sockets" ] && [ "$(systemctl cat $sockets)" != "$sockets_text" ]; then anew=$sockets; fi
    # Longer than TimeoutStopSec=: what was acknowledged is given the time to reach the card.
    # shellcheck disable=SC2086
    timeout 60 systemctl stop $anew larder.service 2>/dev/null
    systemctl reset-failed larder.service 2>/dev/null
    journalctl --sync 2>/dev/null
    cursor=$(journalctl -n 0 --show-cursor 2>/dev/null | sed -n 's/^-- cursor: //p')
    open_sockets || return 1
    # Its own result says less than /health: a start that fails is tried again by systemd.
    systemctl start --no-block larder.service || return 1
    healthy "$1" "$2"
}

# The log since that start, and nothing of what ran before.
show_log() {
    journalctl --sync 2>/dev/null
    journalctl -u larder.service ${cursor:+--after-cursor="$cursor"} -n 20 --no-pager -o cat 2>/dev/null |
        sed 's/^/  | /'
    case $("$program" check 2>/dev/null | grep '^server.listen ') in
    *fd://*) [ -n "$sockets" ] || say "note: server.listen is fd://, and larder.socket is not enabled" ;;
    esac
}

restore() {
    for file in $files; do
        # What was not changed is the same file by two names, which mv would leave as they are.
        if [ "$file.old" -ef "$file" ]; then
            rm -f -- "$file.old"
        elif [ -e "$file.old" ]; then
            mv -f -- "$file.old" "$file"
        else
            rm -f -- "$file"
        fi
    done
    sync
}

# Puts back what was there, as it was: files, sockets, and whether it ran.
go_back() {
    if [ ! -e "$program.old" ]; then
        systemctl disable -q --now larder.service 2>/dev/null
        restore
        systemctl daemon-reload
        die "$(hostname) had no larder before: the service is stopped and removed, its data and configuration stay"
    fi
    restore
    if [ "$was" = inactive ]; then
        systemctl daemon-reload
        systemctl stop larder.service 2>/dev/null
        open_sockets
        die "the new one was refused; $(version "$program") is back, and stopped as it was before"
    fi
    # Who asked to wait for a few seconds only did not mean the one that is known.
    if start 503 "$((wait > 60 ? wait : 60))"; then
        die "the new one was refused; $(version "$program") is back and answers"
    fi
    show_log
    die "the new one was refused, and $(version "$program"), which is back, does not answer either:
  see journalctl -u larder"
}

# Puts every *.new in place ($1: and removes these), and takes all of it back if /health does not come.
switch() {
    was=$(property ActiveState) worst=200
    if [ "$was" = active ] && [ "$(health)" = 503 ]; then
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
    # Whether it starts with the board is its owner's decision, once it is there.
    [ -e "$program.old" ] || systemctl enable -q larder.service
    if ! start "$worst" "$wait"; then
        say "/health did not come; the log of this start:"
        show_log
        go_back
    fi
    for file in $files; do
        rm -f -- "$file.previous"
        if [ -e "$file.old" ]; then mv -f -- "$file.old" "$file.previous"; fi
    done
    sync
}

tell() {
    say "$(version "$program") runs: $(addresses | paste -s -d ' '), /health $(health)"
    if [ -e "$dropin" ]; then
        say "its engine is $(sed -n 's/^Environment=LARDER_SERVER_ENGINE=//p' "$dropin"), since a deploy said so:" \
            "$dropin is stronger than $config"
    fi
    for file in $kept; do
        say "note: $file was changed on this board and stays; what this deploy would have put there is" \
            "$shipped/$(name_of "$file").latest (changes in \`systemctl edit\` or a file of another name stay apart)"
    done
    if [ -e "$program.previous" ]; then say "before it: $(version "$program.previous"), kept as $program.previous"; fi
    [ "$(systemctl is-enabled larder.service 2>/dev/null)" = enabled ] ||
        say "note: larder.service is not enabled: it will not start with the board"
    if [ -e /sys/fs/cgroup/cgroup.controllers ] && ! grep -qw memory /sys/fs/cgroup/cgroup.controllers; then
        say "note: this kernel does not limit memory; on a Raspberry Pi add cgroup_enable=memory to cmdline.txt"
    fi
    tell_reach
}

# Who can reach it, and how.
tell_reach() {
    outside=$(addresses | grep -vE '^(unix:|http://127\.|http://\[::1\])' | head -n 1)
    there=$board_address
    case $there in *:*) there="[$there]" ;; esac
    port=$(addresses | sed -n 's/^http.*:\([0-9]*\)$/\1/p' | head -n 1)
    : "${port:=8080}"
    if [ -n "$outside" ]; then
        case $outside in
        http://0.0.0.0:* | http://\[::\]:*) outside=http://$there:${outside##*:} ;;
        esac
        say "to try from elsewhere: curl $outside/health"
        return
    fi
    say "only this board can reach it. To let others in, as root on the board:"
    say "  larder token add NAME --scope admin     # prints the token, once"
    if [ -n "$sockets" ]; then
        say "  systemctl edit larder.socket            # [Socket], ListenStream=, ListenStream=0.0.0.0:$port"
        say "  systemctl stop larder && systemctl restart larder.socket && systemctl start larder"
    else
        say "  listen = \"0.0.0.0:$port\"                 # under [server] in $config"
        say "  systemctl restart larder"
    fi
    say "and to try from elsewhere: curl -H @larder.header http://$there:$port/api/v1/stats  # a file with \`Authorization: Bearer TOKEN\`"
}

# Copies one of the files that came along, with the folder it goes to.
put() {
    install -D -m 644 -- "$here/$1" "$2" || die "cannot write $2; larder runs on as it was"
}

# What the file is called among those that came along.
name_of() {
    case $1 in
    "$sysctl") echo larder-sysctl.conf ;;
    "$journald") echo larder-journald.conf ;;
    *) echo "${1##*/}" ;;
    esac
}

# Whether the owner of the board has made the file what it is: it is neither what was installed last nor, where no copy
# of that is kept yet, anything that was ever shipped.
is_of_owner() {
    [ -e "$1" ] || [ -L "$1" ] || return 1
    [ ! -L "$1" ] || return 0
    name=$(name_of "$1")
    if [ -e "$shipped/$name" ]; then
        ! cmp -s -- "$shipped/$name" "$1"
        return
    fi
    ! grep -qs "^$(sha256sum <"$1" | cut -d ' ' -f 1) $name\$" "$here/known"
}

# Stages a file that came along, unless the one that is there is of the owner.
offer() {
    name=$(name_of "$1")
    rm -f -- "$shipped/$name.latest"
    if is_of_owner "$1" && ! cmp -s -- "$here/$name" "$1"; then
        put "$name" "$shipped/$name.latest"
        kept="$kept $1"
    elif [ ! -L "$1" ]; then
        put "$name" "$1.new"
        put "$name" "$shipped/$name.new"
    fi
}

tune_board() {
    for file in "$sysctl" "$journald"; do
        offer "$file"
        [ ! -e "$file.new" ] || mv -f -- "$file.new" "$file"
        [ ! -e "$shipped/$name.new" ] || mv -f -- "$shipped/$name.new" "$shipped/$name"
    done
    sysctl -q -p "$sysctl" || say "note: the kernel took not all of $sysctl"
    systemctl try-restart systemd-journald.service
}

# Brings the new files beside the old ones and refuses what cannot work, before anything is interrupted.
stage() {
    if [ -n "$engine" ] && [ -e "$dropin" ] &&
        grep -qvE '^(# make deploy ENGINE=.*|\[Service\]|Environment=LARDER_SERVER_ENGINE=[a-z_]*)$' "$dropin"; then
        die "$dropin has lines of yours; nothing was changed
  move them to a file of another name, or deploy without ENGINE"
    fi
    put larder "$program.new"
    chmod 755 "$program.new"
    offer "$units/larder.service"
    offer "$units/larder.socket"
    if [ -n "$engine" ]; then
        mkdir -p "${dropin%/*}"
        printf '# make deploy ENGINE=%s; stronger than server.engine in %s.\n[Service]\n%s\n' \
            "$engine" "$config" "Environment=LARDER_SERVER_ENGINE=$engine" >"$dropin.new" ||
            die "cannot write $dropin; nothing was changed"
    fi
    # A file that was half written when the power went must not be what the board boots.
    sync
    reason=$("$program.new" --version 2>&1 >/dev/null) ||
        die "the binary does not run on this board; nothing was changed
  $reason"
    [ -e "$config" ] || put larder.toml "$config"
    # It asks systemd what else the service is given.
    reason=$(check_new 2>&1 >/dev/null) ||
        die "the configuration on the board does not suit $(version "$program.new"); nothing was changed
  $reason"
}

check_new() {
    if [ -n "$engine" ]; then LARDER_SERVER_ENGINE=$engine "$program.new" check; else "$program.new" check; fi
}

deploy() {
    stage
    find_sockets "$(check_new 2>/dev/null)"
    changed=''
    for file in "$program" "$units/larder.service" "$units/larder.socket" "$dropin"; do
        if [ -e "$file.new" ] && ! cmp -s -- "$file.new" "$file"; then changed=yes; fi
    done
    if [ -n "$changed" ]; then
        switch ""
    else
        # They say the same, or there was no copy yet.
        for name in larder.service larder.socket; do
            [ ! -e "$shipped/$name.new" ] || mv -f -- "$shipped/$name.new" "$shipped/$name"
        done
        if [ "$(property ActiveState)" = active ] && [ "$(health)" = 200 ]; then
            say "nothing to do: the board has these very files"
        elif ! start 200 "$wait"; then
            show_log
            die "the board has these very files, but /health does not come: see journalctl -u larder"
        fi
    fi
    [ "${tune:-0}" = 0 ] || tune_board
    tell
    if [ -n "$changed" ] && [ -e "$program.previous" ]; then say "back to what was before: $undo"; fi
}

rollback() {
    [ -e "$program.previous" ] || die "there is no $program.previous to go back to"
    gone=
    for file in $files; do
        # The unit, also where the file is the copy of what was installed last.
        case $file in "$program" | "$dropin") ;; *)
            name=${file##*/}
            # Kept at the first deploy as the owner's, or changed by him since.
            if [ ! -e "$shipped/$name" ] && [ -e "$shipped/$name.latest" ]; then continue; fi
            if [ -e "$shipped/$name" ] && is_of_owner "$units/$name"; then continue; fi
            ;;
        esac
        if [ -e "$file.previous" ]; then
            cp -p -- "$file.previous" "$file.new" || die "cannot copy $file.previous; nothing was changed"
        else
            gone="$gone $file"
        fi
    done
    find_sockets "$("$program.new" check 2>/dev/null)"
    switch "$gone"
    tell
}

exec 9>/run/larder-deploy.lock
flock -n 9 || die "another deploy is under way on this board"
trap cleanup EXIT
case $(systemctl is-enabled larder.service 2>/dev/null) in
masked*) die "larder.service is masked on this board: systemctl unmask larder.service; nothing was changed" ;;
esac
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
