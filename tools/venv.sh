#!/bin/sh
# venv.sh [REQUIREMENTS] - makes build/venv (or $VENV) when it is not there; with a file, installs exactly what it lists, once
# per content of that file. A run that was cut short leaves no stamp and is done again.
set -eu
cd "$(dirname "$0")/.."
venv=${VENV:-build/venv}
python=${PYTHON:-python3}
# A python3 in PATH that cannot make environments must not hide Debian's, which can.
"$python" -c 'import ensurepip, venv' 2>/dev/null || python=/usr/bin/python3

if [ ! -f "$venv/.made" ] || ! "$venv/bin/python" -c 'import pip' 2>/dev/null; then
    echo "venv: making $venv"
    rm -rf "$venv"
    mkdir -p build
    "$python" -m venv "$venv"
    : >"$venv/.made"
fi
[ $# -gt 0 ] || exit 0
if ! cmp -s "$1" "$venv/.requirements"; then
    echo "venv: installing what $1 lists"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -r "$1"
    cp "$1" "$venv/.requirements"
fi
