//! The engine where the disk refuses what it should do, or answers end early.
#![cfg(feature = "failpoints")]
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::{
    io,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use common::{Pair, Scripted, options_for};
use sync_agent::engine::{Engine, EngineError, PullMode, Reporter, Silent, Summary};
use sync_core::Time;
use sync_locations::{
    Faulty, Location,
    faulty::{Call as Asked, Moment, Script, Turn},
};
use sync_testkit::{
    eventually,
    tree::{Tree, assert_same},
};
use sync_tree::probe::{self, Call, Op, Probe};
use tokio_util::sync::CancellationToken;

/// Refuses one rename of a name.
struct RefusesRename(&'static str, AtomicBool);

impl Probe for RefusesRename {
    fn before(&self, call: &Call<'_>) -> io::Result<()> {
        let hit = call.op == Op::RenameNew && call.name == self.0.as_bytes();
        if hit && !self.1.swap(true, Ordering::SeqCst) {
            return Err(io::ErrorKind::Other.into());
        }
        Ok(())
    }
}

/// Compares when the engine says that it is equal.
struct Equal(Tree, Mutex<Vec<Vec<String>>>);

impl Reporter for Equal {
    fn caught_up(&self, summary: &Summary) {
        if summary.equal {
            let paths =
                self.0.snapshot().keys().map(|path| String::from_utf8_lossy(&path.0).into_owned()).collect();
            self.1.lock().unwrap().push(paths);
        }
    }
}

/// `SYNCD_SEED=19300` of the simulation, once: what was written down of the directory was where it was to be, not where it is.
#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_could_not_be_moved_is_not_taken_for_moved() {
    let pair = Scripted::new();
    pair.share.edit(|edit| {
        edit.file("dir/stays", "content");
        edit.file("dir/goes", "x");
        edit.file("other", "y");
    });
    pair.pull().await;
    pair.share.edit(|edit| {
        edit.remove("dir/goes");
        edit.remove("other");
        edit.rename("dir", "other");
    });
    let refuses = Arc::new(RefusesRename("dir", AtomicBool::new(false)));
    let _listening = probe::install(pair.target.root(), refuses.clone());
    let said = Arc::new(Equal(pair.target.clone(), Mutex::default()));
    let (reporter, remote, cancel): (Arc<dyn Reporter>, Arc<dyn Location>, _) =
        (said.clone(), Arc::new(pair.share.clone()), CancellationToken::new());
    let mut engine = Engine::open(options_for(pair.target.root(), pair.share.share_id())).unwrap();
    let stop = cancel.clone();
    let following = tokio::spawn(async move { engine.follow(&remote, &reporter, &stop).await });
    let is_equal = || if said.1.lock().unwrap().is_empty() { Err("not equal".to_owned()) } else { Ok(()) };
    tokio::task::block_in_place(|| eventually(Duration::from_secs(20), is_equal));
    cancel.cancel();
    assert!(matches!(following.await.unwrap(), Err(EngineError::Cancelled)));
    assert!(refuses.1.load(Ordering::SeqCst), "nothing was refused");
    assert_eq!(said.1.lock().unwrap()[0], ["other", "other/stays"]);
}

/// Never lets this be renamed.
struct NeverRenames(&'static str);

impl Probe for NeverRenames {
    fn before(&self, call: &Call<'_>) -> io::Result<()> {
        if call.op == Op::RenameNew && call.name == self.0.as_bytes() {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_can_never_be_moved_is_one_problem_and_has_its_time_where_it_is() {
    let pair = Scripted::new();
    pair.share.edit(|edit| {
        edit.file("dir/stays", "content");
        edit.file("dir/goes", "x");
        edit.file("parent/changes", "old");
    });
    pair.pull().await;
    pair.share.edit(|edit| {
        edit.remove("dir/goes");
        edit.rename("dir", "parent/other");
        edit.mtime("parent/other", Time { secs: 77, nanos: 7 });
        edit.file("parent/changes", "new");
    });
    let _listening = probe::install(pair.target.root(), Arc::new(NeverRenames("dir")));
    let summary = pair.pull().await;
    let problems: Vec<_> = summary.problems.iter().map(|problem| problem.path.as_str()).collect();
    assert_eq!(problems, ["dir"], "{summary:?}");
    assert!(!summary.equal && !summary.problems[0].error.contains("again and again"), "{summary:?}");
    assert_eq!(pair.target.look("dir").mtime, (77, 7));
    assert_eq!(pair.target.read("parent/changes"), b"new");
}

/// Ends the first answers after their first message, and only then lets a local copy fail, which then has to be fetched.
struct EndsEarly(Condvar, Mutex<bool>);

impl Script for EndsEarly {
    fn meets(&self, moment: Moment) -> Turn {
        if (moment.call, moment.number, moment.message) != (Asked::FetchPacked, 1, 2) {
            return Turn::Pass;
        }
        *self.1.lock().unwrap() = true;
        self.0.notify_all();
        Turn::End
    }
}

impl Probe for EndsEarly {
    fn before(&self, call: &Call<'_>) -> io::Result<()> {
        if call.op != Op::OpenFile || call.name != b"source" {
            return Ok(());
        }
        let ended = self.1.lock().unwrap();
        let waited = self.0.wait_timeout_while(ended, Duration::from_secs(20), |ended| !*ended).unwrap();
        assert!(!waited.1.timed_out(), "the answers never ended");
        Err(io::ErrorKind::PermissionDenied.into())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_for_after_the_answers_ended_is_not_taken_for_done() {
    let pair = Scripted::new();
    pair.share.edit(|edit| edit.file("source", "the same"));
    pair.pull().await;
    pair.share.edit(|edit| {
        edit.file("copy", "the same");
        edit.file("new", "something else");
    });
    // Where all is to be planned nothing is sent for before.
    pair.share.new_epoch();
    let script = Arc::new(EndsEarly(Default::default(), Mutex::new(false)));
    let _listening = probe::install(pair.target.root(), script.clone());
    let remote: Arc<dyn Location> = Arc::new(Faulty::new(Arc::new(pair.share.clone()), script.clone()));
    let mut engine = Engine::open(options_for(pair.target.root(), pair.share.share_id())).unwrap();
    let reporter: Arc<dyn Reporter> = Arc::new(Silent);
    let pulled = engine.pull(&remote, PullMode::default(), &reporter, &CancellationToken::new()).await;
    assert!(*script.1.lock().unwrap(), "nothing was fetched");
    assert!(matches!(&pulled, Err(EngineError::Location(error)) if error.is_transient()), "{pulled:?}");
    drop(engine);
    assert!(pair.pull().await.equal);
}

/// A disk that fails where somebody wants to look at one name.
struct Unseen(&'static [u8]);

impl Probe for Unseen {
    fn before(&self, call: &Call<'_>) -> io::Result<()> {
        match call.op == Op::Stat && call.name == self.0 {
            true => Err(io::ErrorKind::Other.into()),
            false => Ok(()),
        }
    }
}

/// `SYNCD_SEED=1293` of the simulation, once.
#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_could_not_be_looked_at_everywhere_is_not_called_equal() {
    let pair = Pair::new();
    pair.share.file("file", "content");
    pair.pull().await;
    pair.target.file("mine", "somebody's own");
    let listening = probe::install(pair.target.root(), Arc::new(Unseen(b"mine")));
    let summary = pair.try_pull(PullMode::default()).await.unwrap();
    assert!(!summary.equal, "{summary:?}");
    assert_eq!(summary.problems.len(), 1, "{summary:?}");
    drop(listening);
    assert!(pair.pull().await.equal);
    assert_same(pair.share.root(), pair.target.root());
}
