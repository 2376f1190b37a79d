#!/bin/sh
# run.sh BINARY MODEL HOST PORT - serves until Ctrl-C, after printing what to type in another terminal.
set -eu
base="http://$3:$4"
cat <<EOF
qttt serves $2 on $base until Ctrl-C. In another terminal:

  curl $base/v1/models

  curl -N $base/v1/chat/completions -H 'Content-Type: application/json' \\
    -d '{"messages": [{"role": "user", "content": "What is the capital of France?"}], "stream": true}'

EOF
exec "$1" serve --model "$2" --host "$3" --port "$4"
