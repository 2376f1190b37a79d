#!/bin/sh
# venv_python.sh ARG... - the Python of build/venv, for meson, which configures before the environment exists. Without the
# environment the test is skipped with this reason.
root=$(cd "$(dirname "$0")/../.." && pwd)
if ! [ -x "$root/build/venv/bin/python" ] || ! [ -f "$root/build/venv/.requirements" ]; then
    echo 'skip: no build/venv with tests/requirements.txt; "make test" makes it'
    exit 77
fi
exec "$root/build/venv/bin/python" "$@"
