//! New directories are filled in staging and appear whole, whatever happens meanwhile.
#![cfg(feature = "failpoints")]
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test, and the trees are its own")]

mod common;

use std::{
    collections::BTreeMap,
    io,
    os::fd::BorrowedFd,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use common::options_for;
use rustix::io::Errno;
use sync_agent::engine::{
    AppliedOp, Engine, EngineError, EngineOptions, PullMode, Reporter, Silent, Summary,
};
use sync_core::{Content, TreePath};
use sync_locations::{
    Faulty, Location, Memory,
    faulty::{Call as Asked, Moment, Script, Turn},
};
use sync_testkit::{Scratch, tree::Tree};
use sync_tree::{
    apply::Durability,
    probe::{Call, Op, Probe, install},
};
use tokio_util::sync::CancellationToken;

const DURABILITIES: [Durability; 3] = [Durability::None, Durability::Batch, Durability::File];
/// More than are flushed one by one.
const FILES: usize = 20;

struct Scene {
    _scratch: Scratch,
    share: Memory,
    target: Tree,
    durability: Durability,
}

impl Scene {
    /// A share with one directory of many files in another one.
    fn new(durability: Durability) -> Self {
        let scratch = Scratch::in_memory();
        let target = Tree::at(scratch.path().join("target"));
        let share = Memory::new("docs");
        share.edit(|edit| {
            for number in 0..FILES {
                edit.file(&file(number), format!("the share's {number}"));
            }
        });
        Self { _scratch: scratch, share, target, durability }
    }

    async fn pull(&self) -> Result<Summary, EngineError> {
        self.pull_heard(Arc::new(Silent)).await
    }

    async fn pull_heard(&self, reporter: Arc<dyn Reporter>) -> Result<Summary, EngineError> {
        self.pull_from(Arc::new(self.share.clone()), reporter).await
    }

    async fn pull_from(
        &self,
        remote: Arc<dyn Location>,
        reporter: Arc<dyn Reporter>,
    ) -> Result<Summary, EngineError> {
        let options = options_for(self.target.root(), self.share.share_id());
        let mut engine = Engine::open(EngineOptions { durability: self.durability, ..options }).unwrap();
        engine.pull(&remote, PullMode::default(), &reporter, &CancellationToken::new()).await
    }

    /// Pulls while `act` is done right before the directory gets its place.
    async fn pull_meanwhile(&self, act: impl Fn(&Tree) + Send + Sync + 'static) -> Summary {
        self.target.dir(".");
        let target = self.target.clone();
        let at_once = AtRename(Mutex::new(Some(Box::new(move || act(&target)))));
        let probe = Arc::new(at_once);
        let listening = install(self.target.root(), probe.clone());
        let summary = self.pull().await.unwrap();
        drop(listening);
        assert!(probe.0.lock().unwrap().is_none(), "no directory was about to appear");
        self.assert_end(&summary);
        summary
    }

    #[track_caller]
    fn assert_end(&self, summary: &Summary) {
        assert!(summary.equal, "{:?}: {summary:?}", self.durability);
        let now = self.target.snapshot();
        let wanted = self.share.entries();
        for (path, (entry, bytes)) in wanted.iter().filter(|(path, _)| !path.is_root()) {
            assert!(now.contains_key(&path.as_str().into()), "{path} is missing");
            if matches!(entry.content, Content::File { .. }) {
                assert_eq!(self.target.read(path.as_str()), *bytes, "{path}");
            }
        }
        assert_eq!(now.len(), wanted.keys().filter(|path| !path.is_root()).count(), "{now:?}");
        assert_eq!(self.left(), Vec::<String>::new(), "{:?}", self.durability);
    }

    /// What runs left in staging.
    fn left(&self) -> Vec<String> {
        let list = self.target.path(".syncd/staging").read_dir().unwrap();
        let names = list.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with("run-")).collect()
    }

    fn trashed(&self) -> Vec<Vec<u8>> {
        let trash = self.target.trash();
        let files = trash.iter().filter(|(_, seen)| seen.digest.is_some());
        let run = std::fs::read_dir(self.target.path(".syncd/trash")).unwrap();
        let run = run.map(|run| run.unwrap().path()).next();
        files.map(|(path, _)| std::fs::read(run.as_ref().unwrap().join(path.as_path())).unwrap()).collect()
    }
}

