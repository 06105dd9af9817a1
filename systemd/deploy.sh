#!/bin/sh
# Puts larder on a board over ssh, or takes the last deploy back:
#   HOST=user@board [PORT=22] [ENGINE=tiny_http|epoll] [TUNE=1] [WAIT=120] [BIN=path] [SSH_OPTIONS=...] deploy.sh deploy|rollback
# The user is root or may `sudo -n`. BIN deploys a binary that exists already instead of building one.
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

[ -n "${HOST:-}" ] || die "say which board: make $action HOST=user@board [PORT=22]"
case ${ENGINE:-} in
'' | tiny_http | epoll) ;;
*) die "ENGINE is tiny_http or epoll, not $ENGINE" ;;
esac
case ${WAIT:=120} in
*[!0-9]*) die "WAIT is a number of seconds, not $WAIT" ;;
esac

stage=$(mktemp -d)
# One connection carries all steps: one login, and a password is asked for once.
# shellcheck disable=SC2086 # SSH_OPTIONS are several words.
board() {
    ssh -p "${PORT:-22}" -o ConnectTimeout=10 -o ServerAliveInterval=5 -o ControlMaster=auto \
        -o ControlPath="$stage/ssh" -o ControlPersist=60 ${SSH_OPTIONS:-} -- "$HOST" "$@"
}
cleanup() {
    ssh -o ControlPath="$stage/ssh" -O exit -- "$HOST" 2>/dev/null || :
    rm -rf -- "$stage"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

# Lines are marked: a login script may print others.
facts=$(board 'echo "fact machine $(uname -m)"
    echo "fact bits $(getconf LONG_BIT 2>/dev/null)"
    [ -d /run/systemd/system ] && echo "fact systemd yes"
    if [ "$(id -u)" = 0 ]; then echo "fact root direct"; elif sudo -n true 2>/dev/null; then echo "fact root sudo"; fi') ||
    die "cannot reach $HOST on port ${PORT:-22} by ssh"
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

mkdir "$stage/files"
cp "$here/board.sh" "$stage/files/"
if [ "$action" = deploy ]; then
    if [ -n "${BIN:-}" ]; then
        binary=$BIN
    else
        target=$(target_of "$(fact machine)" "$(fact bits)")
        say "building for $HOST: $target"
        binary=$("$here/build-for.sh" "$target") || die "the build failed; nothing was changed on $HOST"
        case $binary in /*) ;; *) binary=$here/../$binary ;; esac
    fi
    [ -f "$binary" ] || die "there is no file $binary"
    cp "$binary" "$stage/files/larder"
    (cd "$here" && cp larder.service larder.socket larder.toml larder-sysctl.conf larder-journald.conf "$stage/files/")
fi

say "copying to $HOST"
# -m: a board without a clock would complain that the files come from the future.
copied=$(tar -C "$stage/files" -cf - . | board 'umask 077
    folder=$(mktemp -d /tmp/larder-deploy.XXXXXX) && tar -xmf - -C "$folder" && echo "fact folder $folder"') ||
    die "copying failed (is /tmp on $HOST full?); nothing was changed"
facts=$copied
folder=$(fact folder)
[ -n "$folder" ] || die "$HOST did not say where the files are; nothing was changed"
board "$sudo sh $folder/board.sh $action '${ENGINE:-}' '${TUNE:-}' $WAIT" || exit 1
[ "$action" = rollback ] || say "back to what was before: make rollback HOST=$HOST${PORT:+ PORT=$PORT}"
