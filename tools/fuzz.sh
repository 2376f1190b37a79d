#!/bin/sh
# fuzz.sh [SECONDS [TARGET]] - builds the libFuzzer targets with clang and runs each over its corpus, for 60 seconds unless
# told otherwise; 0 means until Ctrl-C, which makes sense with a TARGET. New inputs stay in build-fuzz/corpus/, a crash in
# build-fuzz/crashes/; to keep an input for good, copy it to tests/fuzz/corpus/TARGET/. FUZZ_SEED=N repeats a run's seed.
set -eu
cd "$(dirname "$0")/.."
seconds=${1:-60}
wanted=${2:-}
build=build-fuzz

log=$(mktemp)
trap 'rm -f "$log"' EXIT
sh tools/sanitizer_build.sh fuzz >"$log" 2>&1 || { tail -n 30 "$log"; exit 1; }
mkdir -p $build/crashes

passed=0 failed=0
for target in $(ninja -C $build -t query fuzz | sed -n 's|^.* \(tests/fuzz/fuzz_[a-z0-9_]*\)$|\1|p'); do
    target=$build/$target
    name=$(basename "$target")
    name=${name#fuzz_}
    [ -z "$wanted" ] || [ "$wanted" = "$name" ] || continue
    mkdir -p "$build/corpus/$name"
    set -- "$build/corpus/$name"
    [ -d "tests/fuzz/corpus/$name" ] && set -- "$@" "tests/fuzz/corpus/$name"
    if UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 nice "$target" -max_total_time="$seconds" -timeout=10 \
        -rss_limit_mb=2048 -seed="${FUZZ_SEED:-0}" -artifact_prefix="$build/crashes/$name-" "$@" >"$build/$name.log" 2>&1; then
        echo "fuzz $name: ok ($(sed -n 's/^Done \([0-9]*\) runs.*/\1/p' "$build/$name.log") runs)"
        passed=$((passed + 1))
    else
        tail -n 40 "$build/$name.log"
        echo "fuzz $name: FAILED"
        failed=$((failed + 1))
    fi
done
if [ $((passed + failed)) -eq 0 ]; then
    echo "fuzz: no such target"
    failed=1
fi
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
