//! A target that has nothing gets its first files while the share's tree still comes. Whatever becomes of the share, the feed or the
//! run meanwhile, it is right in the end.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use common::{Scripted, options_for};
use sync_agent::engine::{AppliedOp, Engine, EngineError, EngineOptions, Phase, PullMode, Reporter, Summary};
use sync_core::{Halt, RuleFile, RuleSet, TreePath};
use sync_locations::{
    Faulty, FetchFailure, Location, LocationError, Memory,
    faulty::{Call, Moment, Script, Turn},
};
use sync_testkit::tree::{Compare, Snapshot, Tree, differences};
use sync_tree::apply::Durability;
use tokio_util::sync::CancellationToken;

/// The feed stops for so long in the middle of the tree.
const STOPS: Duration = Duration::from_secs(60);
/// In it, all that can be done is done by then.
const HALF: Duration = Duration::from_secs(30);
/// The message before which it stops: a reset, rules, and some pages came.
const IN_THE_MIDDLE: u64 = 5;

type Act = Box<dyn FnOnce(&Memory, &Tree) + Send>;

/// A feed that stops in the middle, while something happens.
struct Stops {
    share: Memory,
    target: Tree,
    meanwhile: Mutex<Option<Act>>,
    then: Mutex<Option<LocationError>>,
    /// What the first answer about a file is instead.
    refuse: Mutex<Option<FetchFailure>>,
    /// What was in the target by then.
    seen: Arc<Mutex<Option<Snapshot>>>,
    deleted: Mutex<Vec<String>>,
    /// The whole was planned.
    planned: AtomicBool,
}

impl Script for Stops {
    fn meets(&self, moment: Moment) -> Turn {
        if (moment.call, moment.message) == (Call::FetchPacked, 1) {
            return self.refuse.lock().unwrap().take().map_or(Turn::Pass, Turn::Refuse);
        }
        if (moment.call, moment.number) != (Call::Changes, 1) {
            return Turn::Pass;
        }
        if moment.message == IN_THE_MIDDLE + 1
            && let Some(error) = self.then.lock().unwrap().take()
        {
            return Turn::Fail(error);
        }
        let Some(act) = (moment.message == IN_THE_MIDDLE).then(|| self.meanwhile.lock().unwrap().take())
        else {
            return Turn::Pass;
        };
        let (share, target, seen) = (self.share.clone(), self.target.clone(), self.seen.clone());
        tokio::spawn(async move {
            tokio::time::sleep(HALF).await;
            *seen.lock().unwrap() = Some(target.snapshot());
            act.into_iter().for_each(|act| act(&share, &target));
        });
        Turn::Late(STOPS)
    }
}

impl Reporter for Stops {
    fn phase(&self, phase: Phase) {
        self.planned.fetch_or(phase == Phase::Planning, Ordering::Relaxed);
    }

    fn applied(&self, op: AppliedOp, path: &TreePath, _from: Option<&TreePath>) {
        if op == AppliedOp::Delete {
            self.deleted.lock().unwrap().push(path.as_str().to_owned());
        }
    }
}

/// A share with as many directories as come in a dozen pages, and a target.
struct Scene {
    pair: Scripted,
    stops: Arc<Stops>,
    durability: Durability,
}

const DIRS: u32 = 10;
const FILES: u32 = 6;

impl Scene {
    fn new(meanwhile: impl FnOnce(&Memory, &Tree) + Send + 'static) -> Self {
        let pair = Scripted::new();
        pair.share.set_page(FILES as usize);
        pair.share.edit(|edit| {
            for dir in 0..DIRS {
                for file in 0..FILES {
                    edit.file(&format!("{dir}/{file}"), format!("content {dir} {file}"));
                }
            }
        });
        let stops = Stops {
            share: pair.share.clone(),
            target: pair.target.clone(),
            meanwhile: Mutex::new(Some(Box::new(meanwhile))),
            then: Mutex::new(None),
            refuse: Mutex::new(None),
            seen: Arc::default(),
            deleted: Mutex::default(),
            planned: AtomicBool::default(),
        };
        Self { pair, stops: Arc::new(stops), durability: Durability::None }
    }

    fn engine(&self) -> Engine {
        let options = options_for(self.pair.target.root(), self.pair.share.share_id());
        Engine::open(EngineOptions { durability: self.durability, ..options }).unwrap()
    }

