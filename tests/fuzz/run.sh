#!/usr/bin/env bash
# run.sh FOLDER SECONDS [TARGET...]: runs the fuzz targets built in FOLDER (all, or those named,
# such as "cli"), each for so long, at the same time. Inputs that lead somewhere new are kept in
# FOLDER/found/TARGET and are where the next run begins; those that fail are named at the end.
set -euo pipefail

folder=$(cd "$1" && pwd)
seconds=$2
shift 2
corpus=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/corpus
[ $# -gt 0 ] || set -- "$corpus"/*

export OMP_NUM_THREADS=1
export ASAN_OPTIONS=detect_leaks=1:detect_stack_use_after_return=1:allocator_may_return_null=1
export UBSAN_OPTIONS=print_stacktrace=1
TMPDIR=$(mktemp -d)
export TMPDIR
trap 'rm -rf "$TMPDIR"' EXIT

names=()
processes=()
for target in "$@"; do
    name=$(basename "$target")
    if [ ! -x "$folder/fuzz_$name" ]; then
        echo "fuzz/run.sh: there is no target '$name'; there are: $(cd "$corpus" && echo *)" >&2
        exit 2
    fi
    mkdir -p "$folder/found/$name" "$folder/failed/$name"
    rm -f "$folder/failed/$name"/*
    "$folder/fuzz_$name" -max_total_time="$seconds" -rss_limit_mb=2560 -max_len=8192 -timeout=25 \
        -close_fd_mask=3 -print_final_stats=1 -artifact_prefix="$folder/failed/$name/" \
        "$folder/found/$name" "$corpus/$name" >"$folder/$name.log" 2>&1 </dev/null &
    names+=("$name")
    processes+=($!)
done

failed=0
for i in "${!names[@]}"; do
    name=${names[$i]}
    log=$folder/$name.log
    result=clean
    wait "${processes[$i]}" || { result=FAILED; failed=1; }
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    coverage=$(sed -n 's/.* cov: \([0-9]*\) .*/\1/p' "$log" | tail -n 1)
    printf '%-12s %-7s %10s runs, %5s edges\n' "$name" "$result" "${runs:-?}" "${coverage:-?}"
    if [ "$result" = FAILED ]; then
        grep -m 3 -E 'ERROR|runtime error|SUMMARY' "$log" || tail -n 5 "$log"
        ls "$folder/failed/$name"/* 2>/dev/null || true
    fi
done
exit $failed
