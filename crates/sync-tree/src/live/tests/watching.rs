//! What happens in the tree gets into the index.

use std::{
    io::{self, Write as _},
    os::unix::fs::PermissionsExt as _,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use super::*;
use crate::{
    live::TreeError,
    look::{ChangeNote, ChangeOp},
    probe::{self, Call, OpKind, Probe},
    watch::WatchEvent,
};

#[test]
fn creations_changes_renames_and_deletions_are_seen_and_told() {
    let scene = Scene::start();
    let mut console = scene.tree.changes();
    scene.write("a", "one");
    scene.until("a is there", || scene.size("a") == Some(3));
    scene.write("a", "three");
    scene.until("a has changed", || scene.size("a") == Some(5));
    let id = scene.id("a");
    fs::rename(scene.root.join("a"), scene.root.join("b")).unwrap();
    scene.until("a is b", || scene.id("a").is_none() && scene.id("b") == id);
    fs::set_permissions(scene.root.join("b"), fs::Permissions::from_mode(0o600)).unwrap();
    let mode = || scene.tree.index().find(&TreePath::new("b").unwrap()).unwrap().unwrap().node.entry.mode;
    scene.until("b has another mode", || mode() == 0o600);
    fs::remove_file(scene.root.join("b")).unwrap();
    scene.until("b is gone", || scene.id("b").is_none());
    scene.barrier().unwrap();
    let mut told: Vec<ChangeNote> = Vec::new();
    while let Ok(notes) = console.try_recv() {
        told.extend(notes.iter().cloned());
    }
    for want in [ChangeOp::Created, ChangeOp::Modified, ChangeOp::Metadata, ChangeOp::Deleted] {
        assert!(told.iter().any(|note| note.op == want), "{want:?} in {told:?}");
    }
    assert!(told.iter().any(|note| matches!(note.op, ChangeOp::Renamed { .. }) && note.path.as_str() == "b"));
    assert_kept_up(&scene);
}

/// Renames something at one of the calls that read it.
struct MovesAt {
    names: [&'static str; 2],
    left: Mutex<Option<usize>>,
    from: PathBuf,
    to: PathBuf,
}

impl MovesAt {
    fn arm(&self, calls: usize) {
        *self.left.lock().unwrap() = Some(calls);
    }

    fn is_done(&self) -> bool {
        self.left.lock().unwrap().is_none()
    }
}

impl Probe for MovesAt {
    fn before(&self, call: &Call<'_>) -> io::Result<()> {
        if call.op.kind() == OpKind::Reads && self.names.iter().any(|name| name.as_bytes() == call.name) {
            let mut left = self.left.lock().unwrap();
            match *left {
                Some(0) => {
                    *left = None;
                    fs::rename(&self.from, &self.to).unwrap();
                }
                Some(more) => *left = Some(more - 1),
                None => {}
            }
        }
        Ok(())
    }
}

/// A file that was just written is looked at again soon, without any event; and it may be renamed while it is looked at.
#[test]
fn what_moves_at_any_moment_of_a_look_is_not_taken_for_deleted() {
    let move_at = |from: &str, to: &str, dir: &str, number: usize| {
        let scene = Scene::start();
        let path = |place: &str| if dir == "." { place.to_owned() } else { format!("{place}/f") };
        scene.write(&path(from), "x");
        let (from_path, to_path) = (scene.root.join(from), scene.root.join(to));
        let mover =
            Arc::new(MovesAt { names: ["f", "d"], left: Mutex::default(), from: from_path, to: to_path });
        let _listening = probe::install(&scene.root, mover.clone());
        scene.until("it is there", || scene.id(&path(from)).is_some());
        let id = scene.id(&path(from));
        mover.arm(number);
        let known = |place: &str| scene.tree.index().find(&TreePath::new(place).unwrap()).unwrap();
        let settled = || known(&path(from)).is_none_or(|known| known.vouched);
        scene.until("the look", || mover.is_done() || settled());
        scene.until("the new place", || !mover.is_done() || scene.id(&path(to)).is_some());
        if mover.is_done() {
            assert_eq!(scene.id(&path(to)), id, "{from} to {to} at call {number}");
            scene.barrier().unwrap();
            assert_eq!(scene.id(&path(from)), None);
        }
        mover.is_done()
    };
    std::thread::scope(|threads| {
        for (from, to, dir) in [("f", "g", "."), ("d", "e", "d")] {
            threads.spawn(move || {
                let moved = (0..10).take_while(|number| move_at(from, to, dir, *number)).count();
                assert!(moved > 0, "nothing was looked at a second time");
            });
        }
    });
}

#[test]
fn the_leaf_of_a_new_path_is_never_missed() {
    let scene = Scene::start();
    for round in 0..200 {
        let dir = scene.root.join(format!("r{round}/a/b/c"));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("leaf"), "x").unwrap();
    }
    scene.until("all leaves", || (0..200).all(|round| scene.id(&format!("r{round}/a/b/c/leaf")).is_some()));
    // The new directories are watched by now.
    scene.write("r7/a/b/c/leaf", "changed");
    scene.until("the leaf has changed", || scene.size("r7/a/b/c/leaf") == Some(7));
}

#[test]
fn after_a_barrier_everything_written_before_it_is_there() {
    let scene = Scene::start();
    for round in 0..200usize {
        let path = format!("d{}/f{}", round % 7, round % 13);
        scene.write(&path, &"x".repeat(round));
        scene.barrier().unwrap();
        assert_eq!(scene.size(&path), Some(round as u64), "round {round}");
    }
    let cookies = fs::read_dir(scene.root.join(".syncd/cookies")).unwrap().count();
    assert_eq!(cookies, 0, "cookies are removed");
}

#[test]
fn after_a_barrier_a_rename_before_it_is_seen_at_both_ends() {
    let scene = Scene::start();
    let path = |round: usize| format!("d{}/f{round}", round % 7);
    (0..7).for_each(|number| scene.write(&format!("d{number}/other"), "x"));
    scene.write(&path(0), "content");
    for round in 0..200 {
        scene.barrier().unwrap();
        assert!(scene.id(&path(round)).is_some(), "round {round}");
        fs::rename(scene.root.join(path(round)), scene.root.join(path(round + 1))).unwrap();
        scene.barrier().unwrap();
        assert_eq!(scene.id(&path(round)), None, "round {round}");
    }
}

#[test]
fn concurrent_barriers_are_all_passed() {
    let scene = Scene::start();
    std::thread::scope(|threads| {
        for thread in 0..8 {
            let scene = &scene;
            threads.spawn(move || {
                for round in 0..10 {
                    let path = format!("t{thread}/{round}");
                    scene.write(&path, "x");
                    scene.barrier().unwrap();
                    assert!(scene.id(&path).is_some(), "{path}");
                }
            });
        }
    });
}

#[test]
fn a_burst_of_files_arrives_whole() {
    let scene = Scene::start();
    for number in 0..5000 {
        scene.write(&format!("d{}/f{number}", number % 50), "content");
    }
    scene.barrier().unwrap();
    assert_eq!(scene.head().files, 5000);
    // They are read again some at a time.
    let index = scene.tree.index();
    let pages = |db: &rusqlite::Connection| index.table().page(db, NodeId::ROOT, 10_000);
    let all_vouched = || index.read(pages).unwrap().iter().all(|row| row.vouched);
    scene.until("all of them are vouched for", all_vouched);
    assert_kept_up(&scene);
}

#[test]
fn lost_events_are_made_up_for() {
    let meddler = Meddler::with_limit(usize::MAX);
    let scene = Scene::meddled(&meddler, |root| fs::create_dir(root.join("d")).unwrap());
    meddler.mute(true);
    scene.write("d/new/f", "x");
    fs::rename(scene.root.join("d"), scene.root.join("e")).unwrap();
    scene.write("d/other", "x");
    meddler.mute(false);
    meddler.inject(WatchEvent::Lost);
    scene.until("the lost changes", || scene.id("e/new/f").is_some() && scene.id("d/other").is_some());
    assert_eq!(meddler.starts(), 2, "the watches are placed anew");
    scene.write("e/new/later", "x");
    scene.until("new events", || scene.id("e/new/later").is_some());
    assert_kept_up(&scene);
}

#[test]
fn a_renamed_directory_keeps_its_ids_and_its_watches() {
    let scene = Scene::start();
    scene.write("old/sub/f", "x");
    scene.barrier().unwrap();
    let ids = |top: &str| ["", "/sub", "/sub/f"].map(|rest| scene.id(&format!("{top}{rest}")));
    let before = ids("old");
    assert!(before.iter().all(Option::is_some));
    fs::rename(scene.root.join("old"), scene.root.join("new")).unwrap();
    scene.barrier().unwrap();
    assert_eq!(ids("new"), before);
    assert_eq!(ids("old"), [None; 3]);
    scene.write("new/sub/f", "changed");
    scene.until("a change at the new place", || scene.size("new/sub/f") == Some(7));
    scene.write("old/sub/f", "another tree");
    scene.until("a new tree at the old place", || scene.size("old/sub/f") == Some(12));
    scene.write("old/sub/f", "it is watched");
    scene.until("a change in it", || scene.size("old/sub/f") == Some(13));
    scene.write("new/sub/g", "x");
    scene.until("and both still are", || scene.id("new/sub/g").is_some());
    assert_kept_up(&scene);
}

#[test]
fn swapped_directories_are_followed() {
    let scene = Scene::start();
    scene.write("a/sub/one", "1");
    scene.write("b/sub/two", "2");
    scene.barrier().unwrap();
    for round in 0..10 {
        for (from, to) in [("a", "tmp"), ("b", "a"), ("tmp", "b")] {
            fs::rename(scene.root.join(from), scene.root.join(to)).unwrap();
        }
        scene.barrier().unwrap();
        for side in ["a", "b"] {
            let path = format!("{side}/sub/{round}");
            scene.write(&path, "x");
            scene.until(&path, || scene.id(&path).is_some());
        }
    }
    assert_kept_up(&scene);
}

#[test]
fn a_busy_file_starves_nobody() {
    let scene = Scene::start();
    let stop = AtomicBool::new(false);
    std::thread::scope(|threads| {
        threads.spawn(|| {
            let mut log = fs::File::create(scene.root.join("log")).unwrap();
            log.write_all(&vec![b'x'; 8 << 20]).unwrap();
            while !stop.load(Ordering::Relaxed) {
                log.write_all(b"one more line\n").unwrap();
                std::thread::park_timeout(Duration::from_micros(200));
            }
        });
        for round in 0..20 {
            let path = format!("f{round}");
            scene.write(&path, "x");
            scene.until(&path, || scene.id(&path).is_some());
        }
        scene.until("the log itself", || scene.size("log").is_some_and(|size| size > 8 << 20));
        stop.store(true, Ordering::Relaxed);
    });
    scene.barrier().unwrap();
    assert_kept_up(&scene);
    let vouched = || scene.tree.index().find(&TreePath::new("log").unwrap()).unwrap().unwrap().vouched;
    scene.until("the log is vouched for when it rests", vouched);
}

#[test]
fn ignored_directories_are_not_watched() {
    let meddler = Meddler::with_limit(usize::MAX);
    let prepare = |root: &Path| {
        fs::create_dir_all(root.join("build/deep")).unwrap();
        fs::create_dir_all(root.join("src")).unwrap();
        fs::write(root.join(".syncignore"), "build/\n").unwrap();
    };
    let scene = Scene::meddled(&meddler, prepare);
    scene.write("build/deep/f", "x");
    scene.write("src/f", "x");
    scene.barrier().unwrap();
    assert!(scene.id("src/f").is_some() && scene.id("build").is_none());
    assert!(meddler.watched().contains(&scene.root.join("src")));
    assert!(!meddler.watched().iter().any(|dir| dir.starts_with(scene.root.join("build"))));
    let version = scene.tree.status().borrow().rules_version;
    fs::write(scene.root.join(".syncignore"), "").unwrap();
    scene.until("what is no longer ignored", || scene.id("build/deep/f").is_some());
    scene.write("build/deep/g", "x");
    scene.until("it is watched now", || scene.id("build/deep/g").is_some());
    assert!(scene.tree.status().borrow().rules_version > version);
}

#[test]
fn names_that_are_not_utf8_are_problems_that_come_and_go() {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt as _};
    let scene = Scene::start();
    let version = scene.tree.status().borrow().problems_version;
    let odd = scene.root.join(OsStr::from_bytes(b"caf\xe9"));
    fs::write(&odd, "x").unwrap();
    scene.until("the problem", || {
        scene.tree.problems().iter().any(|problem| *problem.raw_name == *b"caf\xe9")
    });
    scene.until("its version", || scene.tree.status().borrow().problems_version > version);
    fs::remove_file(&odd).unwrap();
    scene.until("no problem", || scene.tree.problems().is_empty());
}

