//! Small contents are sent for before there is a plan, and those that changed while the target is still looked at. Whatever comes of
//! that, each is fetched once, what is not wanted is not placed, and the target is right in the end.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use common::{Scripted, options_for};
use sync_agent::engine::{Engine, EngineError, Phase, PullMode, Reporter, Summary};
use sync_core::Halt;
use sync_locations::{
    Faulty, Location,
    faulty::{Call, Moment, Script, Turn},
};
use sync_testkit::eventually;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Waits, before there is a plan, until contents are asked for.
#[derive(Default)]
struct Order {
    waits: AtomicBool,
    asked: AtomicBool,
    /// How often contents were asked for many at a time.
    asks: AtomicUsize,
    /// How often a follower had caught up, and how often it was halted.
    caught_up: AtomicUsize,
    halts: AtomicUsize,
}

impl Script for Order {
    fn meets(&self, moment: Moment) -> Turn {
        if moment.call == Call::FetchPacked {
            self.asked.store(true, Ordering::Relaxed);
            self.asks.fetch_add(usize::from(moment.message == 0), Ordering::Relaxed);
        }
        Turn::Pass
    }
}

impl Reporter for Order {
    fn caught_up(&self, summary: &Summary) {
        assert!(summary.equal && summary.problems.is_empty(), "{summary:?}");
        self.caught_up.fetch_add(1, Ordering::Relaxed);
    }

    fn halted(&self, _halt: &Halt) {
        self.halts.fetch_add(1, Ordering::Relaxed);
    }

    fn phase(&self, phase: Phase) {
        if phase == Phase::Planning && self.waits.swap(false, Ordering::Relaxed) {
            eventually(Duration::from_secs(20), || {
                self.asked.load(Ordering::Relaxed).then_some(()).ok_or("nothing is asked for".to_owned())
            });
        }
    }
}

fn reaches(count: &AtomicUsize, least: usize) {
    eventually(Duration::from_secs(20), || {
        let so_far = count.load(Ordering::Relaxed);
        (so_far >= least).then_some(()).ok_or(format!("{so_far} of {least} times"))
    });
}

/// A share and a target that is up to date and can be searched.
struct Scene {
    pair: Scripted,
    order: Arc<Order>,
    fetched: usize,
}

impl Scene {
    async fn new() -> Self {
        let pair = Scripted::new();
        pair.share.edit(|edit| {
            for file in 0..12 {
                edit.file(&format!("dir/{file}"), format!("content {file}"));
            }
        });
        pair.pull().await;
        pair.share.edit(|edit| edit.file("dir/0", "what makes it search"));
        pair.pull().await;
        let fetched = pair.share.fetched().len();
        Self { pair, order: Arc::default(), fetched }
    }

    fn change(&self, files: impl IntoIterator<Item = u32>) {
        self.pair.share.edit(|edit| {
            for file in files {
                edit.file(&format!("dir/{file}"), format!("new content {file}"));
            }
        });
    }

    fn remote(&self) -> Arc<dyn Location> {
        Arc::new(Faulty::new(Arc::new(self.pair.share.clone()), self.order.clone()))
    }

    fn engine(&self) -> Engine {
        Engine::open(options_for(self.pair.target.root(), self.pair.share.share_id())).unwrap()
    }

    async fn try_pull(&self, mode: PullMode) -> Summary {
        let (mut engine, remote) = (self.engine(), self.remote());
        let reporter: Arc<dyn Reporter> = self.order.clone();
        engine.pull(&remote, mode, &reporter, &CancellationToken::new()).await.unwrap()
    }

    /// Ends equal. Answers what was fetched.
    async fn pull(&self) -> Vec<String> {
        let summary = self.try_pull(PullMode::default()).await;
        assert!(summary.equal && summary.problems.is_empty(), "{summary:?}");
        self.assert_has_all();
        self.fetched()
    }

    fn assert_has_all(&self) {
        for (path, (entry, bytes)) in self.pair.share.entries() {
            if !entry.content.is_dir() {
                assert_eq!(self.pair.target.read(path.as_str()), *bytes, "{path}");
            }
        }
    }

    fn fetched(&self) -> Vec<String> {
        let fetched = self.pair.share.fetched();
        let mut fetched: Vec<_> =
            fetched[self.fetched..].iter().map(|path| path.as_str().to_owned()).collect();
        fetched.sort();
        fetched
    }

    /// Starts a follower.
    fn follow(&self, end: &CancellationToken) -> JoinHandle<Result<(), EngineError>> {
        let (mut engine, remote, end) = (self.engine(), self.remote(), end.clone());
        let reporter: Arc<dyn Reporter> = self.order.clone();
        tokio::spawn(async move { engine.follow(&remote, &reporter, &end).await })
    }

    /// Waits until a follower has caught up so many times.
    fn has_caught_up(&self, times: usize) {
        reaches(&self.order.caught_up, times);
    }

