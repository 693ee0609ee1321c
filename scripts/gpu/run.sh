#!/bin/sh
# Everything that is to be learned on a machine with a GPU, in at most eight minutes: run.sh OUT [MODEL.gguf]
# OUT gets results.json and log.txt. Options of run.py may follow.
here=$(cd "$(dirname "$0")" && pwd)
exec "${PYTHON:-python3}" "$here/run.py" "$@"
