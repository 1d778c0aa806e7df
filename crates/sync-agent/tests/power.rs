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

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use common::Pair;
use recorder::{Recording, Trace};
use states::{State, states};
use sync_agent::engine::{EngineOptions, PullMode};
use sync_core::{Content, NodeId};
use sync_testkit::{
    Scratch,
    crash::{self, Versions},
    ops::Chaos,
    power::{Event, Recorded, View, What, ahead},
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

type Digests = BTreeSet<[u8; 32]>;

/// At so many moments of a trace it is looked whether all is there.
const MOMENTS: usize = 100;

/// Whatever of these contents was not sure to be left by a cut, under any name, at some moment or, by the stricter rule that holds
/// when a flush is over, at a commit.
fn missing(trace: &Trace, own: &Digests) -> Vec<String> {
    let mut disk = trace.before.clone();
    let mut found = Vec::new();
    for (at, event) in trace.events.iter().enumerate().filter(|_| !own.is_empty()) {
        let left = match trace.images.iter().any(|image| image.since == at) {
            true => disk.safe(),
            false if at % (trace.events.len() / MOMENTS + 1) == 0 => disk.least(),
            false => View::new(),
        };
        disk.apply(event);
        let there: Digests = left.values().map(|held| *blake3::hash(&held.bytes).as_bytes()).collect();
        let lost = own.difference(&there).count();
        if lost > 0 && !left.is_empty() {
            found.push(format!("after {at} of {}: {lost} files of its own may be lost", trace.events.len()));
        }
    }
    found
}

/// A share and a target, and all that the share ever had.
struct Traced {
    pair: Pair,
    known: Digests,
    pulls: usize,
}

impl Traced {
    fn new(durability: Durability) -> Self {
        let pair = Pair::within(Scratch::in_memory(), durability);
        // What is empty cannot be told apart, and is no loss.
        Self { pair, known: Digests::from([*blake3::hash(b"").as_bytes()]), pulls: 0 }
    }

    /// Pulls. Fails if something was recorded that was not safe, or something of the target's own was not safe.
    async fn pull(&mut self, which: &str) -> Trace {
        let digests =
            |tree: &Tree| tree.snapshot().values().filter_map(|seen| seen.digest).collect::<Digests>();
        self.known.extend(digests(&self.pair.share));
        let own = &digests(&self.pair.target) - &self.known;
        self.pulls += 1;
        let images = self.pair.scratch.path().join(format!("images {}", self.pulls));
        let recording = Recording::start(self.pair.target.root(), &images);
        let summary = self.pair.try_pull(PullMode::default()).await.unwrap();
        assert!(summary.equal, "{summary:?}");
        let trace = recording.stop();
        let mut found = audit(&trace);
        found.extend(missing(&trace, &own));
        let durability = self.pair.durability;
        let shown = found.iter().take(20).cloned().collect::<Vec<_>>().join("\n");
        assert!(found.is_empty(), "{durability:?}, {which}: {} problems\n{shown}", found.len());
        trace
    }
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
            let mut traced = Traced::new(durability);
            let mut here = Chaos::new(&traced.pair.share, seed);
            for round in 0..5 {
                for _ in 0..40 {
                    here.step();
                }
                let mut there = Chaos::new(&traced.pair.target, seed ^ 0xbeef ^ round);
                if round % 2 == 1 {
                    (0..6).for_each(|_| there.step());
                }
                traced.pull(&format!("POWER_SEED={seed}, round {round}")).await;
            }
        }
    }
}

/// How many directories were filled in staging and got their place with what is in them.
fn appeared(trace: &Trace) -> usize {
    let is_appearing = |event: &&Event| {
        let new = |name: &[u8]| name.starts_with(b"new-");
        matches!(event, Event::Rename((_, from), (_, to)) if new(from) && !new(to))
    };
    trace.events.iter().filter(is_appearing).count()
}

