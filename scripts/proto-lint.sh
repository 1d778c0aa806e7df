#!/usr/bin/env bash
# Lints the wire contract by buf's STANDARD rules (buf.yaml).
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"
cd "$ROOT"

ensure_buf
"$BUF" lint
"$BUF" build -o /dev/null
say "proto/ is clean"
