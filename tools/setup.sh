#!/bin/sh
# setup.sh - installs with apt what the build (with "test" the tests too, with "deep" the sanitizer and fuzzing builds too) needs
# and this machine lacks. Says what it does; does nothing and needs no root when nothing is missing. Never touches CUDA.
set -eu

packages='gcc libc6-dev meson ninja-build pkg-config git ca-certificates python3 python3-venv
libuv1-dev libmicrohttpd-dev libjansson-dev libcyaml-dev libyaml-dev libdnnl-dev libpcre2-dev libutf8proc-dev libxxhash-dev nettle-dev libsqlite3-dev libcmocka-dev'
case ${1:-} in
test) packages="$packages g++ clang-format strace nginx-light libnginx-mod-http-js haproxy" ;;
deep) packages="$packages g++ clang-format strace nginx-light libnginx-mod-http-js haproxy clang lld libclang-rt-14-dev libomp-dev llvm" ;;
esac

if ! command -v dpkg-query >/dev/null 2>&1 || ! command -v apt-get >/dev/null 2>&1; then
    # Not a Debian: name what a build would stumble over and leave the installing to the user.
    missing=
    for tool in cc meson ninja pkg-config python3; do
        command -v "$tool" >/dev/null 2>&1 || missing="$missing $tool"
    done
    [ -z "$missing" ] || {
        echo "setup: no apt here; please install:$missing and the libraries named in meson.build" >&2
        exit 1
    }
    exit 0
fi

# What the tests use and apt does not install.
finish() {
    case $1 in
    test | deep) sh "$(dirname "$0")/promtool.sh" ;;
    esac
}

missing=
for p in $packages; do
    case $(dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null || true) in
    installed) ;;
    *) missing="$missing $p" ;;
    esac
done
if [ -z "$missing" ]; then
    finish "${1:-}"
    exit 0
fi

as_root=
if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null 2>&1 || {
        echo "setup: needs root (or sudo) once, for: apt-get install$missing" >&2
        exit 1
    }
    as_root=sudo
fi
echo "setup: apt-get install$missing"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
quietly() {
    "$@" >"$log" 2>&1 || {
        tail -n 20 "$log" >&2
        echo "setup: '$*' failed" >&2
        exit 1
    }
}
# The proxies are here to be run by tests: their packages shall not start them, neither now nor at the next boot.
policy=/usr/sbin/policy-rc.d
services=
for p in nginx-light haproxy; do
    case " $missing " in *" $p "*) services="$services ${p%-light}" ;; esac
done
[ -z "$services" ] || [ -e "$policy" ] || {
    trap '$as_root rm -f "$policy"; rm -f "$log"' EXIT
    printf '#!/bin/sh\nexit 101\n' | $as_root tee "$policy" >/dev/null
    $as_root chmod +x "$policy"
}
quietly $as_root apt-get update
# shellcheck disable=SC2086 # a list of words
quietly $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $missing
# shellcheck disable=SC2086
[ -z "$services" ] || [ ! -d /run/systemd/system ] || quietly $as_root systemctl disable $services
finish "${1:-}"
echo 'setup: done'
