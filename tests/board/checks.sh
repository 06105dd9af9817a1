# What is looked at on the board; sourced by run.sh.
# shellcheck disable=SC2154,SC2016 # run.sh and board.sh set the names; the board's shell expands the rest.
checks=0
key=http://127.0.0.1:8080/api/v1/kv/home/notes

# check SENTENCE COMMAND...: the command holds.
check() {
    sentence=$1
    shift
    if ! "$@" >"$run/output" 2>&1; then
        say "FAILED: $sentence"
        sed 's/^/  | /' "$run/output"
        on_board 'systemctl status larder --no-pager -l; journalctl -u larder -n 40 --no-pager' 2>&1 | sed 's/^/  | /'
        exit 1
    fi
    checks=$((checks + 1))
    say "ok: $sentence"
}

# check_board SENTENCE SCRIPT: the script succeeds on the board.
check_board() {
    check "$1" on_board "set -e; $2"
}

# check_says SENTENCE TEXT COMMAND...: the command's output has the text.
check_says() {
    sentence=$1 text=$2
    shift 2
    "$@" >"$run/said" 2>&1
    check "$sentence" grep -F -- "$text" "$run/said"
}

# deploy BINARY [USER]; rollback
deploy() {
    HOST=${2:-root}@$address SSH_OPTIONS=$ssh_options BIN=$1 "$top/systemd/deploy.sh" deploy
}
rollback() {
    HOST=root@$address SSH_OPTIONS=$ssh_options "$top/systemd/deploy.sh" rollback
}
refused() {
    ! deploy "$@"
}

put() {
    on_board "curl -sf -X PUT $key/$1 -H 'Content-Type: text/plain' -d '$2'"
}
holds() {
    [ "$(on_board "curl -sf $key/$1")" = "$2" ]
}
property() {
    on_board "systemctl show -p $1 --value larder"
}
# patiently SECONDS COMMAND...: the command holds within that time.
patiently() {
    for _ in $(seq "$1"); do
        if "${@:2}"; then return 0; fi
        sleep 1
    done
    return 1
}

first_deploy() {
    check "the first deploy succeeds" deploy "$BIN"
    check_board "the service is active, enabled, and said that it is ready" \
        'systemctl is-active larder; systemctl is-enabled larder; systemctl show -p StatusText larder | grep -q http://127.0.0.1:8080'
    check_board "/health is 200 on the board" 'curl -sf http://127.0.0.1:8080/health | grep -q "\"status\":\"ok\""'
    check_board "larder check agrees with the installed configuration" \
        'larder check | grep -q /etc/larder/larder.toml'
    check "a value can be written" put first one
}

unit_is_in_force() {
    check_board "larder runs as a user of its own, without privileges" \
        'pid=$(systemctl show -p MainPID --value larder); test $(stat -c %u /proc/$pid) -gt 1000; grep -q "^CapEff:.*0000000000000000" /proc/$pid/status; grep -q "^NoNewPrivs:.*1" /proc/$pid/status; grep -q "^Seccomp:.*2" /proc/$pid/status'
    check_board "the data belongs to larder alone" 'test "$(stat -L -c %a /var/lib/larder)" = 700'
    check_board "the service may have its HTTP threads scheduled in batches" \
        'sed "s/.*) //" /proc/$(systemctl show -p MainPID --value larder)/task/*/stat | cut -d " " -f 39 | grep -qx 3'
    check_board "the limit of memory is four fifths of the board's" \
        'group=$(systemctl show -p ControlGroup --value larder); file=/sys/fs/cgroup/memory$group/memory.limit_in_bytes; test -e $file || file=/sys/fs/cgroup$group/memory.max; test $(cat $file) -gt 420000000; test $(cat $file) -lt 430000000'
    check_board "the exposure that systemd sees is at most 1.5" \
        'score=$(systemd-analyze security --no-pager larder.service | sed -n "s/.*exposure level for larder.service: \([0-9]*\)\.\([0-9]\).*/\1\2/p"); test -n "$score"; test "$score" -le 15'
}

data_survives() {
    check_board "a restart is clean" 'systemctl restart larder; systemctl is-active larder'
    check "a value survives a restart" holds first one
    check "a value is written before the kill" put second two
    on_board 'systemctl kill -s KILL larder'
    check "larder comes back after a kill" patiently 30 holds second two
    check "a value survives the kill" holds first one
}

signals_and_log() {
    before=$(property MainPID)
    check_board "systemctl reload succeeds" 'systemctl reload larder; sleep 1; systemctl is-active larder'
    check "reload does not end the process" [ "$(property MainPID)" = "$before" ]
    check "reload does not lose values" holds first one
    on_board 'mkdir -p /etc/systemd/system/larder.service.d
        printf "[Service]\nEnvironment=LARDER_LOG=debug\n" >/etc/systemd/system/larder.service.d/test.conf
        systemctl daemon-reload; systemctl restart larder'
    check_board "lines in the journal have their levels" \
        'journalctl -u larder -b -o json --output-fields=PRIORITY,MESSAGE | grep -v "_SYSTEMD" >/dev/null; journalctl -u larder -b -p 7..7 -o cat | grep -q .; journalctl -u larder -b -p 6..6 -o cat | grep -q "listening on"; ! journalctl -u larder -b -o cat | grep -q "^<[0-7]>"'
    on_board 'rm /etc/systemd/system/larder.service.d/test.conf; systemctl daemon-reload; systemctl restart larder'
}