#[test]
fn changes_made_while_nobody_watched_are_found_at_the_start() {
    let scene = Scene::start();
    scene.write("kept", "x");
    scene.write("gone", "x");
    scene.barrier().unwrap();
    let id = scene.id("kept");
    scene.tree.stop();
    fs::remove_file(scene.root.join("gone")).unwrap();
    scene.write("new", "x");
    let tree = LiveTree::start(LiveOptions::new(scene.root.clone())).unwrap();
    eventually("the first scan", || tree.status().borrow().state == TreeState::Ready);
    let find =
        |path: &str| tree.index().find(&TreePath::new(path).unwrap()).unwrap().map(|found| found.node.id);
    assert_eq!((find("kept"), find("gone")), (id, None));
    assert!(find("new").is_some());
}

#[test]
fn a_directory_is_served_once_and_a_stopped_tree_says_so() {
    let scene = Scene::start();
    let second = LiveTree::start(LiveOptions::new(scene.root.clone()));
    assert!(matches!(second, Err(TreeError::Locked(_))));
    scene.tree.stop();
    scene.tree.stop();
    assert_eq!(scene.barrier(), Err(BarrierError::Stopped));
    LiveTree::start(LiveOptions::new(scene.root.clone())).unwrap();
    let missing = LiveTree::start(LiveOptions::new(scene.root.join("missing")));
    assert!(matches!(missing, Err(TreeError::Root { .. })));
}