    async fn try_pull(&self, mode: PullMode) -> Result<Summary, EngineError> {
        let inner: Arc<dyn Location> = Arc::new(self.pair.share.clone());
        let remote: Arc<dyn Location> = Arc::new(Faulty::new(inner, self.stops.clone()));
        let reporter: Arc<dyn Reporter> = self.stops.clone();
        self.engine().pull(&remote, mode, &reporter, &CancellationToken::new()).await
    }

    /// Ends equal, and nothing of the share's own is in the trash.
    async fn pull(&self) {
        let summary = self.try_pull(PullMode::default()).await.unwrap();
        self.assert_right(&summary);
    }

    fn assert_right(&self, summary: &Summary) {
        assert!(summary.equal && summary.problems.is_empty(), "{summary:?}");
        let share = self.pair.share.entries();
        let target = self.pair.target.snapshot();
        assert_eq!(share.len(), target.len(), "{:?}", target.keys());
        for (path, (_, bytes)) in share.iter().filter(|(_, (entry, _))| !entry.content.is_dir()) {
            assert_eq!(self.pair.target.read(path.as_str()), **bytes, "{path}");
        }
        let trash = self.pair.target.trash();
        assert!(trash.is_empty(), "{:?}", trash.keys());
    }

    /// How many files the target had while the feed stopped.
    fn early_files(&self) -> usize {
        let seen = self.stops.seen.lock().unwrap();
        let seen = seen.as_ref().expect("the feed stopped");
        seen.values().filter(|seen| seen.digest.is_some()).count()
    }
}

#[tokio::test(start_paused = true)]
async fn files_come_while_the_tree_still_does() {
    let scene = Scene::new(|_, _| {});
    scene.pull().await;
    let early = scene.early_files();
    assert!((1..(DIRS * FILES) as usize).contains(&early), "{early} files");
    // And each of them was fetched once.
    assert_eq!(scene.pair.share.fetched().len(), (DIRS * FILES) as usize);
    let state = scene.pair.target.snapshot();
    scene.pull().await;
    assert_eq!(differences(&state, &scene.pair.target.snapshot(), Compare::default()), [""; 0]);
    assert_eq!(scene.pair.share.fetched().len(), (DIRS * FILES) as usize);
}

