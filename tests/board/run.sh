#!/bin/bash
# `make test-board`: deploys to a container that is like a board, and looks at what a board's owner would look at.
#   BIN=path deploys that binary instead of building the release; ENGINES="tiny_http epoll" are those tried.
# Each step says what holds; the first that does not ends the run with the board's log.
set -u
here=$(cd "$(dirname "$0")" && pwd)
top=$(cd "$here/../.." && pwd)
# shellcheck source=tests/board/board.sh
. "$here/board.sh"
# shellcheck source=tests/board/checks.sh
. "$here/checks.sh"

board_need
if [ -z "${BIN:-}" ]; then
    BIN=$("$top/systemd/build-for.sh" "$(rustc -vV | sed -n 's/^host: //p')") || die "the build failed"
    case $BIN in /*) ;; *) BIN=$top/$BIN ;; esac
fi
board_boot

first_deploy
unit_is_in_force
data_survives
signals_and_log
watchdog_bites
second_deploy
rollback_and_forward
broken_binaries_are_refused
owner_settings_count
owner_units_stay
old_boards_are_known
for engine in ${ENGINES:-tiny_http epoll}; do
    restart_under_load "$engine"
done
figures
say "all $checks checks hold"
