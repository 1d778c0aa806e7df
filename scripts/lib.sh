# Sourced by the other scripts: where things are, and how the tools that a check needs get there. Nothing is installed
# for the whole machine, but rsync in a container that runs as root.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
TARGET=${CARGO_TARGET_DIR:-$ROOT/target}
TOOLS=$TARGET/tools

# Pinned, so that a release of theirs never turns this repository red.
BUF_VERSION=1.75.0
GRPC_VERSION=1.85.1
CARGO_DENY_VERSION=0.20.2

# cargo-deny takes a minute to build, so it outlives `make clean` and is shared by checkouts.
DENY_DIR=${SYNCD_TOOLS_DIR:-${XDG_CACHE_HOME:-${HOME:-$TARGET}/.cache}/syncd-tools}/cargo-deny-$CARGO_DENY_VERSION

# These settle what the scripts do. To the programs a variable named SYNCD_… is a setting, and they warn of one they do not
# know, so they do not see these.
export -n SYNCD_BIN SYNCD_BIN_DIR SYNCD_DEMO_PROFILE SYNCD_TOOLS_DIR

say() { printf '%s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }

# Installs buf from npm below the target directory and sets BUF.
ensure_buf() {
    BUF=$TOOLS/buf-$BUF_VERSION/node_modules/.bin/buf
    [[ -x $BUF ]] && return
    command -v npm >/dev/null || die "buf comes from npm, and npm is not installed"
    mkdir -p "$TOOLS/buf-$BUF_VERSION"
    npm install --silent --no-audit --no-fund --no-save --prefix "$TOOLS/buf-$BUF_VERSION" "@bufbuild/buf@$BUF_VERSION" >&2
    "$BUF" --version >/dev/null
}

# Makes a Python environment with grpcio and its code generator below the target directory and sets PYTHON.
ensure_python() {
    local venv=$TOOLS/python-grpc-$GRPC_VERSION
    PYTHON=$venv/bin/python
    [[ -e $venv/complete ]] && return
    rm -rf "$venv"
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check "grpcio==$GRPC_VERSION" "grpcio-tools==$GRPC_VERSION" >&2
    touch "$venv/complete"
}

# Builds cargo-deny where it is missing and sets DENY. Unoptimised: it builds in one minute instead of many, and runs for a second.
ensure_deny() {
    DENY=$DENY_DIR/bin/cargo-deny
    [[ -x $DENY ]] && return
    say "building cargo-deny $CARGO_DENY_VERSION (once; about a minute)"
    CARGO_PROFILE_RELEASE_OPT_LEVEL=0 CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 \
        CARGO_TARGET_DIR=$TARGET/tools/cargo-deny-build \
        cargo install --quiet --locked --no-default-features --root "$DENY_DIR" "cargo-deny@$CARGO_DENY_VERSION" >&2
    rm -rf "$TARGET/tools/cargo-deny-build"
}

# rsync is what the benchmarks measure against. Without it they go without the comparison and say so.
ensure_rsync() {
    command -v rsync >/dev/null && return
    if [[ $(id -u) == 0 ]] && command -v apt-get >/dev/null; then
        export DEBIAN_FRONTEND=noninteractive
        { apt-get install -y -q rsync || { apt-get update -q && apt-get install -y -q rsync; }; } >/dev/null 2>&1 || true
    fi
    command -v rsync >/dev/null || say "rsync is not installed: its rows are left out"
}

# Waits until a file has a line that starts with "ready ", and prints the address in it. Fails when the program ended
# or the seconds are over. Arguments: file, pid, seconds.
wait_ready() {
    local deadline=$((SECONDS + $3)) url
    while ((SECONDS <= deadline)); do
        url=$(sed -n 's/^ready //p' "$1" | head -n 1)
        [[ -n $url ]] && { printf '%s\n' "$url"; return; }
        kill -0 "$2" 2>/dev/null || { say "the program ended before it was ready"; return 1; }
        sleep 0.05
    done
    say "no ready line within $3 s"
    return 1
}

# Ends a program that this script started: politely, then after 5 s for sure.
stop() {
    local pid=$1 tries=100
    kill -TERM "$pid" 2>/dev/null || return 0
    while kill -0 "$pid" 2>/dev/null && ((tries-- > 0)); do sleep 0.05; done
    kill -KILL "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
}
