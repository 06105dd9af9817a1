#!/bin/sh
# Fuzzes every target in turn, HOURS in all (1 if not said), with libFuzzer on the stable compiler: its coverage counters
# need no sanitizer and no nightly. What it finds stays in tests/fuzz/artifacts; `FUZZ_TARGET=name any FILE` repeats it.
# New inputs go to target/fuzz/corpus: those worth keeping are copied to tests/fuzz/corpus by hand.
set -eu
cd "$(dirname "$0")"
targets=${FUZZ_TARGET:-$(ls corpus)}
count=$(echo "$targets" | wc -w)
seconds=${FUZZ_SECONDS:-$((${HOURS:-1} * 3600 / count))}
export CARGO_TARGET_DIR="$PWD/../../target/fuzz"
host=$(rustc -vV | sed -n 's/^host: //p')

# With --target the flags do not reach build scripts and macros, which cannot be linked with them.
RUSTFLAGS="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
-Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares --cfg fuzzing" \
    ${CARGO:-cargo} build --release --target "$host"

for target in $targets; do
    mkdir -p "artifacts/$target" "$CARGO_TARGET_DIR/corpus/$target"
    echo "== $target: $seconds s"
    FUZZ_TARGET=$target "$CARGO_TARGET_DIR/$host/release/any" -max_total_time="$seconds" -max_len=4096 -timeout=10 -rss_limit_mb=1024 \
        -print_final_stats=1 -artifact_prefix="artifacts/$target/" "$CARGO_TARGET_DIR/corpus/$target" "corpus/$target"
done