#[tokio::test(start_paused = true)]
async fn the_same_where_everything_is_flushed() {
    for durability in [Durability::Batch, Durability::File] {
        let mut scene = Scene::new(|_, _| {});
        scene.durability = durability;
        scene.pull().await;
        assert!(scene.early_files() > 0);
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_comes_early_where_something_is() {
    let scene = Scene::new(|_, _| {});
    scene.pair.target.file("mine", "somebody's own");
    let summary = scene.try_pull(PullMode::default()).await.unwrap();
    assert!(summary.equal, "{summary:?}");
    assert_eq!(scene.early_files(), 1, "only what was there");
    assert_eq!(scene.pair.target.trash().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn nothing_comes_early_of_what_is_only_asked_for() {
    let scene = Scene::new(|_, _| {});
    let summary = scene.try_pull(PullMode { dry_run: true, ..PullMode::default() }).await.unwrap();
    assert_eq!((summary.synced, scene.early_files()), (u64::from(DIRS * FILES), 0));
    assert!(scene.pair.target.snapshot().is_empty());
    assert!(scene.pair.share.fetched().is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_the_share_changes_meanwhile_is_right_in_the_end() {
    let changes: [fn(&Memory); 9] = [
        |share| share.edit(|edit| edit.remove("0/0")),
        |share| share.edit(|edit| edit.remove("0")),
        |share| share.edit(|edit| edit.file("0/0", "another content")),
        |share| share.edit(|edit| edit.rename("0", "moved")),
        |share| share.edit(|edit| edit.rename("0/0", "9/moved")),
        |share| share.edit(|edit| edit.rename("9/0", "0/moved")),
        |share| share.edit(|edit| edit.swap("0", "9")),
        |share| {
            share.edit(|edit| {
                edit.remove("0");
                edit.file("0", "a file where the directory was");
            });
        },
        // Another directory in the place of one that is here already, with something of its own, and one below that.
        |share| {
            share.edit(|edit| {
                edit.rename("0", "moved");
                edit.file("0/new", "new");
                edit.file("0/deep/new", "new too");
                for number in 0..30 {
                    edit.file(&format!("0/many/{number}"), format!("one of many: {number}"));
                }
            });
        },
    ];
    for (number, change) in changes.into_iter().enumerate() {
        for page in [1, 2, 3, FILES as usize, 12] {
            let scene = Scene::new(move |share, _| change(share));
            scene.pair.share.set_page(page);
            scene.pull().await;
            // With smaller pages no directory may be complete by then.
            assert!(page < FILES as usize || scene.early_files() > 0, "{number}");
        }
    }
}

/// What the feed tells of the new node comes before what it tells of the one that was there: that is the newest of all.
#[tokio::test(start_paused = true)]
async fn two_nodes_in_one_place_for_a_while() {
    let changes: [fn(&Memory); 2] = [
        |share| {
            share.edit(|edit| edit.rename("0", "moved"));
            share.edit(|edit| edit.file("0/new", "new"));
            share.edit(|edit| edit.file("0/deep/new", "new too"));
        },
        |share| {
            share.edit(|edit| edit.rename("9/0", "moved"));
            share.edit(|edit| edit.file("9/0", "another one"));
        },
    ];
    for change in changes {
        for page in 1..8 {
            let scene = Scene::new(move |share, _| {
                change(share);
                share.edit(|edit| edit.mode("moved", 0o700));
            });
            scene.pair.share.set_page(page);
            scene.pull().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_somebody_makes_in_the_target_meanwhile_is_not_lost() {
    let scene = Scene::new(|_, target| {
        target.file("9/mine", "somebody's own");
        target.file("8", "somebody's file");
    });
    let summary = scene.try_pull(PullMode::default()).await.unwrap();
    assert!(summary.equal, "{summary:?}");
    let trash = scene.pair.target.trash();
    let own = trash.values().filter(|seen| seen.digest.is_some()).count();
    assert_eq!(own, 2, "{:?}", trash.keys());
}

/// As on any first run: a person has to say that this is the right target.
#[tokio::test(start_paused = true)]
async fn much_that_somebody_makes_in_the_target_meanwhile_halts_the_run() {
    let names: Vec<String> = (0..20).map(|at| format!("9/mine {at}")).collect();
    let made = names.clone();
    let scene = Scene::new(move |_, target| {
        for name in made {
            target.file(name, "somebody's own");
        }
    });
    let halted = scene.try_pull(PullMode::default()).await;
    assert!(matches!(halted, Err(EngineError::Halt(Halt::ForeignTarget { count: 20 }))), "{halted:?}");
    assert!(names.iter().all(|name| scene.pair.target.has(name)));
}

#[tokio::test(start_paused = true)]
async fn a_feed_that_is_cut_is_gone_on_with_whatever_the_share_has_become() {
    let changes: [fn(&Memory); 4] = [
        |_| {},
        |share| share.edit(|edit| edit.file("0/0", "another content")),
        |share| share.new_epoch(),
        |share| {
            share.edit(|edit| {
                edit.rename("1", "moved");
                edit.file("0/0", "another content");
                edit.remove("2");
            });
            share.new_epoch();
        },
    ];
    for change in changes {
        let scene = Scene::new(move |_, _| {});
        *scene.stops.then.lock().unwrap() = Some(LocationError::Cut { source: "the test cut it".into() });
        let cut = scene.try_pull(PullMode::default()).await;
        assert!(matches!(cut, Err(EngineError::Location(_))), "{cut:?}");
        assert!(scene.early_files() > 0);
        change(&scene.pair.share);
        let fetched = scene.pair.share.fetched().len();
        scene.pull().await;
        let all = scene.pair.share.fetched().len() - fetched;
        assert!(all < (DIRS * FILES) as usize, "what was there came again");
    }
}

#[tokio::test(start_paused = true)]
async fn rules_that_come_meanwhile_hold() {
    let scene = Scene::new(|share, target| {
        let file = RuleFile { dir: TreePath::root(), text: "*.own\n".to_owned() };
        share.set_rules(RuleSet { files: vec![file] });
        target.file("0/kept.own", "of the target alone");
    });
    let summary = scene.try_pull(PullMode::default()).await.unwrap();
    assert!(summary.equal, "{summary:?}");
    assert_eq!(scene.pair.target.read("0/kept.own"), b"of the target alone");
    assert!(scene.pair.target.trash().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_run_that_is_stopped_meanwhile_keeps_what_it_has() {
    let scene = Scene::new(|_, _| {});
    let inner: Arc<dyn Location> = Arc::new(scene.pair.share.clone());
    let remote: Arc<dyn Location> = Arc::new(Faulty::new(inner, scene.stops.clone()));
    let (reporter, cancel): (Arc<dyn Reporter>, _) = (scene.stops.clone(), CancellationToken::new());
    let mut engine = scene.engine();
    let stop = async {
        tokio::time::sleep(HALF + HALF / 2).await;
        cancel.cancel();
    };
    let (pulled, ()) = tokio::join!(engine.pull(&remote, PullMode::default(), &reporter, &cancel), stop);
    assert!(matches!(pulled, Err(EngineError::Cancelled)), "{pulled:?}");
    assert_eq!(engine.done().synced, scene.early_files() as u64);
    drop(engine);
    let fetched = scene.pair.share.fetched().len();
    scene.pull().await;
    assert_eq!(scene.pair.share.fetched().len(), (DIRS * FILES) as usize, "{fetched} came before");
    assert!(scene.stops.deleted.lock().unwrap().is_empty());
}

/// A million files are not planned once more for one of them.
#[tokio::test(start_paused = true)]
async fn a_file_that_cannot_be_read_is_told_and_tried_by_the_next_run() {
    let scene = Scene::new(|_, _| {});
    scene.pair.share.set_unreadable("0/0", Some("somebody forbids it"));
    let summary = scene.try_pull(PullMode::default()).await.unwrap();
    assert_eq!((summary.equal, summary.failed, summary.problems.len()), (false, 1, 1), "{summary:?}");
    assert!(!scene.stops.planned.load(Ordering::Relaxed), "all of it was planned again");
    scene.pair.share.set_unreadable("0/0", None);
    scene.pull().await;
}

/// It changes between being told of and being fetched.
#[tokio::test(start_paused = true)]
async fn a_file_that_changes_when_it_is_fetched_comes_in_the_next_round() {
    let scene = Scene::new(|_, _| {});
    *scene.stops.refuse.lock().unwrap() = Some(FetchFailure::Changed);
    let summary = scene.try_pull(PullMode::default()).await.unwrap();
    scene.assert_right(&summary);
    assert!(scene.stops.refuse.lock().unwrap().is_none(), "nothing was refused");
    assert_eq!((summary.synced, summary.failed), (u64::from(DIRS * FILES), 0), "{summary:?}");
}

#[tokio::test(start_paused = true)]
async fn what_could_not_be_read_for_a_while_is_no_failure_when_it_came() {
    let then: [fn(&Memory); 3] = [
        |_| {},
        |share| share.edit(|edit| edit.remove("0/0")),
        |share| share.edit(|edit| edit.file("0/0", "anew")),
    ];
    for then in then {
        let scene = Scene::new(move |share, _| {
            share.set_unreadable("0/0", None);
            then(share);
            // However little becomes of it, all is planned anew.
            share.edit(|edit| edit.mode("0/1", 0o600));
        });
        scene.pair.share.set_unreadable("0/0", Some("for a while"));
        let summary = scene.try_pull(PullMode::default()).await.unwrap();
        scene.assert_right(&summary);
        assert_eq!(summary.failed, 0, "{summary:?}");
        let files = scene.pair.share.entries().values().filter(|(entry, _)| !entry.content.is_dir()).count();
        assert_eq!(summary.checked, summary.changed.max(files as u64), "{summary:?}");
    }
}

/// A run whose disk is full ends with that, whatever becomes of the feed.
#[cfg(feature = "failpoints")]
#[tokio::test(start_paused = true)]
async fn a_full_disk_is_what_a_run_ends_with() {
    let scene = Scene::new(|_, _| {});
    *scene.stops.then.lock().unwrap() = Some(LocationError::Cut { source: "the test cut it".into() });
    scene.pair.target.dir(".");
    let full = Arc::new(power::Full);
    let listening = sync_tree::probe::install(scene.pair.target.root(), full);
    let pulled = scene.try_pull(PullMode::default()).await;
    drop(listening);
    assert!(
        matches!(pulled, Err(EngineError::Apply(sync_tree::apply::ApplyError::Full { .. }))),
        "{pulled:?}"
    );
    scene.pull().await;
}

/// A flush that fails is told, whatever becomes of the feed: that a later one succeeds says nothing.
#[cfg(feature = "failpoints")]
#[tokio::test(start_paused = true)]
async fn a_flush_that_fails_is_what_a_run_ends_with() {
    let mut scene = Scene::new(|_, _| {});
    scene.durability = Durability::Batch;
    *scene.stops.then.lock().unwrap() = Some(LocationError::Cut { source: "the test cut it".into() });
    scene.pair.target.dir(".");
    let once = Arc::new(power::FlushesOnce::default());
    let listening = sync_tree::probe::install(scene.pair.target.root(), once);
    let pulled = scene.try_pull(PullMode::default()).await;
    drop(listening);
    assert!(matches!(pulled, Err(EngineError::Index(_) | EngineError::Database { .. })), "{pulled:?}");
    scene.pull().await;
}

/// What a power cut leaves.
#[cfg(feature = "failpoints")]
mod power {
    use std::{
        io,
        os::fd::BorrowedFd,
        path::{Path, PathBuf},
        sync::atomic::AtomicU32,
    };

    use super::*;
    use sync_testkit::Scratch;
    use sync_tree::probe::{Call as Asked, Op, Probe, install};

    /// Refuses to write files of new directories.
    pub(super) struct Full;

    impl Probe for Full {
        fn before(&self, call: &Asked<'_>) -> io::Result<()> {
            match call.site() == "write new" {
                true => Err(rustix::io::Errno::NOSPC.into()),
                false => Ok(()),
            }
        }

        fn after(&self, _: &Asked<'_>, _: Option<BorrowedFd<'_>>) {}
    }

    /// Flushes the index once, and never again.
    #[derive(Default)]
    pub(super) struct FlushesOnce(AtomicU32);

    impl Probe for FlushesOnce {
        fn before(&self, call: &Asked<'_>) -> io::Result<()> {
            match call.op == Op::SyncIndex && self.0.fetch_add(1, Ordering::Relaxed) > 0 {
                true => Err(rustix::io::Errno::IO.into()),
                false => Ok(()),
            }
        }

        fn after(&self, _: &Asked<'_>, _: Option<BorrowedFd<'_>>) {}
    }

    #[expect(clippy::disallowed_methods, reason = "the test's own files")]
    fn copy_database(from: &Path, to: &Path) {
        for end in ["", "-wal", "-shm"] {
            let with_end = |path: &Path| PathBuf::from(format!("{}{end}", path.display()));
            let _ = std::fs::remove_file(with_end(to));
            if end != "-shm" {
                match std::fs::copy(with_end(from), with_end(to)) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound && end == "-wal" => {}
                    copied => drop(copied.unwrap()),
                }
            }
        }
    }

    /// Keeps what a power cut would leave of the database at least.
    struct Flushed {
        database: PathBuf,
        copy: PathBuf,
    }

    impl Probe for Flushed {
        fn before(&self, _: &Asked<'_>) -> io::Result<()> {
            Ok(())
        }

        fn after(&self, call: &Asked<'_>, _: Option<BorrowedFd<'_>>) {
            if call.op == Op::SyncIndex {
                copy_database(&self.database, &self.copy);
            }
        }
    }

    fn write_all(share: &Memory, text: &str) {
        share.edit(|edit| {
            for dir in 0..DIRS {
                for file in 0..FILES {
                    edit.file(&format!("{dir}/{file}"), format!("{text} {dir} {file}"));
                }
            }
        });
    }

    /// All that is in place came from the share, also if nothing of that was written down to stay, and the share has moved on.
    #[tokio::test(start_paused = true)]
    async fn nothing_that_came_is_somebodys_own_after_a_power_cut() {
        let meanwhile: [fn(&Memory); 4] = [
            |_| {},
            |share| {
                let file = RuleFile { dir: TreePath::root(), text: "*.own\n".to_owned() };
                share.set_rules(RuleSet { files: vec![file] });
            },
            |share| share.new_epoch(),
            |share| write_all(share, "newer"),
        ];
        for meanwhile in meanwhile {
            let mut scene = Scene::new(move |share, _| meanwhile(share));
            scene.durability = Durability::Batch;
            scene.pair.target.dir(".");
            let kept = Scratch::new();
            let database = scene.pair.target.path(".syncd/target.db");
            let copy = kept.path().join("target.db");
            let flushed = Flushed { database: database.clone(), copy: copy.clone() };
            let listening = install(scene.pair.target.root(), Arc::new(flushed));
            scene.pull().await;
            drop(listening);
            copy_database(&copy, &database);
            write_all(&scene.pair.share, "newest");
            scene.pull().await;
        }
    }
}