    /// The next pull has to ask for contents before it plans.
    fn asks_before_it_plans(&self) {
        self.order.waits.store(true, Ordering::Relaxed);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changed_comes_once_and_before_it_is_planned() {
    let scene = Scene::new().await;
    scene.asks_before_it_plans();
    scene.change([1, 2, 3]);
    assert_eq!(scene.pull().await, ["dir/1", "dir/2", "dir/3"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_new_comes_once_and_before_it_is_planned() {
    let scene = Scene::new().await;
    scene.asks_before_it_plans();
    scene.pair.share.edit(|edit| {
        for file in 0..9 {
            edit.file(&format!("new/{file}"), format!("new content {file}"));
        }
        edit.file("new/copied", "content 7");
    });
    let wanted: Vec<_> = (0..9).map(|file| format!("new/{file}")).collect();
    assert_eq!(scene.pull().await, wanted);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_sends_for_what_it_will_want_too() {
    let scene = Scene::new().await;
    let end = CancellationToken::new();
    let following = scene.follow(&end);
    scene.has_caught_up(1);
    for round in 0..3 {
        scene.order.asked.store(false, Ordering::Relaxed);
        scene.asks_before_it_plans();
        scene.pair.share.edit(|edit| {
            for file in 0..5 {
                edit.file(&format!("dir {round}/{file}"), format!("new content {round} {file}"));
            }
            edit.file("dir/1", format!("changed {round}"));
        });
        scene.has_caught_up(2 + round);
        scene.assert_has_all();
        assert_eq!(scene.fetched().len(), (round + 1) * 6, "{:?}", scene.fetched());
    }
    end.cancel();
    assert!(matches!(following.await.unwrap(), Err(EngineError::Cancelled)));
}

/// What it may not carry out it plans again and again, in case that the share comes back.
#[tokio::test(flavor = "multi_thread")]
async fn a_follower_that_is_halted_sends_for_it_once() {
    let scene = Scene::new().await;
    let many = |file: u32| format!("many/{file}");
    scene
        .pair
        .share
        .edit(|edit| (0..300).for_each(|file| edit.file(&many(file), format!("one of many {file}"))));
    scene.pull().await;
    let end = CancellationToken::new();
    let following = scene.follow(&end);
    scene.has_caught_up(1);
    let before = scene.order.asks.load(Ordering::Relaxed);
    scene.pair.share.edit(|edit| {
        (0..250).for_each(|file| edit.remove(&many(file)));
        (0..5).for_each(|file| edit.file(&format!("new/{file}"), format!("new content {file}")));
    });
    reaches(&scene.order.halts, 4);
    let asks = scene.order.asks.load(Ordering::Relaxed) - before;
    assert!(asks <= 1, "it asked {asks} times");
    assert!(scene.pair.target.has("many/7") && !scene.pair.target.has("new"));
    end.cancel();
    assert!(matches!(following.await.unwrap(), Err(EngineError::Cancelled)));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_target_has_is_not_sent_for() {
    let scene = Scene::new().await;
    scene.asks_before_it_plans();
    scene.change([1, 2]);
    scene.pair.share.edit(|edit| {
        edit.file("dir/3", "content 4");
        edit.mode("dir/5", 0o600);
        edit.rename("dir/6", "moved");
        edit.file("new", "content 7");
    });
    assert_eq!(scene.pull().await, ["dir/1", "dir/2"]);
}

/// The look finds out that it is here. Where it came before that, nobody takes it.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_look_finds_is_not_placed() {
    let scene = Scene::new().await;
    scene.asks_before_it_plans();
    scene.change([1, 2, 3]);
    scene.pair.target.file("dir/1", "new content 1");
    let fetched = scene.pull().await;
    assert!(fetched.ends_with(&["dir/2".to_owned(), "dir/3".to_owned()]), "{fetched:?}");
    assert!(scene.pair.target.trash().is_empty());
}

/// What somebody made of it here meanwhile is kept as ever.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_edited_here_is_put_aside_first() {
    let scene = Scene::new().await;
    scene.asks_before_it_plans();
    scene.change([1, 2]);
    scene.pair.target.file("dir/1", "somebody's own");
    assert_eq!(scene.pull().await, ["dir/1", "dir/2"]);
    let trash = scene.pair.target.trash();
    assert_eq!(trash.len(), 1, "{trash:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_come_is_asked_for_again() {
    for messages in 0..3 {
        let scene = Scene::new().await;
        scene.asks_before_it_plans();
        scene.change(1..9);
        scene.pair.share.cut_fetch_after(messages);
        let fetched = scene.pull().await;
        assert!(fetched.len() >= 8, "{fetched:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_had_is_told_and_the_others_come() {
    let scene = Scene::new().await;
    scene.asks_before_it_plans();
    scene.change([1, 2, 3]);
    scene.pair.share.set_unreadable("dir/2", Some("no permission"));
    let summary = scene.try_pull(PullMode::default()).await;
    let problems: Vec<_> = summary.problems.iter().map(|problem| problem.path.as_str()).collect();
    assert_eq!((problems, summary.equal, summary.synced), (vec!["dir/2"], false, 2));
    assert_eq!(scene.pair.target.read("dir/2"), b"content 2");
    scene.pair.share.set_unreadable("dir/2", None);
    scene.pull().await;
}

#[tokio::test(start_paused = true)]
async fn what_comes_wrong_is_not_placed() {
    let scene = Scene::new().await;
    scene.change([1, 2, 3]);
    scene.pair.share.set_wrong_bytes("dir/2", true);
    let summary = scene.try_pull(PullMode::default()).await;
    assert!(!summary.equal, "{summary:?}");
    assert_eq!(scene.pair.target.read("dir/2"), b"content 2");
    assert_eq!(scene.pair.target.read("dir/3"), b"new content 3");
    scene.pair.share.set_wrong_bytes("dir/2", false);
    scene.pull().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_fetches_nothing_and_a_full_one_each_once() {
    let scene = Scene::new().await;
    scene.change([1, 2]);
    scene.try_pull(PullMode { dry_run: true, ..PullMode::default() }).await;
    assert!(scene.fetched().is_empty());
    scene.try_pull(PullMode { full: true, ..PullMode::default() }).await;
    assert_eq!(scene.fetched().len(), 12);
    scene.assert_has_all();
}
