#!/bin/sh
# Puts larder on a board over ssh, or takes the last deploy back:
#   HOST=user@board [PORT=22] [ENGINE=tiny_http|epoll] [TUNE=1] [WAIT=120] [BIN=path] [SSH_OPTIONS=...] \
#       deploy.sh deploy|rollback
# The user is root or may `sudo -n`. ENGINE stays in force for later deploys without it. TUNE=1 also installs the settings
# of the kernel and the journal. WAIT is for how many seconds /health is awaited before what was there comes back. BIN
# deploys a binary that exists already instead of building one.
# This half runs here: it finds out what the board is, builds, and copies. board.sh does the rest on the board, so that
# a connection that breaks does not leave a board between two versions.
set -eu
action=${1:-deploy}
here=$(cd "$(dirname "$0")" && pwd)

say() {
    printf '%s\n' "$*"
}

die() {
    printf 'deploy: %s\n' "$*" >&2
    exit 1
}

# All that was asked for is looked at before anything is touched, here or there.
whole_number() { # whole_number NAME VALUE LEAST MOST WHAT
    case $2 in
    *[!0-9]* | '' | 0?* | ??????*) die "$1 is $5 from $3 to $4, not $2" ;;
    esac
    if [ "$2" -lt "$3" ] || [ "$2" -gt "$4" ]; then die "$1 is $5 from $3 to $4, not $2"; fi
}

case $action in
deploy | rollback) ;;
*) die "deploy.sh does deploy or rollback, not $action" ;;
esac
case ${HOST:-} in
'') die "say which board: make $action HOST=user@board [PORT=22]" ;;
-*) die "HOST is user@board, not an option: $HOST" ;;
esac
[ "$(printf %s "$HOST" | tr -d 'A-Za-z0-9._:@%/[]-' | wc -c)" -eq 0 ] ||
    die "HOST is user@board or what your ssh calls it, not $HOST"
case ${ENGINE:-} in
'' | tiny_http | epoll) ;;
*) die "ENGINE is tiny_http or epoll, not $ENGINE" ;;
esac
case ${TUNE:-} in
'' | 0 | 1) ;;
*) die "TUNE is 1 (also settings of the kernel and the journal) or 0, not $TUNE" ;;
esac
whole_number WAIT "${WAIT:=120}" 1 3600 "a number of seconds"
[ -z "${PORT:-}" ] || whole_number PORT "$PORT" 1 65535 "a port"

# What kind of machine a program is for, as its head says; nothing for what has no such head.
machine_of() {
    [ "$(dd if="$1" bs=1 skip=1 count=3 2>/dev/null)" = ELF ] || return 0
    # Byte 5 says in which order the two of the number stand.
    # shellcheck disable=SC2046 # Three words.
    set -- $(od -A n -t u1 -j 5 -N 1 "$1") $(od -A n -t u1 -j 18 -N 2 "$1")
    case $1 in
    1) echo $(($2 + $3 * 256)) ;;
    *) echo $(($2 * 256 + $3)) ;;
    esac
}
if [ "$action" = deploy ] && [ -n "${BIN:-}" ]; then
    [ -f "$BIN" ] && [ -r "$BIN" ] || die "BIN is the path of a program: there is no file $BIN that can be read"
    [ -s "$BIN" ] || die "BIN=$BIN is empty"
fi

stage=$(mktemp -d)
# One connection carries all steps: one login, and a password is asked for once.
# shellcheck disable=SC2086 # SSH_OPTIONS are several words.
board() {
    ssh ${PORT:+-p "$PORT"} -o ConnectTimeout=10 -o ServerAliveInterval=5 -o ControlMaster=auto \
        -o ControlPath="$stage/ssh" -o ControlPersist=60 ${SSH_OPTIONS:-} -- "$HOST" "$@"
}
cleanup() {
    ssh -o ControlPath="$stage/ssh" -O exit -- "$HOST" 2>/dev/null || :
    rm -rf -- "$stage"
}
trap cleanup EXIT
trap 'exit 130' HUP INT TERM

