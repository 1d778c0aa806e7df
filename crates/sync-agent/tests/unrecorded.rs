//! What a run put in place and could not write down is the share's all the same: when the share has moved on it is replaced like
//! any old version, and is nobody's own work.
#![cfg(feature = "failpoints")]
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test, and the trees are its own")]

mod common;

use std::{
    io,
    os::fd::BorrowedFd,
    path::PathBuf,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use common::options_for;
use rustix::io::Errno;
use sync_agent::engine::{Engine, EngineError, EngineOptions, PullMode, Reporter, Silent, Summary};
use sync_locations::{Location, Memory};
use sync_testkit::{Scratch, tree::Tree};
use sync_tree::{
    apply::Durability,
    probe::{Call, Op, OpKind, Probe, install},
};
use tokio_util::sync::CancellationToken;

/// Refuses some calls once something has its place.
struct Refusing {
    placed: AtomicBool,
    refused: fn(Op) -> bool,
    errno: Errno,
}

impl Probe for Refusing {
    fn before(&self, call: &Call<'_>) -> io::Result<()> {
        match self.placed.load(Ordering::SeqCst) && (self.refused)(call.op) {
            true => Err(self.errno.into()),
            false => Ok(()),
        }
    }

    fn after(&self, call: &Call<'_>, _made: Option<BorrowedFd<'_>>) {
        let places = matches!(call.op, Op::Link | Op::RenameNew | Op::Exchange);
        if places && call.site().ends_with("tree") {
            self.placed.store(true, Ordering::SeqCst);
        }
    }
}

const FILES: usize = 30;

struct Scene {
    _scratch: Scratch,
    share: Memory,
    remote: Arc<dyn Location>,
    target: Tree,
    durability: Durability,
}

impl Scene {
    fn new(durability: Durability) -> Self {
        let scratch = Scratch::in_memory();
        let target = Tree::at(scratch.path().join("target"));
        let share = Memory::new("docs");
        let remote = Arc::new(share.clone());
        let scene = Self { _scratch: scratch, share, remote, target, durability };
        scene.write("first");
        scene
    }

    fn write(&self, text: &str) {
        self.share.edit(|edit| {
            for number in 0..FILES {
                edit.file(&format!("{number}"), format!("{text} {number}"));
            }
        });
    }

    fn engine(&self) -> Engine {
        let options = options_for(self.target.root(), self.share.share_id());
        Engine::open(EngineOptions { durability: self.durability, ..options }).unwrap()
    }

    async fn pull(&self, engine: &mut Engine) -> Result<Summary, EngineError> {
        let reporter: Arc<dyn Reporter> = Arc::new(Silent);
        engine.pull(&self.remote, PullMode::default(), &reporter, &CancellationToken::new()).await
    }

    async fn verify(&self, engine: &mut Engine) -> Result<Summary, EngineError> {
        let reporter: Arc<dyn Reporter> = Arc::new(Silent);
        engine.verify(&self.remote, &reporter, &CancellationToken::new()).await
    }

    /// A pull that places something and is then refused these calls. The engine lives on in a process whose trouble has passed.
    async fn cut(&self, refused: fn(Op) -> bool, errno: Errno) -> Engine {
        let mut engine = self.engine();
        let probe = Arc::new(Refusing { placed: AtomicBool::new(false), refused, errno });
        let listening = install(self.target.root(), probe.clone());
        let pulled = self.pull(&mut engine).await;
        drop(listening);
        assert!(matches!(pulled, Err(EngineError::Apply(_) | EngineError::Database { .. })), "{pulled:?}");
        assert!(probe.placed.load(Ordering::SeqCst), "nothing was placed");
        engine
    }

    async fn assert_nobodys_own(&self, engine: &mut Engine) {
        let summary = self.pull(engine).await.unwrap();
        assert!(summary.equal, "{summary:?}");
        assert!(self.target.trash().is_empty(), "{:?}: {:?}", self.durability, self.target.trash().keys());
    }
}

type Refusal = (fn(Op) -> bool, Errno);

/// Flushes fail; the disk is full for files and for the index; the index alone cannot be written.
const REFUSALS: [Refusal; 3] = [
    (|op| op.kind() == OpKind::Flushes, Errno::IO),
    (|op| op.kind() == OpKind::Changes, Errno::NOSPC),
    (|op| op == Op::Commit, Errno::IO),
];

/// `first` was pulled in part, or as an update, when it was cut.
async fn cut_in_every_way(after: impl AsyncFn(&Scene, Engine)) {
    for durability in [Durability::None, Durability::Batch, Durability::File] {
        for (number, (refused, errno)) in REFUSALS.into_iter().enumerate() {
            if durability == Durability::None && number == 0 {
                continue;
            }
            for update in [false, true] {
                eprintln!("{durability:?}, refusal {number}, update {update}");
                let scene = Scene::new(durability);
                if update {
                    scene.pull(&mut scene.engine()).await.unwrap();
                    scene.write("changed");
                }
                let engine = scene.cut(refused, errno).await;
                scene.write("second");
                after(&scene, engine).await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_engine_knows_it() {
    cut_in_every_way(async |scene, mut engine| scene.assert_nobodys_own(&mut engine).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_engine_knows_it() {
    cut_in_every_way(async |scene, engine| {
        drop(engine);
        scene.assert_nobodys_own(&mut scene.engine()).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn comparing_in_between_does_not_make_it_forgotten() {
    cut_in_every_way(async |scene, engine| {
        drop(engine);
        let compared = scene.verify(&mut scene.engine()).await.unwrap();
        assert!(!compared.equal, "{compared:?}");
        scene.assert_nobodys_own(&mut scene.engine()).await;
    })
    .await;
}

/// Looks, when the first file gets its place, whether contents can be searched for without reading the whole index.
struct Searchable {
    database: PathBuf,
    found: OnceLock<bool>,
}

impl Probe for Searchable {
    fn before(&self, call: &Call<'_>) -> io::Result<()> {
        if call.op == Op::Link && call.site().ends_with("tree") {
            let sql = "SELECT EXISTS (SELECT 1 FROM sqlite_master WHERE name = 'content_runs')";
            self.found.get_or_init(|| {
                let db = rusqlite::Connection::open(&self.database).unwrap();
                db.query_row(sql, [], |row| row.get(0)).unwrap()
            });
        }
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_pull_that_goes_on_searches_quickly() {
    let scene = Scene::new(Durability::None);
    scene.share.edit(|edit| {
        edit.file("dir/file", "in a directory");
        // With another in it, it is made before its files come.
        edit.dir("dir/empty");
    });
    scene.share.cut_fetch_after(0);
    let cut = scene.pull(&mut scene.engine()).await;
    assert!(matches!(cut, Err(EngineError::Location(_))), "{cut:?}");
    assert!(scene.target.has("dir") && !scene.target.has("dir/file"));
    let database = scene.target.path(".syncd/target.db");
    let probe = Arc::new(Searchable { database, found: OnceLock::new() });
    let _listening = install(scene.target.root(), probe.clone());
    assert!(scene.pull(&mut scene.engine()).await.unwrap().equal);
    assert_eq!(probe.found.get(), Some(&true));
}

/// Refuses calls once two things were taken out of the tree to cross each other: so many of one site, or all changes.
struct NoRoom {
    taken: AtomicUsize,
    site: Option<&'static str>,
    left: AtomicUsize,
}

impl Probe for NoRoom {
    fn before(&self, call: &Call<'_>) -> io::Result<()> {
        let is_meant = match self.site {
            Some(site) => call.site() == site,
            None => call.op.kind() == OpKind::Changes,
        };
        let counts = is_meant && self.taken.load(Ordering::SeqCst) == 2;
        match counts
            && self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
        {
            true => Err(Errno::NOSPC.into()),
            false => Ok(()),
        }
    }

    fn after(&self, call: &Call<'_>, _made: Option<BorrowedFd<'_>>) {
        if call.site() == "rename-new tree>moves" {
            self.taken.fetch_add(1, Ordering::SeqCst);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_taken_out_goes_back_when_the_run_cannot_go_on() {
    for (site, refusals) in [(Some("rename-new moves>tree"), 1), (None, usize::MAX)] {
        for durability in [Durability::None, Durability::Batch] {
            eprintln!("{site:?} {durability:?}");
            let scene = Scene::new(durability);
            let mut engine = scene.engine();
            scene.pull(&mut engine).await.unwrap();
            scene.share.edit(|edit| edit.swap("1", "2"));
            let probe = NoRoom { taken: 0.into(), site, left: refusals.into() };
            let listening = install(scene.target.root(), Arc::new(probe));
            let pulled = scene.pull(&mut engine).await;
            drop(listening);
            assert!(
                matches!(pulled, Err(EngineError::Apply(_) | EngineError::Database { .. })),
                "{pulled:?}"
            );
            if site.is_some() {
                let here = ["1", "2"].map(|name| scene.target.read(name));
                assert_eq!(here, [b"first 1".to_vec(), b"first 2".to_vec()], "they are where they were");
            }
            scene.assert_nobodys_own(&mut engine).await;
            assert_eq!(scene.target.read("1"), b"first 2");
            let moves = std::fs::read_dir(scene.target.path(".syncd/staging/moves")).unwrap();
            let waiting: Vec<_> = moves
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .filter(|name| !name.ends_with(".from"))
                .collect();
            assert!(waiting.is_empty(), "{site:?} {durability:?}: {waiting:?} waits for the next start");
        }
    }
}
