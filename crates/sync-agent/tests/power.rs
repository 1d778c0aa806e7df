//! The power goes at any moment of a pull: with the durabilities `batch` and `file`, what is recorded is on the disk, nothing that
//! only the target had is lost, and the next pull ends equal.
//!
//! The calls of a real engine are told to a model of the disk (`sync_testkit::power`), which says what a cut may leave.
#![cfg(feature = "failpoints")]
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test, and the trees are its own")]

mod common;
#[path = "power/recorder.rs"]
mod recorder;
#[path = "power/states.rs"]
mod states;

use std::{collections::BTreeMap, path::Path};

use common::Pair;
use recorder::{Recording, Trace};
use states::{State, states};
use sync_agent::engine::{EngineOptions, PullMode};
use sync_core::{Content, NodeId};
use sync_testkit::{
    Scratch,
    crash::{self, Versions},
    ops::Chaos,
    power::{Recorded, View, What, ahead},
    tree::{Tree, same},
};
use sync_tree::{apply::Durability, index::Index};
use tokio::runtime::Handle;

/// Those that promise something.
const DURABILITIES: [Durability; 2] = [Durability::Batch, Durability::File];

/// What the index of a target says of it.
fn recorded(database: &Path) -> BTreeMap<Vec<u8>, Recorded> {
    let index = Index::open(database).unwrap();
    let nodes = index.tree_page(NodeId(0), usize::MAX >> 1).unwrap();
    let mut rows = BTreeMap::new();
    for node in nodes {
        // What is between two places is in neither.
        let Some(path) = index.path_of(node.id).unwrap().filter(|path| !path.as_str().contains(".syncd"))
        else {
            continue;
        };
        let (what, digest) = match &node.entry.content {
            Content::File { digest, .. } => (What::File, Some(digest.0)),
            Content::Directory => (What::Directory, None),
            Content::Symlink { target } => (What::Link(target.to_vec()), None),
        };
        let mode = (!matches!(what, What::Link(_))).then_some(node.entry.mode);
        let mtime = Some((node.entry.mtime.secs, node.entry.mtime.nanos));
        rows.insert(path.as_str().as_bytes().to_vec(), Recorded { what, digest, mode, mtime });
    }
    rows
}

/// Everything that any commit recorded and that was not safe when it began.
fn audit(trace: &Trace) -> Vec<String> {
    let of_tree = |mut view: View| {
        view.retain(|path, _| !path.starts_with(b".syncd/") && *path != b".syncd");
        view
    };
    let mut disk = trace.before.clone();
    let mut found = Vec::new();
    for (number, image) in trace.images.iter().enumerate() {
        for event in &trace.events[disk.events()..image.since] {
            disk.apply(event);
        }
        let problems = ahead(&recorded(&image.path), &of_tree(disk.live()), &of_tree(disk.safe()));
        found.extend(problems.into_iter().map(|problem| format!("commit {number}: {problem}")));
    }
    found
}

fn check(trace: &Trace, which: &str) {
    let found = audit(trace);
    let shown = found.iter().take(20).cloned().collect::<Vec<_>>().join("\n");
    assert!(found.is_empty(), "{which}: {} problems\n{shown}", found.len());
}

/// Pulls, and answers what was done.
async fn traced_pull(pair: &Pair, number: usize) -> Trace {
    let recording =
        Recording::start(pair.target.root(), &pair.scratch.path().join(format!("images {number}")));
    let summary = pair.try_pull(PullMode::default()).await.unwrap();
    assert!(summary.equal, "{summary:?}");
    recording.stop()
}

