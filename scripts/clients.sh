#!/usr/bin/env bash
# Proves the contract by clients that nobody here wrote: buf curl, which learns everything by reflection, and Python's
# grpcio with code generated from proto/. Both talk to the real daemon on a share made for them.
#
# SYNCD_BIN runs another daemon than the one built here.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"
cd "$ROOT"

ensure_buf
ensure_python
if [[ -z ${SYNCD_BIN:-} ]]; then
    cargo build --quiet --locked -p syncd --bin syncd
    SYNCD_BIN=$TARGET/debug/syncd
fi

work=$(mktemp -d "${TMPDIR:-/tmp}/syncd-clients.XXXXXX")
daemon=
cleanup() {
    [[ -n $daemon ]] && stop "$daemon"
    rm -rf "$work"
}
trap cleanup EXIT

make_share() {
    local share=$1 i
    mkdir -p "$share/many" "$share/deep/er" "$share/empty directory"
    printf 'hello\n' >"$share/hello.txt"
    : >"$share/empty.txt"
    printf 'names are UTF-8\n' >"$share/deep/er/名字 with a space.txt"
    ln -s ../hello.txt "$share/deep/link"
    # More than two messages' worth, and not compressible.
    head -c 2621440 /dev/urandom >"$share/deep/large.bin"
    for i in $(seq 1 300); do printf 'file %d %0*d\n' "$i" $((i * 7)) 0 >"$share/many/$i.txt"; done
}

share=$work/share
make_share "$share"
"$SYNCD_BIN" --listen 127.0.0.1:0 --share "demo=$share" >"$work/stdout" 2>"$work/stderr" </dev/null &
daemon=$!
if ! url=$(wait_ready "$work/stdout" "$daemon" 30); then
    cat "$work/stdout" "$work/stderr" >&2
    exit 1
fi

show_log() { say "the daemon said:"; tail -n 30 "$work/stderr" >&2; }
python3 scripts/buf_curl.py "$BUF" "$url" demo "$share" || { show_log; exit 1; }
mkdir -p "$TARGET/clients"
"$PYTHON" -m grpc_tools.protoc -I proto --python_out="$TARGET/clients" --grpc_python_out="$TARGET/clients" proto/sync/v1/sync.proto
PYTHONPATH=$TARGET/clients "$PYTHON" scripts/grpc_client.py "${url#*://}" demo "$share" || { show_log; exit 1; }