watchdog_bites() {
    on_board 'printf "[Service]\nWatchdogSec=4\n" >/etc/systemd/system/larder.service.d/test.conf
        systemctl daemon-reload; systemctl restart larder; sleep 10'
    check "a larder that is well satisfies the watchdog" [ "$(property NRestarts)" = 0 ]
    on_board 'kill -STOP $(systemctl show -p MainPID --value larder)'
    check "a larder that hangs is replaced" patiently 30 eval '[ "$(property NRestarts)" = 1 ] && holds first one'
    on_board 'rm /etc/systemd/system/larder.service.d/test.conf; systemctl daemon-reload; systemctl restart larder'
}

# The same program with another checksum: bytes after the end of an ELF file do not matter.
changed_binary() {
    cp -- "$BIN" "$run/$1"
    printf '%s' "$1" >>"$run/$1"
    echo "$run/$1"
}

second_deploy() {
    on_board 'echo "# kept" >>/etc/larder/larder.toml'
    before=$(property MainPID)
    check_says "the same deploy again has nothing to do" "nothing to do" deploy "$BIN"
    check "and does not restart" [ "$(property MainPID)" = "$before" ]
    check "a deploy by a user with sudo succeeds" deploy "$(changed_binary new)" pi
    check "it keeps the data" holds first one
    check_board "it keeps the configuration" 'tail -n 1 /etc/larder/larder.toml | grep -q "# kept"'
    check_board "it leaves nothing behind" \
        '! ls -d /tmp/larder-deploy.* /usr/local/bin/larder.old /usr/local/bin/larder.new 2>/dev/null'
    check_board "a token made by root is taken up by the service" \
        'token=$(larder token add test --scope read 2>/dev/null); sleep 3; test $(curl -s -o /dev/null -w "%{http_code}" '"$key"'/first) = 401; curl -sf -H "Authorization: Bearer $token" '"$key"'/first >/dev/null; larder token rm test; sleep 3'
}

installed_is() {
    [ "$(on_board "sha256sum <$1")" = "$(sha256sum <"$2")" ]
}

rollback_and_forward() {
    check "rollback succeeds" rollback
    check "the binary before is back" installed_is /usr/local/bin/larder "$BIN"
    check "rollback keeps the data" holds first one
    check "rollback of the rollback goes forward" rollback
    check "the new binary is back" installed_is /usr/local/bin/larder "$run/new"
}

broken_binaries_are_refused() {
    before=$(property MainPID)
    echo garbage >"$run/garbage"
    check_says "what is no program is refused" "does not run on this board" refused "$run/garbage"
    check "without an interruption" [ "$(property MainPID)" = "$before" ]
    on_board 'cp /etc/larder/larder.toml /root/; echo "[sever]" >>/etc/larder/larder.toml'
    check_says "a configuration that does not fit is found before anything changes" "does not suit" \
        refused "$(changed_binary newer)"
    check "without an interruption" [ "$(property MainPID)" = "$before" ]
    on_board 'cp /root/larder.toml /etc/larder/larder.toml'
    printf '#!/bin/sh\n[ "$1" != serve ] || exit 1\n' >"$run/crashing"
    printf '#!/bin/sh\n[ "$1" != serve ] || exec sleep 1000\n' >"$run/hanging"
    check_says "a binary that ends at once is refused" "is back and answers" refused "$run/crashing"
    WAIT=8
    export WAIT
    check_says "a binary that never answers is refused" "is back and answers" refused "$run/hanging"
    unset WAIT
    check "the binary before is back" installed_is /usr/local/bin/larder "$run/new"
    check "the one before that is still the way back" installed_is /usr/local/bin/larder.previous "$BIN"
    check "a refused binary costs no data" holds first one
}

# Clients that open a connection for each request, while systemd holds the socket and larder restarts three times.
restart_under_load() {
    on_board 'systemctl stop larder; sed -i "s|^#*listen = .*|listen = \"fd://\"|; s|^#*engine = .*|engine = \"'"$1"'\"|" /etc/larder/larder.toml
        systemctl enable -q --now larder.socket; systemctl start larder'
    check "$1: the socket of systemd is served" holds first one
    on_board 'cat >/root/load' <<'LOAD'
until=$(($(date +%s) + 12))
n=0 failed=0
while [ $(date +%s) -lt $until ]; do
    n=$((n + 1))
    out=$(curl -sS -m 20 -o /dev/null -w '%{http_code}' -X PUT -d "$n" "$1/load-$2" 2>&1)
    case $out in 201|204) ;; *) failed=$((failed + 1)); echo "request $n: $out" >&2 ;; esac
done
echo "$n requests, $failed failed"
[ $n -gt 50 ] && [ $failed = 0 ]
LOAD
    check_board "$1: three restarts under load lose no connection" \
        'pids=; for i in 1 2 3 4; do sh /root/load '"$key"' $i & pids="$pids $!"; done; for i in 1 2 3; do sleep 3; systemctl restart larder; done; for pid in $pids; do wait $pid; done'
    sed 's/^/    /' "$run/output"
}

figures() {
    on_board 'systemctl restart larder; sleep 5
        value() { systemctl show -p $1 --value larder; }
        echo "start to ready: $((($(value ActiveEnterTimestampMonotonic) - $(value ExecMainStartTimestampMonotonic)) / 1000)) ms"
        grep -E "^(VmRSS|RssAnon|VmSize|Threads)" /proc/$(value MainPID)/status
        group=$(value ControlGroup); file=/sys/fs/cgroup/memory$group/memory.usage_in_bytes
        test -e $file || file=/sys/fs/cgroup$group/memory.current; echo "memory of the control group: $(cat $file) bytes"'
}