fn file(number: usize) -> String {
    format!("above/dir/{number}")
}

type Act = Box<dyn Fn() + Send + Sync>;

/// Does something before a new directory gets its place.
struct AtRename(Mutex<Option<Act>>);

fn is_appearing(call: &Call<'_>) -> bool {
    call.op == Op::RenameNew && call.site() == "rename-new lane>tree" && call.name.starts_with(b"new-")
}

impl Probe for AtRename {
    fn before(&self, call: &Call<'_>) -> io::Result<()> {
        if is_appearing(call)
            && let Some(act) = self.0.lock().unwrap().take()
        {
            act();
        }
        Ok(())
    }
}

/// The directories that appeared, and how many names each had in it then; and the files that got a place by themselves.
#[derive(Default)]
struct Appearances {
    dirs: Mutex<BTreeMap<String, usize>>,
    files: Mutex<Vec<String>>,
}

impl Probe for Appearances {
    fn after(&self, call: &Call<'_>, _made: Option<BorrowedFd<'_>>) {
        let name = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        if is_appearing(call) {
            let (dir, new) = call.other().unwrap();
            let path = format!("/proc/self/fd/{}/{}", std::os::fd::AsRawFd::as_raw_fd(&dir), name(new));
            self.dirs.lock().unwrap().insert(name(new), std::fs::read_dir(path).unwrap().count());
        } else if call.op == Op::Link && call.site().ends_with("tree") {
            self.files.lock().unwrap().push(name(call.name));
        } else if call.op == Op::RenameNew && call.site().ends_with("lane>tree") {
            self.files.lock().unwrap().push(name(call.other().unwrap().1));
        }
    }
}

