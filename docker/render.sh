#!/bin/sh
# render.sh FILE - prints FILE with each ${QTTT_NAME} or ${QTTT_NAME:-default} replaced by the environment's value; other
# dollars (nginx has its own) stay. A name that is neither set nor has a default is an error.
set -eu
exec awk '{
    line = $0
    out = ""
    while (match(line, /\$\{QTTT_[A-Z0-9_]+(:-[^}]*)?\}/)) {
        inside = substr(line, RSTART + 2, RLENGTH - 3)
        name = inside
        sub(/:-.*/, "", name)
        if (name in ENVIRON && ENVIRON[name] != "")
            value = ENVIRON[name]
        else if (name != inside)
            value = substr(inside, length(name) + 3)
        else {
            print FILENAME ":" FNR ": " name " is not set" > "/dev/stderr"
            exit 1
        }
        out = out substr(line, 1, RSTART - 1) value
        line = substr(line, RSTART + RLENGTH)
    }
    print out line
}' "$1"
