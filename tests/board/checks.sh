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
# deploy_said TEXT: the last deploy said so too.
deploy_said() {
    grep -qF -- "$1" "$run/said"
}
deploy_did_not_say() {
    ! grep -F -- "$1" "$run/said"
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
    check_says "the first deploy succeeds, and says what to do next" "systemctl restart larder" deploy "$BIN"
    check "it tells an address to try from elsewhere" deploy_said "http://$address:8080/"
    check "it offers no way back where there is none" deploy_did_not_say rollback
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
    check "and offers no way back" deploy_did_not_say rollback
    check_says "a deploy by a user with sudo succeeds, and offers the way back" "make rollback HOST=pi@$address" \
        deploy "$(changed_binary new)" pi
    check "the whole said so" deploy_said "kept as /usr/local/bin/larder.previous"
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
    on_board 'logger -t larder-test mark; systemctl restart larder'
    check_says "a binary that ends at once is refused" "is back and answers" refused "$run/crashing"
    check "with the log of its own start" deploy_said "Main process exited, code=exited, status=1"
    check "and of no other" deploy_did_not_say "listening on"
    check_board "the way back leaves no copies behind" \
        '! find /etc/systemd/system /usr/local -name "*.old" -o -name "*.new" | grep .'
    WAIT=8
    export WAIT
    check_says "a binary that never answers is refused" "is back and answers" refused "$run/hanging"
    unset WAIT
    on_board 'systemctl stop larder'
    check_says "where larder was stopped, the way back leaves it so" "stopped as it was before" refused "$run/crashing"
    check "it is" [ "$(property ActiveState)" = inactive ]
    on_board 'systemctl start larder'
    on_board 'mount -t tmpfs -o size=1m small /tmp'
    check_says "a full /tmp stops a deploy" "nothing was changed" refused "$(changed_binary newer)"
    check_board "and nothing of it stays there" '! ls -d /tmp/larder-deploy.* 2>/dev/null; umount /tmp'
    on_board 'cd /etc/systemd/system; mv larder.service /root/; ln -s /dev/null larder.service; systemctl daemon-reload'
    check_says "a masked unit stops a deploy" "systemctl unmask" refused "$run/newer"
    on_board 'mv -f /root/larder.service /etc/systemd/system/; systemctl daemon-reload; systemctl restart larder'
    check "the binary before is back" installed_is /usr/local/bin/larder "$run/new"
    check "the one before that is still the way back" installed_is /usr/local/bin/larder.previous "$BIN"
    check "a refused binary costs no data" holds first one
}

# What the board's owner has put in force counts, wherever it stands.
owner_settings_count() {
    on_board 'printf "[Service]\nEnvironment=LARDER_SERVER_ENGINE=epoll\n" >/etc/systemd/system/larder.service.d/mine.conf
        sed -i "s|^#*listen = .*|listen = \"unix:/run/larder/larder.sock\"|" /etc/larder/larder.toml
        systemctl daemon-reload; systemctl restart larder'
    check_board "larder check sees the engine of a drop-in" 'larder check | grep -q "^server.engine *\"*epoll"'
    check_says "an engine by drop-in and a Unix socket are deployed to" "unix:/run/larder/larder.sock, /health 200" \
        deploy "$(changed_binary socket)"
    check "only this board can reach that" deploy_said "only this board can reach it"
    on_board 'rm /etc/systemd/system/larder.service.d/mine.conf
        sed -i "s|^listen = .*|listen = \"0.0.0.0:8080\"|" /etc/larder/larder.toml
        systemctl daemon-reload; larder token add owner --scope admin >/root/token 2>/dev/null; systemctl restart larder'
    check_says "an open address is told as one" "curl http://$address:8080/health" deploy "$(changed_binary open)"
    check "and not as this board's alone" deploy_did_not_say "only this board"
    check "it is one" curl -sf "http://$address:8080/health"
    on_board 'systemctl disable -q larder'
    check_says "an engine can be deployed" "its engine is epoll" eval 'ENGINE=epoll deploy "$BIN"'
    check_says "a later deploy names the engine that stays" "its engine is epoll" deploy "$run/open"
    check "and whether larder starts with the board is left to its owner" deploy_said "is not enabled"
    on_board 'systemctl enable -q larder; echo "Environment=LARDER_LOG=warn" >>/etc/systemd/system/larder.service.d/10-engine.conf'
    check_says "an engine file with lines of the owner is not replaced" "has lines of yours" \
        eval '! ENGINE=tiny_http deploy "$BIN"'
    on_board 'rm /etc/systemd/system/larder.service.d/10-engine.conf; larder token rm owner
        sed -i "s|^listen = .*|listen = \"127.0.0.1:8080\"|" /etc/larder/larder.toml
        systemctl daemon-reload; systemctl restart larder'
}

