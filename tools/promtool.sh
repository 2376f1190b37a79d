#!/bin/sh
# promtool.sh - puts Prometheus's promtool into build/promtool: unpacked from Debian's package, which is not installed, because
# installing it would start a service. Does nothing when there is one; without a network it says so, and the tests that want it
# are skipped with that reason.
set -eu
cd "$(dirname "$0")/.."
if [ -x build/promtool ] || command -v promtool >/dev/null 2>&1; then
    exit 0
fi
command -v apt-get >/dev/null 2>&1 || exit 0
mkdir -p build
at=$(mktemp -d)
trap 'rm -rf "$at"' EXIT
chmod 755 "$at"
download() {
    (cd "$at" && apt-get download prometheus >log 2>&1)
}
# Without package lists it does not know the name: they are fetched, where that is ours to do.
if { download || { [ "$(id -u)" = 0 ] && apt-get update >"$at/log" 2>&1 && download; }; } &&
    dpkg-deb --fsys-tarfile "$at"/prometheus_*.deb | tar -xO ./usr/bin/promtool >"$at/promtool"; then
    chmod 755 "$at/promtool"
    mv "$at/promtool" build/promtool
    echo 'setup: build/promtool, out of the package prometheus'
else
    echo "setup: no promtool: $(tail -n 1 "$at/log")" >&2
fi
