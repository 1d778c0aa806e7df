//! The engine against a share on the same disk, in one process: the whole cycle without programs or a network.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use common::{Pair, Scripted, options_for};
use sync_agent::engine::{AppliedOp, Engine, EngineError, Phase, PullMode, Reporter, Silent, Summary};
use sync_core::{FeedEvent, Halt, Time, TreePath};
use sync_locations::{
    Faulty, Location, Memory,
    faulty::{Call, Moment, Script, Turn},
    memory::Edit,
};
use sync_testkit::{eventually, ops::Chaos, tree::assert_same};
use tokio_util::sync::CancellationToken;

/// Remembers what was applied.
#[derive(Default)]
struct Heard(Mutex<Vec<(AppliedOp, String)>>);

impl Reporter for Heard {
    fn applied(&self, op: AppliedOp, path: &TreePath, _from: Option<&TreePath>) {
        self.0.lock().unwrap().push((op, path.as_str().to_owned()));
    }
}

async fn pull_heard(pair: &Pair) -> Vec<(AppliedOp, String)> {
    let heard = Arc::new(Heard::default());
    let reporter: Arc<dyn Reporter> = heard.clone();
    let summary = pair
        .engine()
        .pull(&pair.remote, PullMode::default(), &reporter, &CancellationToken::new())
        .await
        .unwrap();
    assert!(summary.equal, "{summary:?}");
    assert_same(pair.share.root(), pair.target.root());
    let heard = heard.0.lock().unwrap();
    heard.clone()
}

/// Does something when the engine has looked at the target, and plans.
struct WhenPlanning<F>(Mutex<Option<F>>);