# A unit that the owner edited in place stays, whatever systemd has read of it, and so does a socket that systemd holds.
owner_units_stay() {
    unit=/etc/systemd/system/larder.socket
    on_board 'sed -i "s|^#*listen = .*|listen = \"fd://\"|" /etc/larder/larder.toml
        systemctl stop larder; systemctl enable -q --now larder.socket; systemctl start larder'
    at() { check_board "$1" "curl -sf http://127.0.0.1:$2/health; grep -q :$2 $unit; systemctl is-active larder larder.socket"; }
    check "a deploy to a socket of systemd succeeds" deploy "$(changed_binary port)"
    on_board "sed -i s/:8080/:9090/ $unit; systemctl daemon-reload
        systemctl stop larder; systemctl restart larder.socket; systemctl start larder"
    check_says "an edited socket stays" "$unit was changed" deploy "$BIN"
    at "and is served" 9090
    on_board "sed -i s/:9090/:9091/ $unit"
    check "a socket that was edited and not read yet is opened" deploy "$run/port"
    at "and is served" 9091
    on_board "sed -i s/:9091/:9092/ $unit; systemctl daemon-reload"
    check "one that was edited and read, but not restarted, is opened too" deploy "$BIN"
    at "and is served" 9092
    on_board "sed -i s/:9092/:9093/ $unit; systemctl daemon-reload"
    check_says "the way back opens it" "is back and answers" refused "$run/crashing"
    at "and it is served" 9093
    check "a rollback leaves it" rollback
    at "and it is served" 9093
    on_board 'echo "# mine" >>/etc/systemd/system/larder.service'
    check_says "an edited service stays" "larder.service was changed" deploy "$(changed_binary again)"
    check_board "what would have been installed lies beside" 'diff -q /usr/local/lib/larder/larder.socket{.latest,}'
    on_board "rm $unit; cp /usr/local/lib/larder/larder.service.latest /etc/systemd/system/larder.service"
    check_says "what the owner took back is replaced again" "/health 200" deploy "$run/port"
    at "and is served" 8080
    check "and not called changed" deploy_did_not_say "was changed"
    on_board 'echo "# mine" >/etc/sysctl.d/60-larder.conf'
    check_says "settings of the kernel that are the owner's stay" "60-larder.conf was changed" \
        eval 'TUNE=1 deploy "$run/port"'
    on_board 'rm /etc/sysctl.d/60-larder.conf'
}

# A board that was deployed to before copies of what was installed were kept.
old_boards_are_known() {
    on_board 'rm -r /usr/local/lib/larder; sed -i s/^RestartSec=1$/RestartSec=2/ /etc/systemd/system/larder.service'
    git -C "$top" show "$(git -C "$top" log --format=%H -- systemd/larder.socket | tail -n 1):systemd/larder.socket" |
        on_board 'cat >/etc/systemd/system/larder.socket'
    check_says "without a copy, an edited unit is told from one that was shipped" "larder.service was changed" \
        deploy "$(changed_binary older)"
    check "that one is replaced" deploy_did_not_say "larder.socket was changed"
    on_board 'rm /etc/systemd/system/larder.service'
    check "a unit that is gone comes back" deploy "$run/port"
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
