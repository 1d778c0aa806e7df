#!/usr/bin/env bash
# Runs the programs beside rsync and prints the table. QUICK=1: small trees, under two minutes. FULL=1: also a million
# files. PLOT=FILE: the growth of costs as SVG. Arguments: rows to run, all without.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"
cd "$ROOT"

ensure_rsync
# Benchmarks start in their package's directory, which is where a relative PLOT counts from as well.
cargo bench --locked --bench peers -- "$@"
