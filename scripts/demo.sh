#!/usr/bin/env bash
# Serves a small sample share and follows it into a target, with the output of both programs side by side.
#
# On a terminal it runs until Ctrl-C: change something in the share and watch. Without one it changes a file itself, waits
# until the change has arrived, and ends with 0. SYNCD_DEMO_PROFILE=dev demonstrates the development build.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"
cd "$ROOT"

ARRIVAL_SECONDS=15
profile=${SYNCD_DEMO_PROFILE:-release}
if [[ -z ${SYNCD_BIN_DIR:-} ]]; then
    say "building (profile $profile) ..."
    cargo build --quiet --locked --profile "$profile" -p syncd --bins
    SYNCD_BIN_DIR=$TARGET/$([[ $profile == dev ]] && echo debug || echo "$profile")
fi

work=$(mktemp -d "${TMPDIR:-/tmp}/syncd-demo.XXXXXX")
share=$work/share target=$work/target
daemon='' agent='' printers=()
cleanup() {
    trap '' INT TERM
    for pid in $agent $daemon; do stop "$pid"; done
    # They end by themselves when the programs' ends of the pipes are closed.
    for pid in "${printers[@]}"; do wait "$pid" 2>/dev/null || true; done
    rm -rf "$work"
}
trap cleanup EXIT
trap 'echo; exit 0' INT TERM

# Starts a program with each line of its output marked by a name. Sets `started`. Arguments: name, command...
start() {
    local name=$1
    shift
    mkfifo "$work/$name.pipe"
    : >"$work/$name.log"
    (trap '' INT TERM; exec tee -a "$work/$name.log" <"$work/$name.pipe") | (trap '' INT TERM; exec sed -u "s/^/$(printf '%-5s' "$name") | /") &
    printers+=($!)
    "$@" >"$work/$name.pipe" 2>&1 </dev/null &
    started=$!
}

# Waits until two files are equal. Arguments: file, file, pids that must stay alive...
wait_equal() {
    local left=$1 right=$2 deadline=$((SECONDS + ARRIVAL_SECONDS))
    shift 2
    until cmp -s "$left" "$right"; do
        ((SECONDS <= deadline)) || die "$right did not arrive within $ARRIVAL_SECONDS s"
        for pid in "$@"; do kill -0 "$pid" 2>/dev/null || die "a program ended early"; done
        sleep 0.02
    done
}

mkdir -p "$share/notes" "$share/pictures"
printf '# Shopping\n\n- bread\n- tea\n' >"$share/notes/shopping.md"
printf 'rain all day\n' >"$share/notes/diary.txt"
head -c 300000 /dev/urandom >"$share/pictures/sky.raw"
ln -s ../notes/diary.txt "$share/pictures/about.txt"

start syncd "$SYNCD_BIN_DIR/syncd" --listen 127.0.0.1:0 --share "demo=$share"
daemon=$started
url=$(wait_ready "$work/syncd.log" "$daemon" 30) || exit 1
start agent "$SYNCD_BIN_DIR/sync-agent" --server "$url" --share demo --target "$target" follow
agent=$started
wait_equal "$share/pictures/sky.raw" "$target/pictures/sky.raw" "$daemon" "$agent"
wait_equal "$share/notes/diary.txt" "$target/notes/diary.txt" "$daemon" "$agent"

if [[ -t 0 && -t 1 ]]; then
    echo
    echo "The share is   $share"
    echo "The target is  $target"
    echo "Change something in the share from another terminal, for example:"
    echo "    echo sunny >> $share/notes/diary.txt; mv $share/pictures $share/images"
    echo "Ctrl-C ends both."
    echo
    wait -n "$daemon" "$agent" || true
    die "a program ended early"
fi

before=$(date +%s%N)
printf 'sun in the evening\n' >>"$share/notes/diary.txt"
wait_equal "$share/notes/diary.txt" "$target/notes/diary.txt" "$daemon" "$agent"
echo "demo  | the change was on the target after $((($(date +%s%N) - before) / 1000000)) ms"
rm "$share/notes/shopping.md"
deadline=$((SECONDS + ARRIVAL_SECONDS))
while [[ -e $target/notes/shopping.md ]]; do
    ((SECONDS <= deadline)) || die "the deletion did not arrive within $ARRIVAL_SECONDS s"
    sleep 0.02
done
echo "demo  | and so was a deletion"