impl Appearances {
    async fn of(scene: &Scene) -> (Vec<(String, usize)>, Vec<String>) {
        let found = Arc::new(Self::default());
        scene.target.dir(".");
        let listening = install(scene.target.root(), found.clone());
        let summary = scene.pull().await.unwrap();
        drop(listening);
        scene.assert_end(&summary);
        let dirs = std::mem::take(&mut *found.dirs.lock().unwrap());
        let mut files = std::mem::take(&mut *found.files.lock().unwrap());
        files.sort();
        (dirs.into_iter().collect(), files)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_appears_with_all_its_files() {
    for durability in DURABILITIES {
        let scene = Scene::new(durability);
        scene.share.edit(|edit| {
            edit.file("above/file", "beside a directory");
            edit.file("linked/file", "beside a link");
            edit.link("linked/link", "file");
            edit.file("closed/file", "in what its owner may not write");
            edit.mode("closed", 0o555);
            edit.file("other/one", "one");
            edit.mode("other/one", 0o400);
            // Too large to come packed with others.
            edit.file("other/large", vec![7; 100_000]);
            edit.dir("empty");
        });
        let (dirs, files) = Appearances::of(&scene).await;
        assert_eq!(dirs, [("dir".to_owned(), FILES), ("other".to_owned(), 2)], "{durability:?}");
        assert_eq!(files.iter().filter(|name| *name == "file").count(), 3, "{files:?}");
        // Also in a later run.
        scene.share.edit(|edit| {
            edit.file("above/later/one", "1");
            edit.file("above/later/two", "2");
        });
        let (dirs, files) = Appearances::of(&scene).await;
        assert_eq!((dirs, files), (vec![("later".to_owned(), 2)], vec![]), "{durability:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_told_comes_after_what_is_done() {
    struct Heard(Tree, Mutex<Vec<(String, bool)>>);
    impl Reporter for Heard {
        fn applied(&self, op: AppliedOp, path: &TreePath, _from: Option<&TreePath>) {
            if op == AppliedOp::Create {
                self.1.lock().unwrap().push((path.as_str().to_owned(), self.0.has(path.as_str())));
            }
        }
    }
    let scene = Scene::new(Durability::None);
    let heard = Arc::new(Heard(scene.target.clone(), Mutex::default()));
    let summary = scene.pull_heard(heard.clone()).await.unwrap();
    assert_eq!((summary.synced, summary.checked), (FILES as u64, FILES as u64), "{summary:?}");
    let heard = heard.1.lock().unwrap();
    assert!(heard.iter().all(|(_, was_there)| *was_there), "{heard:?}");
    assert_eq!(heard.len(), FILES + 2, "each once: {heard:?}");
    assert_eq!(heard[1].0, "above/dir", "before what is in it: {heard:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_puts_there_meanwhile_stays_or_goes_to_the_trash() {
    for durability in DURABILITIES {
        // Another file in it, which the share does not have.
        let scene = Scene::new(durability);
        scene.pull_meanwhile(|target| drop(target.file("above/dir/mine", "mine"))).await;
        assert_eq!(scene.trashed(), [b"mine"], "{durability:?}");
        // A file in it that the share has.
        let scene = Scene::new(durability);
        scene.pull_meanwhile(|target| drop(target.file(file(3), "my three"))).await;
        assert_eq!(scene.trashed(), [b"my three"], "{durability:?}");
        // A file in its place.
        let scene = Scene::new(durability);
        scene.pull_meanwhile(|target| drop(target.file("above/dir", "my dir"))).await;
        assert_eq!(scene.trashed(), [b"my dir"], "{durability:?}");
        // The directory that it is to be in is gone.
        let scene = Scene::new(durability);
        scene.pull_meanwhile(|target| target.remove("above")).await;
        assert_eq!(scene.trashed(), Vec::<Vec<u8>>::new(), "{durability:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_cannot_be_had_does_not_keep_the_others() {
    for durability in DURABILITIES {
        let scene = Scene::new(durability);
        scene.share.set_unreadable(&file(5), Some("not for you"));
        let summary = scene.pull().await.unwrap();
        assert_eq!((summary.synced, summary.failed), (FILES as u64 - 1, 1), "{summary:?}");
        assert!(!scene.target.has(file(5)) && scene.target.has(file(6)));
        assert_eq!(scene.left(), Vec::<String>::new());
        scene.share.set_unreadable(&file(5), None);
        let summary = scene.pull().await.unwrap();
        assert_eq!(summary.synced, 1, "{summary:?}");
        scene.assert_end(&summary);
        // Wrong bytes are never seen.
        let scene = Scene::new(durability);
        scene.share.set_wrong_bytes(&file(5), true);
        let summary = scene.pull().await.unwrap();
        assert_eq!((summary.synced, summary.failed), (FILES as u64 - 1, 1), "{summary:?}");
        assert!(!scene.target.has(file(5)));
        scene.share.set_wrong_bytes(&file(5), false);
        scene.assert_end(&scene.pull().await.unwrap());
        // None of them can be had.
        let scene = Scene::new(durability);
        (0..FILES).for_each(|number| scene.share.set_unreadable(&file(number), Some("not for you")));
        let summary = scene.pull().await.unwrap();
        assert_eq!((summary.synced, summary.failed), (0, FILES as u64), "{summary:?}");
        assert!(scene.target.has("above/dir"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_came_before_a_cut_is_not_brought_again() {
    for durability in DURABILITIES {
        let scene = Scene::new(durability);
        scene.share.cut_fetch_after(1);
        let cut = scene.pull().await;
        assert!(matches!(cut, Err(EngineError::Location(_))), "{cut:?}");
        let came = (0..FILES).filter(|number| scene.target.has(file(*number))).count();
        assert!((1..FILES).contains(&came), "{durability:?}: {came} files came");
        assert_eq!(scene.left(), Vec::<String>::new());
        let summary = scene.pull().await.unwrap();
        assert_eq!(summary.synced, (FILES - came) as u64, "{summary:?}");
        scene.assert_end(&summary);
        assert!(scene.target.trash().is_empty());
    }
}

/// Refuses the calls at these sites, from the first one or so many later.
struct Refusing(Vec<(&'static str, usize, Errno)>, Mutex<BTreeMap<String, usize>>);

impl Probe for Refusing {
    fn before(&self, call: &Call<'_>) -> io::Result<()> {
        let site = call.site();
        let mut seen = self.1.lock().unwrap();
        let count = seen.entry(site.clone()).or_default();
        *count += 1;
        let refused = self.0.iter().find(|(of, from, _)| *of == site && *count >= *from);
        refused.map_or(Ok(()), |(_, _, errno)| Err((*errno).into()))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn trouble_with_it_costs_nothing_that_is_good() {
    let cases: [&[(&str, usize, Errno)]; 9] = [
        &[("write new", 5, Errno::NOSPC)],
        &[("write new", 5, Errno::IO)],
        // What was written in part cannot be removed either, and must not be seen.
        &[("set-times new", 5, Errno::IO), ("remove-file new", 1, Errno::IO)],
        &[("create new", 5, Errno::MFILE)],
        &[("make-dir lane", 1, Errno::NOSPC)],
        &[("set-mode new", 1, Errno::PERM)],
        &[("rename-new lane>tree", 1, Errno::XDEV)],
        &[("rename-new lane>tree", 1, Errno::IO), ("rename-new new>tree", 5, Errno::IO)],
        &[("sync-fs staging", 1, Errno::IO)],
    ];
    for durability in DURABILITIES {
        for case in cases {
            let scene = Scene::new(durability);
            scene.target.dir(".");
            let listening = install(scene.target.root(), Arc::new(Refusing(case.to_vec(), Mutex::default())));
            let pulled = scene.pull().await;
            drop(listening);
            for (path, (_, bytes)) in scene.share.entries() {
                if let Some(have) = scene.target.try_read(path.as_str()) {
                    assert_eq!(have, bytes, "{durability:?}, {case:?}: {path} is not complete");
                }
            }
            let came = (0..FILES).filter(|number| scene.target.has(file(*number))).count() as u64;
            if let Ok(summary) = &pulled {
                assert_eq!(summary.synced, came, "{durability:?}, {case:?}: {summary:?}");
                assert_eq!(summary.failed, FILES as u64 - came, "{durability:?}, {case:?}: {summary:?}");
            }
            scene.assert_end(&scene.pull().await.unwrap());
            assert!(scene.target.trash().is_empty(), "{durability:?}, {case:?}");
        }
    }
}

/// Fails the first flush of everything, and none after it: the system tells of such a failure once.
struct FailsOnce(AtomicU32);

impl Probe for FailsOnce {
    fn before(&self, call: &Call<'_>) -> io::Result<()> {
        match call.site() == "sync-fs staging" && self.0.fetch_add(1, Ordering::SeqCst) == 0 {
            true => Err(Errno::IO.into()),
            false => Ok(()),
        }
    }
}

/// A line on which large files take longer than any test.
struct LateFiles;

impl Script for LateFiles {
    fn meets(&self, moment: Moment) -> Turn {
        match moment.call {
            Asked::FetchFile => Turn::Late(Duration::from_secs(600)),
            _ => Turn::Pass,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_more_is_not_put_in_place_once_a_flush_has_failed() {
    let scene = Scene::new(Durability::Batch);
    scene.share.edit(|edit| {
        (0..FILES).for_each(|number| edit.file(&format!("open/{number}"), "small"));
        edit.file("open/large", vec![7; 100_000]);
    });
    scene.target.dir(".");
    let failing = Arc::new(FailsOnce(AtomicU32::new(0)));
    let listening = install(scene.target.root(), failing.clone());
    let remote = Arc::new(Faulty::new(Arc::new(scene.share.clone()), Arc::new(LateFiles)));
    let pulled = scene.pull_from(remote, Arc::new(Silent)).await;
    drop(listening);
    assert!(matches!(pulled, Err(EngineError::Apply(_))), "{pulled:?}");
    assert!(failing.0.load(Ordering::SeqCst) > 0, "nothing was flushed");
    assert!(!scene.target.has("open") && !scene.target.has("above/dir"), "{:?}", scene.target.snapshot());
    assert_eq!(scene.left(), Vec::<String>::new());
    scene.assert_end(&scene.pull().await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_directory_hands_down_is_handed_down() {
    let scene = Scene::new(Durability::None);
    scene.target.dir("above").mode(0o2755);
    scene.share.edit(|edit| edit.mode("above", 0o755));
    let summary = scene.pull().await.unwrap();
    assert!(summary.equal, "{summary:?}");
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &scene.target.path("above/dir").metadata().unwrap().permissions(),
    );
    assert_eq!(mode & 0o2000, 0o2000, "{mode:o}");
}
