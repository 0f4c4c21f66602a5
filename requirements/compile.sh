#!/bin/sh
# Pin everything in requirements/*.in, with hashes, for every platform and Python from 3.11 on.
# dev.in holds all of it, so it is solved first and the others are cut out of its solution.
set -eu
cd "$(dirname "$0")"
compile() {
    uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
        --no-annotate --custom-compile-command "make lock" "$@"
}
compile ${UPGRADE:+--upgrade} dev.in -o dev.txt
for set in build core control-plane demo; do
    compile --constraint dev.txt "$set.in" -o "$set.txt"
done