/// `POWER_SEED=n` runs one other seed, `POWER_SEEDS=n` so many.
fn seeds(usual: u64) -> std::ops::Range<u64> {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    number("POWER_SEED").map_or(0..number("POWER_SEEDS").unwrap_or(usual), |seed| seed..seed + 1)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_recorded_is_safe() {
    for seed in seeds(6) {
        for durability in DURABILITIES {
            let pair = Pair::within(Scratch::in_memory(), durability);
            let mut here = Chaos::new(&pair.share, seed);
            for round in 0..5 {
                for _ in 0..40 {
                    here.step();
                }
                let mut there = Chaos::new(&pair.target, seed ^ 0xbeef ^ round);
                if round % 2 == 1 {
                    (0..6).for_each(|_| there.step());
                }
                let trace = traced_pull(&pair, round as usize).await;
                check(&trace, &format!("POWER_SEED={seed}, {durability:?}, round {round}"));
            }
        }
    }
}

/// More directories than the engine has handles of.
const WIDE: usize = 150;

#[tokio::test(flavor = "multi_thread")]
async fn what_is_recorded_of_many_directories_is_safe() {
    for durability in DURABILITIES {
        let pair = Pair::within(Scratch::in_memory(), durability);
        let share = &pair.share;
        for number in 0..WIDE {
            share.file(format!("{number}/sub/file"), format!("{number}"));
            share.link(format!("{number}/link"), format!("{number}"));
            share.file(format!("moved {number}/file"), "the same everywhere");
        }
        check(&traced_pull(&pair, 0).await, "new");
        for number in 0..WIDE {
            share.placed(format!("{number}/sub/file")).mode(0o600).mtime(5, 6);
        }
        check(&traced_pull(&pair, 1).await, "metadata of files");
        for number in 0..WIDE {
            share.placed(format!("{number}/sub")).mode(0o750);
            share.placed(format!("{number}")).mode(0o555);
        }
        check(&traced_pull(&pair, 2).await, "metadata of directories");
        for number in 0..WIDE {
            pair.target.file(format!("{number}/sub/file"), format!("my own {number}"));
            share.save(format!("{number}/sub/file"), format!("changed {number}"));
            share.rename(format!("moved {number}"), format!("{number}/sub/there"));
        }
        check(&traced_pull(&pair, 3).await, "edits and moves");
        for number in 0..10 {
            share.placed(format!("{number}")).mode(0o755);
            share.remove(format!("{number}/link"));
            share.remove(format!("{number}/sub"));
        }
        check(&traced_pull(&pair, 4).await, "removals");
    }
}

/// How many states are tried of each trace. `POWER_STATES=n` tries others.
fn most_states() -> usize {
    std::env::var("POWER_STATES").ok().and_then(|text| text.parse().ok()).unwrap_or(STATES)
}

const STATES: usize = 150;

/// Pulls into targets as a cut may leave them, and fails with all that went wrong.
async fn next_pulls(pair: &Pair, states: &[State], judge: impl Fn(&Tree, bool) -> Result<(), String>) {
    let mut failures = Vec::new();
    for (number, state) in states.iter().enumerate() {
        let target = pair.scratch.path().join(format!("case {number}"));
        state.place(&target);
        let target = Tree::at(target);
        let pulled = async {
            judge(&target, false)?;
            // What this one flushes is not what is tested.
            let options = EngineOptions { durability: Durability::None, ..pair.options(target.root()) };
            let pulled = pair.pull_with(options, PullMode::default()).await;
            let summary = pulled.map_err(|error| format!("{error:?}"))?;
            if !summary.equal {
                return Err(format!("not equal: {summary:?}"));
            }
            same(pair.share.root(), target.root(), Default::default())?;
            judge(&target, true)
        };
        match pulled.await {
            Err(error) => failures.push(format!("{number}: {}: {error}", state.story)),
            Ok(()) => std::fs::remove_dir_all(target.root()).unwrap(),
        }
    }
    let shown = failures.iter().take(20).cloned().collect::<Vec<_>>().join("\n");
    assert!(failures.is_empty(), "{} of {} states failed:\n{shown}", failures.len(), states.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_cut_nothing_is_lost_and_the_next_pull_ends_equal() {
    for durability in DURABILITIES {
        let pair = Pair::within(Scratch::in_memory(), durability);
        crash::first(&pair.share);
        pair.pull().await;
        let first = pair.share.snapshot();
        crash::edit(&pair.target);
        let witness = pair.scratch.path().join("witness");
        let seen = || {
            let pull = pair.pull_with(pair.options(&witness), PullMode::default());
            drop(tokio::task::block_in_place(|| Handle::current().block_on(pull)).unwrap());
        };
        seen();
        crash::second(&pair.share, seen);
        let versions = Versions::new(first, pair.share.snapshot());
        let trace = traced_pull(&pair, 0).await;
        check(&trace, "the trace");
        let states = states(&trace, most_states(), 1);
        next_pulls(&pair, &states, |target, is_end| {
            if !is_end {
                versions.check(target.root())?;
                return versions.check_own(target.root());
            }
            versions.check_trash(target)?;
            let mut untidy = versions.untidy(target);
            // Of two that cross each other one may be in its new place already; the other cannot go back then.
            untidy.retain(|path| !path.0.starts_with(b"swap "));
            if untidy.is_empty() {
                Ok(())
            } else {
                Err(format!("the share's own versions in the trash: {untidy:?}"))
            }
        })
        .await;
    }
}

/// Files and directories of a share, for a target that has nothing yet.
fn fill(share: &Tree) {
    for number in 0..FILLED {
        share.file(format!("{}/{number}", number % 3), format!("first {number}")).mode(0o640).mtime(1000, 1);
    }
    share.link("link", "anywhere");
}

const FILLED: usize = 30;

#[tokio::test(flavor = "multi_thread")]
async fn a_first_pull_that_was_cut_is_continued_also_if_the_share_has_moved_on() {
    for durability in DURABILITIES {
        let pair = Pair::within(Scratch::in_memory(), durability);
        fill(&pair.share);
        let first = pair.share.snapshot();
        let trace = traced_pull(&pair, 0).await;
        check(&trace, "the trace");
        // More than a first run may replace without asking, if they were somebody's own.
        for number in 0..FILLED / 2 {
            pair.share.save(format!("{}/{number}", number % 3), format!("second {number}"));
        }
        let states = states(&trace, most_states(), 2);
        next_pulls(&pair, &states, |target, is_end| {
            if !is_end {
                let now = target.snapshot();
                let partly = now.iter().find(|(path, seen)| seen.digest != first[*path].digest);
                return partly.map_or(Ok(()), |(path, seen)| Err(format!("{path:?} is not whole: {seen:?}")));
            }
            let trash = target.trash();
            if trash.is_empty() { Ok(()) } else { Err(format!("nobody's own is in the trash: {trash:?}")) }
        })
        .await;
    }
}
