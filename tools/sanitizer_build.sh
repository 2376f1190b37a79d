#!/bin/sh
# sanitizer_build.sh asan|tsan|fuzz - builds with clang build-asan (address and undefined behaviour), build-tsan (threads) or
# build-fuzz (the fuzz targets, in objects of their own: what guides a fuzzer would make all other tests half as fast).
# JOBS=N as in the Makefile.
set -eu
cd "$(dirname "$0")/.."
name=$1
case $name in
asan) sanitize=address,undefined fuzz=false target=all ;;
tsan) sanitize=thread fuzz=false target=all ;;
fuzz) sanitize=address,undefined fuzz=true target=fuzz ;;
*) echo "sanitizer_build.sh: asan, tsan or fuzz?" >&2 && exit 2 ;;
esac

# Some 120 programs with a runtime each: lld and line tables alone (reports need no more) halve the build's time.
[ -f "build-$name/build.ninja" ] || CC=clang CC_LD=lld meson setup "build-$name" "-Db_sanitize=$sanitize" -Dfuzz=$fuzz \
    -Db_lundef=false -Doptimization=2 -Ddebug=false -Dc_args=-gline-tables-only
exec ninja -C "build-$name" ${JOBS:+"-j$JOBS"} $target