/// More directories than the engine has handles of.
const WIDE: usize = 150;
/// What is flushed together takes so few calls, however many files and directories there are.
const FLUSHES: usize = 60;

#[tokio::test(flavor = "multi_thread")]
async fn what_is_recorded_of_many_directories_is_safe() {
    for durability in DURABILITIES {
        let mut traced = Traced::new(durability);
        let (share, target) = (traced.pair.share.clone(), traced.pair.target.clone());
        for number in 0..WIDE {
            share.file(format!("{number}/sub/file"), format!("{number}"));
            share.link(format!("{number}/link"), format!("{number}"));
            share.file(format!("moved {number}/file"), "the same everywhere");
        }
        let trace = traced.pull("new").await;
        assert_eq!(appeared(&trace), 2 * WIDE, "those with nothing but files in them");
        let is_flush = |event: &&Event| matches!(event, Event::Sync { .. } | Event::SyncAll { .. });
        let flushes = trace.events.iter().filter(is_flush).count();
        assert!(durability == Durability::File || flushes < FLUSHES, "{flushes} flushes");
        for number in 0..WIDE {
            share.placed(format!("{number}/sub/file")).mode(0o600).mtime(5, 6);
        }
        traced.pull("metadata of files").await;
        for number in 0..WIDE {
            share.placed(format!("{number}/sub")).mode(0o750);
            share.placed(format!("{number}")).mode(0o555);
        }
        traced.pull("metadata of directories").await;
        for number in 0..WIDE {
            target.file(format!("{number}/sub/file"), format!("my own {number}"));
            share.save(format!("{number}/sub/file"), format!("changed {number}"));
            share.rename(format!("moved {number}"), format!("{number}/sub/there"));
        }
        traced.pull("edits and moves").await;
        for number in 0..10 {
            share.placed(format!("{number}")).mode(0o755);
            share.remove(format!("{number}/link"));
            share.remove(format!("{number}/sub"));
        }
        traced.pull("removals").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_first_pull_finds_is_safe() {
    for durability in DURABILITIES {
        let mut traced = Traced::new(durability);
        let Pair { share, target, .. } = &traced.pair;
        for number in 0..5 {
            share.file(format!("{number}"), format!("the share's {number}"));
            target.file(format!("{number}"), format!("my own {number}"));
        }
        let trace = traced.pull("over files of its own").await;
        let flushes = trace.events.iter().filter(|event| matches!(event, Event::SyncAll { .. })).count();
        assert_eq!(flushes, 0, "for so few files nothing else has to be flushed with them");
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
        let mut traced = Traced::new(durability);
        let pair = &traced.pair;
        crash::first(&pair.share);
        pair.pull().await;
        let first = pair.share.snapshot();
        crash::edit(&pair.target);
        traced.known.extend(first.values().filter_map(|seen| seen.digest));
        let pair = &traced.pair;
        let witness = pair.scratch.path().join("witness");
        let seen = || {
            let pull = pair.pull_with(pair.options(&witness), PullMode::default());
            drop(tokio::task::block_in_place(|| Handle::current().block_on(pull)).unwrap());
        };
        seen();
        crash::second(&pair.share, seen);
        let versions = Versions::new(first, pair.share.snapshot());
        let trace = traced.pull("the trace").await;
        let pair = &traced.pair;
        let states = states(&trace, most_states(), 1);
        next_pulls(pair, &states, |target, is_end| {
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
        let mut traced = Traced::new(durability);
        let pair = &traced.pair;
        fill(&pair.share);
        let first = pair.share.snapshot();
        let trace = traced.pull("the trace").await;
        assert_eq!(appeared(&trace), 3, "all that a cut may leave of that is tried");
        let pair = &traced.pair;
        // More than a first run may replace without asking, if they were somebody's own.
        for number in 0..FILLED / 2 {
            pair.share.save(format!("{}/{number}", number % 3), format!("second {number}"));
        }
        let states = states(&trace, most_states(), 2);
        next_pulls(pair, &states, |target, is_end| {
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