impl<F: FnOnce() + Send> Reporter for WhenPlanning<F> {
    fn phase(&self, phase: Phase) {
        if phase == Phase::Planning
            && let Some(act) = self.0.lock().unwrap().take()
        {
            act();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_in_place_of_a_directory_that_somebody_removed_meanwhile() {
    let pair = Scripted::new();
    pair.share.edit(|edit| edit.file("place/in", "in"));
    pair.pull().await;
    pair.share.edit(|edit| {
        edit.rename("place", "moved");
        edit.file("place", "a file");
    });
    let target = pair.target.clone();
    let meanwhile = WhenPlanning(Mutex::new(Some(move || target.remove("place"))));
    let summary = pair.try_pull(Arc::new(meanwhile)).await.unwrap();
    assert!(summary.equal, "{summary:?}");
    assert_eq!(
        (pair.target.read("place"), pair.target.read("moved/in")),
        (b"a file".to_vec(), b"in".to_vec())
    );
}

/// `SYNCD_SEED=4192` of the simulation, once.
#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_is_moved_has_the_shares_time_whatever_somebody_made_of_it() {
    for (from, to) in [("dir", "moved"), ("dir", "other/moved"), ("dir", "other")] {
        let pair = Scripted::new();
        pair.share.edit(|edit| {
            edit.file("dir/in", "in");
            edit.file("other/in", "in the other one");
            edit.mtime("dir", Time { secs: 1000, nanos: 0 });
            edit.mtime("other", Time { secs: 2000, nanos: 0 });
        });
        pair.pull().await;
        pair.share.edit(|edit| match pair.target.has(to) {
            true => edit.swap(from, to),
            false => edit.rename(from, to),
        });
        let dir = pair.target.placed(from);
        let meanwhile = WhenPlanning(Mutex::new(Some(move || drop(dir.mtime(3000, 0)))));
        let summary = pair.try_pull(Arc::new(meanwhile)).await.unwrap();
        assert!(summary.equal, "{summary:?}");
        assert_eq!(pair.target.look(to).mtime, (1000, 0), "{to}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_index_after_half_a_swap_was_heard_of() {
    let pair = Scripted::new();
    pair.share.set_page(1);
    pair.share.edit(|edit| {
        edit.file("a", "content a");
        edit.file("b", "content b");
    });
    pair.pull().await;
    pair.share.edit(|edit| edit.swap("a", "b"));
    // The rules, and one of the two nodes: for the moment both are in one place.
    pair.share.cut_feed_after(2);
    let cut = pair.try_pull(Arc::new(Silent)).await;
    assert!(matches!(cut, Err(EngineError::Location(_))), "{cut:?}");
    pair.share.new_epoch();
    assert!(pair.pull().await.equal);
    assert_eq!(
        (pair.target.read("a"), pair.target.read("b")),
        (b"content b".to_vec(), b"content a".to_vec())
    );
    assert!(pair.target.trash().is_empty(), "{:?}", pair.target.trash());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_share_replaced_is_no_trash_though_its_node_is_elsewhere_by_then() {
    let pair = Scripted::new();
    let (share, target) = (&pair.share, &pair.target);
    share.edit(|edit| edit.file("log", "one"));
    pair.pull().await;
    // As logs are rotated: the old one is renamed and written to once more.
    share.edit(|edit| {
        edit.rename("log", "log.1");
        edit.file("log.1", "one and more");
        edit.file("log", "two");
    });
    share.set_unreadable("log", Some("not now"));
    assert_eq!(pair.pull().await.problems.len(), 1);
    assert_eq!(target.read("log.1"), b"one and more");
    share.set_unreadable("log", None);
    assert!(pair.pull().await.equal);
    assert_eq!(target.read("log"), b"two");
    assert!(target.trash().is_empty(), "{:?}", target.trash());
}

/// The files of a share in memory, by number.
fn numbered(edit: &mut Edit<'_>, dir: &str, numbers: std::ops::Range<u32>) {
    for number in numbers {
        edit.file(&format!("{dir}/{number}"), format!("content {number}"));
    }
}

fn without(edit: &mut Edit<'_>, dir: &str, numbers: std::ops::Range<u32>) {
    for number in numbers {
        edit.remove(&format!("{dir}/{number}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_runs_deleted_that_failed_later_counts_for_the_guard() {
    let pair = Scripted::new();
    pair.share.edit(|edit| numbered(edit, "d", 0..300));
    pair.pull().await;
    pair.share.edit(|edit| {
        without(edit, "d", 0..140);
        // What is small is sent for before there is a plan, and again if that is cut.
        edit.file("new", vec![7; 2 << 20]);
    });
    pair.share.cut_fetch_after(0);
    let cut = pair.try_pull(Arc::new(Silent)).await;
    assert!(matches!(cut, Err(EngineError::Location(_))), "{cut:?}");
    assert!(!pair.target.has("d/7") && pair.target.has("d/150"));
    pair.share.edit(|edit| without(edit, "d", 140..220));
    let halted = pair.try_pull(Arc::new(Silent)).await;
    let deletions = match halted {
        Err(EngineError::Halt(Halt::MassDelete { deletions, files: 300 })) => deletions,
        other => panic!("{other:?}"),
    };
    assert_eq!(deletions, 220);
    assert!(pair.target.has("d/150"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_appears_elsewhere_at_the_same_time_never_counts_for_the_guard() {
    let pair = Scripted::new();
    pair.share.edit(|edit| numbered(edit, "d", 0..300));
    pair.pull().await;
    // Other nodes with the same content, as after copying to another disk and back.
    pair.share.edit(|edit| {
        without(edit, "d", 0..250);
        numbered(edit, "there", 0..250);
    });
    assert!(pair.pull().await.equal);
    pair.share.edit(|edit| without(edit, "there", 0..30));
    assert!(pair.pull().await.equal);
}

/// A feed that shows signs of life every second once it was caught up with.
struct Beats(AtomicBool);

impl Script for Beats {
    fn meets(&self, moment: Moment) -> Turn {
        let beats = self.0.load(Ordering::SeqCst);
        if beats && moment.call == Call::Changes { Turn::Beat(Duration::from_secs(1)) } else { Turn::Pass }
    }
}

impl Reporter for Beats {
    fn caught_up(&self, _summary: &Summary) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[tokio::test(start_paused = true)]
async fn what_failed_is_tried_again_however_often_the_feed_shows_signs_of_life() {
    let pair = Scripted::new();
    pair.share.edit(|edit| edit.file("a", "content"));
    pair.share.set_unreadable("a", Some("not now"));
    let beats = Arc::new(Beats(false.into()));
    let remote: Arc<dyn Location> = Arc::new(Faulty::new(Arc::new(pair.share.clone()), beats.clone()));
    let mut engine = Engine::open(options_for(pair.target.root(), pair.share.share_id())).unwrap();
    let (reporter, cancel): (Arc<dyn Reporter>, _) = (beats.clone(), CancellationToken::new());
    let comes = async {
        // By then it is tried less often than the signs come.
        tokio::time::sleep(Duration::from_secs(60)).await;
        pair.share.set_unreadable("a", None);
        let began = tokio::time::Instant::now();
        while !pair.target.has("a") && began.elapsed() < Duration::from_secs(60) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        cancel.cancel();
    };
    let (followed, ()) = tokio::join!(engine.follow(&remote, &reporter, &cancel), comes);
    assert!(matches!(followed, Err(EngineError::Cancelled)), "{followed:?}");
    assert_eq!(pair.target.read("a"), b"content");
}

/// A line on which a commit point comes long after what it commits, once the share was caught up with.
struct LateCommit {
    share: Memory,
    asked: AtomicU32,
    is_due: Arc<AtomicBool>,
    early: AtomicBool,
    done: CancellationToken,
}

impl Script for LateCommit {
    fn meets(&self, moment: Moment) -> Turn {
        let follows = moment.call == Call::Changes && self.share.node("new").is_some();
        // Whatever follows the last commit point was asked for before there was anything, so this is the second piece: first came the
        // node, then comes the commit point.
        if !follows || self.asked.fetch_add(1, Ordering::SeqCst) != 0 {
            return Turn::Pass;
        }
        let is_due = self.is_due.clone();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(59)).await;
            is_due.store(true, Ordering::SeqCst);
        });
        Turn::Late(Duration::from_secs(60))
    }
}

impl Reporter for LateCommit {
    fn applied(&self, _op: AppliedOp, path: &TreePath, _from: Option<&TreePath>) {
        if path.to_string() == "new" {
            self.early.store(!self.is_due.load(Ordering::SeqCst), Ordering::SeqCst);
            self.done.cancel();
        }
    }

    fn caught_up(&self, _summary: &Summary) {
        if self.share.node("new").is_none() {
            self.share.edit(|edit| edit.file("new", "content"));
        }
    }
}

/// A share that changes once more before its follower has settled the first change.
struct Again {
    share: Memory,
    /// The message after the first change's commit point.
    next: u64,
    caught_up: AtomicU32,
    /// How often that was before the last file came.
    rounds: AtomicU32,
    done: CancellationToken,
}

impl Script for Again {
    fn meets(&self, moment: Moment) -> Turn {
        if moment.call == Call::Changes && moment.message == self.next {
            self.share.edit(|edit| {
                edit.file("dir/changed", "second");
                edit.rename("dir/moved", "moved");
                edit.remove("dir/removed");
                edit.file("last", "content");
            });
        }
        Turn::Pass
    }
}

impl Reporter for Again {
    fn applied(&self, _op: AppliedOp, path: &TreePath, _from: Option<&TreePath>) {
        if path.as_str() == "last" {
            self.rounds.store(self.caught_up.load(Ordering::SeqCst), Ordering::SeqCst);
            self.done.cancel();
        }
    }

    fn caught_up(&self, summary: &Summary) {
        assert!(summary.equal && summary.problems.is_empty(), "{summary:?}");
        if self.caught_up.fetch_add(1, Ordering::SeqCst) == 0 {
            self.share.edit(|edit| {
                edit.file("dir/changed", "first");
                edit.file("dir/moved", "moves");
                edit.file("dir/removed", "goes");
            });
        }
    }
}

#[tokio::test(start_paused = true)]
async fn commit_points_that_have_come_are_settled_by_one_round() {
    let pair = Scripted::new();
    pair.share.edit(|edit| edit.file("before", "old"));
    let mut feed = pair.share.changes(None, true).await.unwrap();
    let mut first_commit = 1;
    while !matches!(feed.next().await, Some(Ok(FeedEvent::Commit(_)))) {
        first_commit += 1;
    }
    let again = Arc::new(Again {
        share: pair.share.clone(),
        // Nodes and a commit point come before it.
        next: first_commit + 3,
        caught_up: AtomicU32::new(0),
        rounds: AtomicU32::new(0),
        done: CancellationToken::new(),
    });
    let remote: Arc<dyn Location> = Arc::new(Faulty::new(Arc::new(pair.share.clone()), again.clone()));
    let mut engine = Engine::open(options_for(pair.target.root(), pair.share.share_id())).unwrap();
    let reporter: Arc<dyn Reporter> = again.clone();
    let followed = engine.follow(&remote, &reporter, &again.done).await;
    assert!(matches!(followed, Err(EngineError::Cancelled)), "{followed:?}");
    assert_eq!(again.rounds.load(Ordering::SeqCst), 1, "each had a round of its own");
    let fetched = pair.share.fetched();
    assert!(fetched.iter().all(|path| path.as_str() != "dir/removed"), "nobody wanted it any more");
    drop(engine);
    pair.pull().await;
    let read = |path| pair.target.read(path);
    assert_eq!((read("dir/changed"), read("moved")), (b"second".to_vec(), b"moves".to_vec()));
    assert!(!pair.target.has("dir/removed") && !pair.target.has("dir/moved"));
}

#[tokio::test(start_paused = true)]
async fn what_comes_is_carried_out_at_commit_points_only() {
    let pair = Scripted::new();
    pair.share.edit(|edit| edit.file("before", "old"));
    let late = Arc::new(LateCommit {
        share: pair.share.clone(),
        asked: AtomicU32::new(0),
        is_due: Arc::default(),
        early: AtomicBool::new(false),
        done: CancellationToken::new(),
    });
    let remote: Arc<dyn Location> = Arc::new(Faulty::new(Arc::new(pair.share.clone()), late.clone()));
    let mut engine = Engine::open(options_for(pair.target.root(), pair.share.share_id())).unwrap();
    let reporter: Arc<dyn Reporter> = late.clone();
    let followed = engine.follow(&remote, &reporter, &late.done).await;
    assert!(matches!(followed, Err(EngineError::Cancelled)), "{followed:?}");
    assert!(!late.early.load(Ordering::SeqCst), "it did not wait for the commit point");
}

#[tokio::test(start_paused = true)]
async fn a_pull_that_waits_before_it_tries_again_ends_when_it_is_asked_to() {
    let pair = Scripted::new();
    pair.share.edit(|edit| edit.file("a", "content"));
    pair.share.set_changed("a", true);
    let remote: Arc<dyn Location> = Arc::new(pair.share.clone());
    let mut engine = Engine::open(options_for(pair.target.root(), pair.share.share_id())).unwrap();
    let (reporter, cancel): (Arc<dyn Reporter>, _) = (Arc::new(Silent), CancellationToken::new());
    let began = tokio::time::Instant::now();
    let stop = async {
        // In the longest of the pauses.
        tokio::time::sleep(Duration::from_secs(4)).await;
        cancel.cancel();
    };
    let (pulled, ()) = tokio::join!(engine.pull(&remote, PullMode::default(), &reporter, &cancel), stop);
    assert!(matches!(pulled, Err(EngineError::Cancelled)), "{pulled:?}");
    assert!(began.elapsed() < Duration::from_millis(4100), "{:?}", began.elapsed());
}

/// Renames something in the share as a daemon tells it that saw it go and come at different times.
fn rename_in_two(share: &Memory, from: &str, to: &str) {
    let nodes = share.entries();
    let from_path = TreePath::new(from).unwrap();
    share.edit(|edit| edit.remove(from));
    for (path, (entry, bytes)) in nodes.iter().filter(|(path, _)| path.is_within(&from_path)) {
        let path = format!("{to}{}", &path.as_str()[from.len()..]);
        share.edit(|edit| {
            if entry.content.is_dir() {
                edit.dir(&path);
            } else {
                edit.file(&path, bytes.clone());
            }
            edit.mtime(&path, entry.mtime);
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rename_that_the_daemon_saw_in_two_is_one_all_the_same() {
    let pair = Scripted::new();
    let (share, target) = (&pair.share, &pair.target);
    share.edit(|edit| {
        for (number, path) in ["one", "dir/two", "dir/sub/three", "dir/sub/four"].into_iter().enumerate() {
            edit.file(path, format!("content of {path}"));
            edit.mtime(path, Time { secs: 1000 + number as i64, nanos: 0 });
        }
    });
    pair.pull().await;
    let (one, four) = (target.inode("one"), target.inode("dir/sub/four"));
    let fetched = share.fetched().len();
    rename_in_two(share, "one", "other/place");
    rename_in_two(share, "dir", "moved");
    let summary = pair.pull().await;
    assert!(summary.equal, "{summary:?}");
    assert_eq!((summary.synced, summary.renamed, summary.deleted), (4, 4, 0), "{summary:?}");
    assert_eq!((target.inode("other/place"), target.inode("moved/sub/four")), (one, four));
    assert_eq!(share.fetched().len(), fetched, "{:?}", share.fetched());
    assert!(target.trash().is_empty(), "{:?}", target.trash());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rename_to_a_place_that_somebody_takes_meanwhile() {
    for rename in
        [rename_in_two, |share: &Memory, from: &str, to: &str| share.edit(|edit| edit.rename(from, to))]
    {
        let pair = Scripted::new();
        let (share, target) = (&pair.share, pair.target.clone());
        share.edit(|edit| edit.file("old", "content"));
        pair.pull().await;
        let fetched = share.fetched().len();
        rename(share, "old", "new");
        let mine = target.clone();
        let meanwhile = WhenPlanning(Mutex::new(Some(move || drop(mine.file("new", "mine")))));
        let summary = pair.try_pull(Arc::new(meanwhile)).await.unwrap();
        assert!(summary.equal, "{summary:?}");
        assert_eq!(target.read("new"), b"content");
        assert!(!target.has("old"));
        assert!(target.trash().values().any(|seen| seen.size == 4), "{:?}", target.trash());
        assert_eq!(share.fetched().len(), fetched, "{:?}", share.fetched());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_makes_equal_and_a_second_one_does_nothing() {
    let pair = Pair::new();
    pair.share.file("中文 名字/a b.txt", "x").mode(0o600).mtime(-5, 7);
    pair.share.file("empty", "");
    pair.share.bytes("big", 3_000_000, 1);
    pair.share.link("link", "../nowhere");
    pair.share.dir("empty dir");
    let first = pair.pull().await;
    assert_eq!((first.checked, first.synced, first.unchanged), (4, 4, 0), "{first:?}");
    let second = pair.pull().await;
    assert_eq!((second.checked, second.synced, second.unchanged), (4, 0, 4), "{second:?}");
}

/// As a simulation runs it.
#[tokio::test]
async fn one_thread_is_enough_to_put_a_large_file_together() {
    let pair = Pair::new();
    pair.share.bytes("image", 20_000_000, 1);
    pair.pull().await;
    pair.share.append("image", vec![7; 1_000_000]);
    let second = pair.pull().await;
    assert!(second.bytes_received < 3_000_000, "{second:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_files_that_are_there_already_are_adopted() {
    let pair = Pair::new();
    for tree in [&pair.share, &pair.target] {
        for name in 0..50 {
            tree.file(format!("d/{name}"), format!("content {name}")).mtime(1000 + name, 5);
        }
    }
    pair.share.placed("d").mtime(7, 7);
    pair.target.placed("d").mtime(7, 7);
    assert_eq!(pair.pull().await.synced, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renamed_directory_is_one_rename() {
    let pair = Pair::new();
    for name in 0..200 {
        pair.share.file(format!("old/sub/{name}"), format!("content {name}"));
    }
    pair.pull().await;
    let inode = pair.target.inode("old/sub/7");
    pair.share.rename("old", "new");
    let heard = pull_heard(&pair).await;
    assert_eq!(heard, [(AppliedOp::Rename, "new".to_owned())]);
    assert_eq!(pair.target.inode("new/sub/7"), inode);
}

#[tokio::test(flavor = "multi_thread")]
async fn swaps_cycles_and_changes_of_kind() {
    let pair = Pair::new();
    pair.share.file("a", "content a");
    pair.share.file("b", "content b");
    pair.share.file("d1/x", "1");
    pair.share.file("d2/x", "2");
    pair.share.file("kind", "file");
    pair.share.file("dir/inside", "deep");
    pair.pull().await;
    pair.share.swap("a", "b");
    pair.share.swap("d1", "d2");
    pair.share.remove("kind");
    pair.share.file("kind/now/a", "directory");
    pair.share.rename("dir/inside", "dir2");
    pair.share.remove("dir");
    pair.share.rename("dir2", "dir");
    pair.pull().await;
    pair.share.rename("b", "c");
    pair.share.rename("a", "b");
    pair.share.rename("c", "a");
    pair.pull().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn local_edits_go_to_the_trash() {
    let pair = Pair::new();
    pair.share.file("kept", "theirs");
    pair.share.file("gone", "theirs too");
    pair.pull().await;
    pair.target.file("kept", "mine, and precious");
    pair.target.file("unknown/file", "mine as well");
    pair.target.remove("gone");
    pair.pull().await;
    let trash = format!("{:?}", pair.target.trash());
    assert!(trash.contains("kept") && trash.contains("file"), "{trash}");
}

#[tokio::test(flavor = "multi_thread")]
async fn mass_deletion_and_foreign_targets_halt() {
    let pair = Pair::new();
    for name in 0..20 {
        pair.target.file(format!("mine {name}"), "precious");
    }
    pair.share.file("x", "y");
    let halted = pair.try_pull(PullMode::default()).await;
    assert!(matches!(halted, Err(EngineError::Halt(Halt::ForeignTarget { count: 20 }))), "{halted:?}");
    pair.target.empty();
    for name in 0..150 {
        pair.share.file(format!("many/{name}"), format!("{name}"));
    }
    pair.pull().await;
    pair.share.remove("many");
    let halted = pair.try_pull(PullMode::default()).await;
    assert!(matches!(halted, Err(EngineError::Halt(Halt::MassDelete { deletions: 150, .. }))), "{halted:?}");
    assert!(pair.target.has("many/7"));
}

#[tokio::test(flavor = "multi_thread")]
async fn dry_run_counts_and_changes_nothing() {
    let pair = Pair::new();
    pair.share.file("a", "1");
    pair.share.file("d/b", "22");
    let summary = pair.try_pull(PullMode { dry_run: true, full: false }).await.unwrap();
    assert_eq!((summary.synced, summary.bytes_total), (2, 3), "{summary:?}");
    assert!(!pair.target.has("a"));
    let full = pair.try_pull(PullMode { dry_run: false, full: true }).await.unwrap();
    assert_eq!((full.synced, full.equal), (2, true), "{full:?}");
    let again = pair.try_pull(PullMode { dry_run: false, full: true }).await.unwrap();
    assert_eq!((again.synced, again.equal), (2, true), "{again:?}");
    assert_same(pair.share.root(), pair.target.root());
}

/// `ENGINE_SEED=n` runs one other seed, and `RUST_LOG=sync_agent=debug` shows what could not be applied.
#[tokio::test(flavor = "multi_thread")]
async fn random_operations_always_converge() {
    let filter = tracing_subscriber::EnvFilter::from_default_env();
    let _ = tracing_subscriber::fmt().with_test_writer().with_ansi(false).with_env_filter(filter).try_init();
    let wanted: Option<u64> = std::env::var("ENGINE_SEED").ok().and_then(|seed| seed.parse().ok());
    let seeds = wanted.map_or(0..6, |seed| seed..seed + 1);
    for seed in seeds {
        println!("ENGINE_SEED={seed}");
        let pair = Pair::new();
        let mut here = Chaos::new(&pair.share, seed);
        for round in 0..8 {
            for _ in 0..30 {
                here.step();
            }
            if round % 3 == 2 {
                let mut there = Chaos::new(&pair.target, seed ^ 0xbeef ^ round);
                for _ in 0..5 {
                    there.step();
                }
            }
            // Shown only if the test fails.
            println!("{:?}", here.log());
            pair.pull().await;
        }
    }
}

/// Says when the target was brought up to date.
#[derive(Default)]
struct CaughtUp(tokio::sync::Notify);

impl Reporter for CaughtUp {
    fn caught_up(&self, _summary: &Summary) {
        self.0.notify_one();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn following_goes_on_when_what_should_move_was_moved_here_meanwhile() {
    for (edited, directories) in [("a", true), ("b", true), ("ab", true), ("a", false), ("ab", false)] {
        let pair = Pair::new();
        for name in ["a", "b"] {
            let path = if directories { format!("{name}/in") } else { name.to_owned() };
            pair.share.file(path, name.repeat(5));
        }
        pair.share.file("c", "c");
        let said = Arc::new(CaughtUp::default());
        let follow = async |mut engine: Engine, until: &dyn Fn()| {
            let (reporter, cancel): (Arc<dyn Reporter>, _) = (said.clone(), CancellationToken::new());
            let (remote, stop) = (pair.remote.clone(), cancel.clone());
            let following = tokio::spawn(async move {
                let ended = engine.follow(&remote, &reporter, &stop).await;
                (engine, ended)
            });
            // If following ends early, that is told below.
            let caught_up = tokio::time::timeout(Duration::from_secs(20), said.0.notified()).await;
            if caught_up.is_ok() {
                tokio::task::block_in_place(until);
            }
            cancel.cancel();
            let (engine, ended) = following.await.unwrap();
            assert!(matches!(ended, Err(EngineError::Cancelled)), "{edited}: {ended:?}");
            engine
        };
        let engine = follow(pair.engine(), &|| {}).await;
        for name in edited.chars() {
            pair.target.rename(name.to_string(), format!("mine {name}"));
        }
        // Seen one by one, but while nobody listens: both are taken out, then both put in.
        for (from, to) in [("a", "tmp"), ("b", "a"), ("tmp", "b")] {
            pair.share.rename(from, to);
            let gone = || pair.live.index().find(&TreePath::new(from).unwrap()).unwrap().is_none();
            let seen = || if gone() { Ok(()) } else { Err(format!("{from} was not seen to go")) };
            tokio::task::block_in_place(|| eventually(Duration::from_secs(20), seen));
        }
        // What was renamed here is found and put aside by the next look at everything.
        let read = |name: &str| {
            let path = if directories { format!("{name}/in") } else { name.to_owned() };
            if pair.target.has(&path) { pair.target.read(&path) } else { Vec::new() }
        };
        let swapped = || {
            let found = ["a", "b"].map(read);
            if found == ["bbbbb", "aaaaa"].map(|text| text.as_bytes().to_vec()) {
                Ok(())
            } else {
                Err(format!("{edited}: {found:?}"))
            }
        };
        follow(engine, &|| eventually(Duration::from_secs(20), swapped)).await;
    }
}

/// A mistake in the program, of the kind that ends a thread.
struct Breaks;

impl Reporter for Breaks {
    fn bytes(&self, _: &TreePath, _: u64) {
        panic!("a test's panic");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_whose_workers_panic_ends() {
    let scene = Scripted::new();
    scene.share.edit(|edit| {
        for number in 0..2000 {
            edit.file(&format!("{}/{number}", number % 40), format!("the share's {number}"));
        }
    });
    let run = tokio::spawn(async move { scene.try_pull(Arc::new(Breaks)).await.map(drop) });
    let end = tokio::time::timeout(Duration::from_secs(60), run).await.expect("it waits for ever");
    assert!(end.unwrap_err().is_panic());
}

/// The same, where something is in place that needed no bytes.
struct BreaksLater;

impl Reporter for BreaksLater {
    fn applied(&self, _: sync_agent::engine::AppliedOp, path: &TreePath, _: Option<&TreePath>) {
        assert!(path.as_str() != "link", "a test's panic");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_whose_workers_panic_at_what_is_done_here_ends() {
    let scene = Scripted::new();
    scene.share.edit(|edit| {
        edit.link("link", "somewhere");
    });
    let run = tokio::spawn(async move { scene.try_pull(Arc::new(BreaksLater)).await.map(drop) });
    let end = tokio::time::timeout(Duration::from_secs(60), run).await.expect("it waits for ever");
    assert!(end.unwrap_err().is_panic());
}
