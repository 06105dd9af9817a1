# A board to deploy to: a Debian with systemd and sshd in a container of 512 MB, with a network card of its own. Sourced
# by run.sh; needs root, mmdebstrap and systemd-nspawn (Debian: systemd-container).
#
# The system is built once and kept outside of the repository; every run boots a fresh copy of it.
cache=${XDG_CACHE_HOME:-$HOME/.cache}/larder-board
machine=larder-board-$$
address=198.18.77.2
memory_bytes=536870912
cgroup=
nspawn=

say() {
    printf '%s\n' "$*"
}

die() {
    printf 'board: %s\n' "$*" >&2
    exit 1
}

board_need() {
    [ "$(id -u)" = 0 ] || die "a container needs root"
    for tool in mmdebstrap systemd-nspawn ssh ssh-keygen ip flock; do
        command -v "$tool" >/dev/null || die "there is no $tool; on Debian: apt-get install mmdebstrap systemd-container openssh-client iproute2"
    done
}

board_build() {
    [ ! -d "$cache/base" ] || return 0
    say "building the board's system in $cache (about a minute, once)"
    rm -rf -- "$cache/base.new"
    mmdebstrap -q --variant=minbase \
        --include=systemd,systemd-sysv,dbus,openssh-server,iproute2,curl,sudo,procps bookworm "$cache/base.new" ||
        die "mmdebstrap failed"
    mv -- "$cache/base.new" "$cache/base"
}

# Makes the copy that boots: a network address, a key for root, and a user like those of real boards.
board_prepare() {
    root=$run/root
    cp -a -- "$cache/base" "$root"
    : >"$root/etc/machine-id"
    echo larder-board >"$root/etc/hostname"
    printf '[Match]\nName=host0\n[Network]\nAddress=%s/30\nLinkLocalAddressing=no\n' "$address" \
        >"$root/etc/systemd/network/80-board.network"
    ln -sf /lib/systemd/system/systemd-networkd.service "$root/etc/systemd/system/multi-user.target.wants/"
    ssh-keygen -q -t ed25519 -N '' -f "$run/key"
    chroot "$root" useradd -m -s /bin/bash pi
    echo 'pi ALL=(ALL) NOPASSWD: ALL' >"$root/etc/sudoers.d/pi"
    for home in root home/pi; do
        install -d -m 700 "$root/$home/.ssh"
        cp -- "$run/key.pub" "$root/$home/.ssh/authorized_keys"
    done
    chroot "$root" chown -R pi: /home/pi/.ssh
}

# The control group that makes the machine as small as a board. Version 1 by hand; a host with systemd has version 2.
board_confine() {
    if [ -d /sys/fs/cgroup/memory ]; then
        cgroup=/sys/fs/cgroup/memory/$machine
        mkdir -- "$cgroup"
        echo "$memory_bytes" >"$cgroup/memory.limit_in_bytes"
        into="$cgroup/cgroup.procs"
    else
        cgroup=/sys/fs/cgroup/$machine
        mkdir -- "$cgroup" "$cgroup/payload"
        echo "$memory_bytes" >"$cgroup/memory.max" || die "this host does not limit memory"
        into="$cgroup/payload/cgroup.procs"
    fi
}

board_boot() {
    mkdir -p -- "$cache"
    exec 8>"$cache/lock"
    flock -n 8 || die "another test uses the board"
    board_build
    run=$(mktemp -d "$cache/run.XXXXXX")
    # A host name and options as few words, so that a test reads like a command line.
    ssh_options="-q -i $run/key -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o ConnectTimeout=2"
    trap board_end EXIT
    trap 'exit 130' INT TERM
    board_prepare
    board_confine
    # shellcheck disable=SC2016 # The inner shell expands them.
    setsid sh -c 'echo $$ >"$1" && exec systemd-nspawn -q -D "$2" --machine="$3" --register=no --keep-unit \
        --private-network --network-veth -b' sh "$into" "$root" "$machine" </dev/null >"$run/console" 2>&1 8>&- &
    nspawn=$!
    # The kernel allows 15 characters: nspawn shortens the name, so the card is found by what it is linked to.
    card=
    for _ in $(seq 100); do
        card=$(ip -o link | sed -n 's/^[0-9]*: \(ve-larder[^@:]*\).*/\1/p' | head -n 1)
        [ -z "$card" ] || break
        kill -0 "$nspawn" 2>/dev/null || die "the board did not start: $(tail -n 3 "$run/console")"
        sleep 0.1
    done
    [ -n "$card" ] || die "the board has no network card"
    ip addr add 198.18.77.1/30 dev "$card"
    ip link set "$card" up
    for _ in $(seq 120); do
        if [ "$(on_board systemctl is-system-running 2>/dev/null)" = running ]; then break; fi
        sleep 0.5
    done
    [ "$(on_board systemctl is-system-running)" = running ] || die "the board did not come up: $(tail -n 20 "$run/console")"
    if [ -d /sys/fs/cgroup/memory ]; then
        # nspawn hands the old control groups over read-only; they are this board's own, so that limits can be tested.
        on_board 'mount -o remount,bind,rw /sys/fs/cgroup/memory && systemctl daemon-reexec'
    fi
}

# Runs a command on the board, as root.
on_board() {
    # shellcheck disable=SC2086 # They are several words.
    ssh $ssh_options -- "root@$address" "$@"
}

# Ends the container by its process and removes all that it left.
board_end() {
    status=$?
    trap - EXIT INT TERM
    if [ "$status" != 0 ] && [ -n "${KEEP_LOG:-}" ]; then on_board 'journalctl -b --no-pager' >"$KEEP_LOG" 2>&1; fi
    if [ -n "$nspawn" ] && kill -TERM "$nspawn" 2>/dev/null; then
        for _ in $(seq 150); do
            kill -0 "$nspawn" 2>/dev/null || break
            sleep 0.1
        done
        kill -KILL "$nspawn" 2>/dev/null
        wait "$nspawn" 2>/dev/null
    fi
    if [ -n "$cgroup" ]; then
        for _ in $(seq 50); do
            find "$cgroup" -depth -type d -exec rmdir {} + 2>/dev/null
            [ -d "$cgroup" ] || break
            sleep 0.1
        done
    fi
    rm -rf --one-file-system -- "$run"
    exit "$status"
}
