#!/bin/sh
# sanitizer_build.sh asan|tsan [TARGET...] - builds build-asan (address and undefined behaviour; its objects serve the fuzz
# targets too) or build-tsan (threads) with clang: all of it, or the ninja targets named. JOBS=N as in the Makefile.
set -eu
cd "$(dirname "$0")/.."
name=$1
shift
case $name in
asan) set -- address,undefined -Dfuzz=true "$@" ;;
tsan) set -- thread -Dfuzz=false "$@" ;;
*) echo "sanitizer_build.sh: asan or tsan?" >&2 && exit 2 ;;
esac
sanitize=$1 fuzz=$2
shift 2

# Some 120 programs with a runtime each: lld and line tables alone (reports need no more) halve the build's time.
[ -f "build-$name/build.ninja" ] || CC=clang CC_LD=lld meson setup "build-$name" "-Db_sanitize=$sanitize" "$fuzz" \
    -Db_lundef=false -Doptimization=2 -Ddebug=false -Dc_args=-gline-tables-only
exec ninja -C "build-$name" ${JOBS:+"-j$JOBS"} "$@"
