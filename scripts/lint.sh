#!/usr/bin/env bash
# Everything that is checked without running the programs.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"
cd "$ROOT"

cargo fmt --all --check
cargo clippy --workspace --all-targets --locked -- -D warnings
# What is in the tests only: the failpoints, and the tests that use them.
cargo clippy --workspace --all-targets --locked --features failpoints -- -D warnings
RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked --quiet
ensure_deny
# Duplicate versions are worth a look (`cargo deny check bans`), not a page of warnings in each run.
"$DENY" --log-level error check bans licenses sources