# Lines are marked: a login script may print others.
facts=$(board 'echo "fact machine $(uname -m)"
    echo "fact bits $(getconf LONG_BIT 2>/dev/null)"
    echo "fact address $(set -- $SSH_CONNECTION; echo "${3:-}")"
    [ -d /run/systemd/system ] && echo "fact systemd yes"
    if [ "$(id -u)" = 0 ]; then echo "fact root direct"; elif sudo -n true 2>/dev/null; then echo "fact root sudo"; fi') ||
    die "cannot reach $HOST${PORT:+ on port $PORT} by ssh"
fact() {
    printf '%s\n' "$facts" | sed -n "s/^fact $1 //p"
}
[ "$(fact systemd)" = yes ] || die "$HOST does not run systemd"
case $(fact root) in
direct) sudo= ;;
sudo) sudo='sudo -n' ;;
*) die "the user on $HOST is neither root nor allowed to sudo without a password; as root there:
  echo \"\$USER ALL=(ALL) NOPASSWD: ALL\" > /etc/sudoers.d/deploy    # with that user's name" ;;
esac

# A 64-bit kernel may carry a 32-bit system: what programs are built for counts.
target_of() {
    case $1/$2 in
    x86_64/64) echo x86_64-unknown-linux-gnu ;;
    aarch64/64) echo aarch64-unknown-linux-gnu ;;
    aarch64/32 | armv8l/* | armv7l/*) echo armv7-unknown-linux-gnueabihf ;;
    armv6l/*) die "$HOST is an ARMv6 board, which is too old: larder needs ARMv7 or better" ;;
    *) die "$HOST is a $1 with $2 bits, for which there is no build" ;;
    esac
}

# Kinds of programs that a machine runs, by the number in their heads; a 64-bit one may run those of its 32-bit kin.
runs() { # runs MACHINE
    case $1 in
    x86_64) echo 62 3 ;;
    i?86) echo 3 ;;
    aarch64) echo 183 40 ;;
    arm*) echo 40 ;;
    riscv64) echo 243 ;;
    esac
}

# Every version of a unit that was ever shipped, as far as git knows: where a board has no copy of what was installed
# last, what is none of these is its owner's.
known() {
    for name in larder.service larder.socket larder-sysctl.conf larder-journald.conf; do
        for commit in $(git -C "$here" log --format=%H -- "$name" 2>/dev/null); do
            echo "$(git -C "$here" show "$commit:./$name" 2>/dev/null | sha256sum | cut -d ' ' -f 1) $name"
        done
    done
}

mkdir "$stage/files"
cp "$here/board.sh" "$stage/files/"
if [ "$action" = deploy ]; then
    if [ -n "${BIN:-}" ]; then
        binary=$BIN
        kind=$(machine_of "$BIN") may=$(runs "$(fact machine)")
        case " $may " in
        '  ' | *" $kind "*) ;;
        *) [ -z "$kind" ] || die "$BIN is for another kind of machine than $HOST, which is $(fact machine)" ;;
        esac
    else
        target=$(target_of "$(fact machine)" "$(fact bits)")
        say "building for $HOST: $target"
        binary=$("$here/build-for.sh" "$target") || die "the build failed; nothing was changed on $HOST"
        case $binary in /*) ;; *) binary=$here/../$binary ;; esac
    fi
    [ -f "$binary" ] || die "there is no file $binary"
    cp "$binary" "$stage/files/larder"
    (cd "$here" && cp larder.service larder.socket larder.toml larder-sysctl.conf larder-journald.conf "$stage/files/")
    known >"$stage/files/known"
fi

say "copying to $HOST"
# -m: a board without a clock would complain that the files come from the future.
copied=$(tar -C "$stage/files" -cf - . | board 'umask 077
    folder=$(mktemp -d /tmp/larder-deploy.XXXXXX) || exit
    tar -xmf - -C "$folder" || { rm -rf -- "$folder"; exit 1; }
    echo "fact folder $folder"') ||
    die "copying failed (is /tmp on $HOST full?); nothing was changed, and nothing is left there"
address=$(fact address) facts=$copied
folder=$(fact folder)
[ -n "$folder" ] || die "$HOST did not say where the files are; nothing was changed"
undo="make rollback HOST=$HOST${PORT:+ PORT=$PORT}"
# The folder is removed by the script, even where this connection breaks, unless sudo did not let it run.
status=0
board "$sudo sh $folder/board.sh $action '${ENGINE:-}' '${TUNE:-}' $WAIT '${address:-BOARD}' '$undo'" || status=$?
case $status in
0) ;;
255) die "the connection to $HOST broke; what was begun there goes on to its end without it" ;;
*)
    board "rm -rf -- $folder" 2>/dev/null || :
    exit 1
    ;;
esac