#[test]
fn stopping_is_quick_and_answers_those_who_wait() {
    let meddler = Meddler::with_limit(usize::MAX);
    let scene = Scene::meddled(&meddler, |_| {});
    // The cookie is never seen, so the barrier waits.
    meddler.mute(true);
    let began = Instant::now();
    std::thread::scope(|threads| {
        let waiting = threads.spawn(|| scene.barrier());
        scene.until("the cookie", || fs::read_dir(scene.root.join(".syncd/cookies")).unwrap().count() == 1);
        scene.tree.stop();
        assert_eq!(waiting.join().unwrap(), Err(BarrierError::Stopped));
    });
    assert!(began.elapsed() < Duration::from_secs(2));
}

#[test]
fn a_panic_halts_the_tree_with_its_message() {
    let meddler = Meddler::with_limit(usize::MAX);
    let scene = Scene::meddled(&meddler, |_| {});
    meddler.panic_at_start();
    meddler.inject(WatchEvent::Lost);
    scene.until("the halt", || scene.halt_reason().is_some());
    let reason = scene.halt_reason().unwrap();
    assert!(reason.contains("internal error: the watcher was told to panic"), "{reason}");
    assert!(matches!(scene.barrier(), Err(BarrierError::Halted { .. })));
}

/// Nothing can be found out about one name, not even whether it is there. Counts how often somebody asked.
struct Unknowable(AtomicUsize);

impl Probe for Unknowable {
    fn before(&self, call: &Call<'_>) -> io::Result<()> {
        if call.op.kind() == OpKind::Reads && call.name == b"lost" {
            self.0.fetch_add(1, Ordering::SeqCst);
            return Err(rustix::io::Errno::IO.into());
        }
        Ok(())
    }
}

#[test]
fn what_cannot_even_be_looked_at_is_looked_at_again_until_it_can() {
    let scene = Scene::start();
    let unknowable = Arc::new(Unknowable(AtomicUsize::new(0)));
    let listening = probe::install(&scene.root, unknowable.clone());
    scene.write("lost", "content");
    // By its event, and then by itself, again and again.
    scene.until("it is asked for again and again", || unknowable.0.load(Ordering::SeqCst) > 6);
    assert!(scene.id("lost").is_none());
    drop(listening);
    scene.until("it is there", || scene.size("lost") == Some(7));
}
