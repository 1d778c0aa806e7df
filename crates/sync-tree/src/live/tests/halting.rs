//! What looks like a disaster is not published.

use super::*;
use crate::watch::WatchEvent;

fn filled(files: usize) -> Scene {
    let prepare = |root: &Path| {
        for number in 0..files {
            fs::write(root.join(format!("f{number}")), "x").unwrap();
        }
    };
    Scene::prepared(prepare, |_| {}, Box::new(start_system_watcher))
}

fn empty(scene: &Scene) {
    for number in 0..scene.head().files {
        fs::remove_file(scene.root.join(format!("f{number}"))).unwrap();
    }
}

fn accept(scene: &Scene) {
    LiveTree::accept(&LiveOptions::new(scene.root.clone())).unwrap();
}

#[test]
fn a_vanished_root_halts_until_it_is_back() {
    let scene = filled(20);
    let before = scene.head();
    let aside = scene.root.with_extension("aside");
    fs::rename(&scene.root, &aside).unwrap();
    scene.until("the halt", || scene.halt_reason().is_some());
    assert!(scene.halt_reason().unwrap().contains("is gone"), "{:?}", scene.halt_reason());
    assert!(matches!(scene.barrier(), Err(BarrierError::Halted { .. })));
    assert_eq!(scene.head(), before, "nothing is published");
    fs::remove_file(aside.join("f0")).unwrap();
    fs::write(aside.join("new"), "x").unwrap();
    fs::rename(&aside, &scene.root).unwrap();
    scene.until("life", || scene.state() == TreeState::Ready);
    assert!(scene.id("f0").is_none() && scene.id("new").is_some());
    scene.write("later", "x");
    scene.until("events", || scene.id("later").is_some());
    assert_kept_up(&scene);
}

#[test]
fn another_directory_in_the_roots_place_halts_until_it_is_accepted() {
    let scene = filled(20);
    let share = scene.tree.index().share_id();
    let aside = scene.root.with_extension("aside");
    fs::rename(&scene.root, &aside).unwrap();
    fs::create_dir(&scene.root).unwrap();
    scene.write("other", "x");
    scene
        .until("the halt", || scene.halt_reason().is_some_and(|reason| reason.contains("another directory")));
    assert_eq!(scene.head().files, 20);
    accept(&scene);
    scene.until("the new root", || scene.state() == TreeState::Ready);
    assert!(scene.id("other").is_some() && scene.id("f0").is_none());
    assert_ne!(scene.tree.index().share_id(), share, "its state was gone with the old one");
    scene.write("later", "x");
    scene.barrier().unwrap();
    assert!(scene.id("later").is_some());
    // The old root's lock was let go.
    LiveTree::start(LiveOptions::new(aside)).unwrap();
}

#[test]
fn with_the_state_elsewhere_an_accepted_root_is_the_same_share() {
    let state = tempfile::tempdir().unwrap();
    let configure = |options: &mut LiveOptions| options.state_dir = Some(state.path().to_path_buf());
    let scene = Scene::prepared(
        |root| fs::write(root.join("f"), "x").unwrap(),
        configure,
        Box::new(start_system_watcher),
    );
    assert!(scene.tree.state_note().unwrap().contains("configuration"));
    let share = scene.tree.index().share_id();
    let id = scene.id("f");
    fs::rename(&scene.root, scene.root.with_extension("aside")).unwrap();
    fs::create_dir(&scene.root).unwrap();
    scene.write("f", "y");
    scene
        .until("the halt", || scene.halt_reason().is_some_and(|reason| reason.contains("another directory")));
    let mut options = LiveOptions::new(scene.root.clone());
    configure(&mut options);
    LiveTree::accept(&options).unwrap();
    scene.until("the new root", || scene.state() == TreeState::Ready);
    assert_eq!((scene.tree.index().share_id(), scene.id("f")), (share, id));
}

#[test]
fn an_emptied_tree_halts_until_it_is_accepted() {
    let scene = filled(20);
    let before = scene.head();
    empty(&scene);
    scene.until("the halt", || scene.halt_reason().is_some());
    assert!(scene.halt_reason().unwrap().contains("are gone"));
    assert_ne!(scene.head().files, 0, "{before:?}");
    accept(&scene);
    scene.until("acceptance", || scene.state() == TreeState::Ready);
    assert_eq!(scene.head().files, 0);
    assert!(!scene.root.join(".syncd/accept").exists(), "it is consumed");
    // What is looked at next is not measured by what was there before.
    scene.barrier().unwrap();
    scene.write("later", "x");
    scene.barrier().unwrap();
    fs::remove_file(scene.root.join("later")).unwrap();
    scene.barrier().unwrap();
    assert_eq!((scene.state(), scene.head().files), (TreeState::Ready, 0));
}

#[test]
fn a_tree_whose_only_directory_moves_is_not_taken_for_emptied() {
    let meddler = crate::watch::fake::Meddler::with_limit(usize::MAX);
    let scene = Scene::meddled(&meddler, |root| {
        fs::create_dir_all(root.join("old/inner")).unwrap();
        fs::create_dir(root.join("somewhere")).unwrap();
        for number in 0..20 {
            fs::write(root.join(format!("old/inner/f{number}")), "x").unwrap();
        }
    });
    scene.barrier().unwrap();
    let id = scene.id("old").unwrap();
    meddler.mute(true);
    fs::rename(scene.root.join("old"), scene.root.join("somewhere/new")).unwrap();
    // That it came there is not told, or later than that it left.
    meddler.inject(WatchEvent::Vanished(scene.root.join("old")));
    scene.until("the new place", || scene.id("somewhere/new") == Some(id));
    assert_eq!((scene.state(), scene.halt_reason(), scene.head().files), (TreeState::Ready, None, 20));
}

#[test]
fn an_emptied_tree_that_is_restored_goes_on_by_itself() {
    let scene = filled(20);
    let digest = scene.head().root_digest;
    fs::create_dir(scene.root.with_extension("aside")).unwrap();
    let move_all = |from: &Path, to: &Path| {
        for number in 0..20 {
            let name = format!("f{number}");
            fs::rename(from.join(&name), to.join(&name)).unwrap();
        }
    };
    move_all(&scene.root, &scene.root.with_extension("aside"));
    scene.until("the halt", || scene.halt_reason().is_some());
    move_all(&scene.root.with_extension("aside"), &scene.root);
    scene.until("life", || scene.state() == TreeState::Ready);
    assert_eq!(scene.head().root_digest, digest);
}

#[test]
fn a_few_files_may_go_and_an_old_word_does_not_count() {
    let scene = filled(9);
    accept(&scene);
    empty(&scene);
    scene.until("nine files are few", || scene.head().files == 0);
    for number in 0..20 {
        scene.write(&format!("f{number}"), "x");
    }
    scene.barrier().unwrap();
    empty(&scene);
    scene.until("the halt", || scene.halt_reason().is_some());
    scene.until("the old word is thrown away", || !scene.root.join(".syncd/accept").exists());
    assert!(scene.halt_reason().is_some());
}

#[test]
fn an_emptied_tree_is_noticed_at_the_start_too_and_a_word_from_before_counts_then() {
    let scene = filled(20);
    let files = scene.head().files;
    scene.tree.stop();
    empty(&scene);
    let start = || LiveTree::start(LiveOptions::new(scene.root.clone())).unwrap();
    let tree = start();
    eventually("the halt", || matches!(tree.status().borrow().state, TreeState::Halted { .. }));
    assert_eq!(tree.index().head().unwrap().files, files);
    tree.stop();
    accept(&scene);
    let tree = start();
    eventually("acceptance", || tree.status().borrow().state == TreeState::Ready);
    assert_eq!(tree.index().head().unwrap().files, 0);
    scene.write("later", "x");
    eventually("the next change", || tree.index().head().unwrap().files == 1);
}

#[test]
fn a_damaged_index_is_made_anew_while_running() {
    let scene = filled(20);
    let (before, epoch) = (scene.head(), scene.tree.index().epoch());
    let corrupt = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT);
    let error = scene.tree.index().read(|_| Err::<(), _>(rusqlite::Error::SqliteFailure(corrupt, None)));
    assert!(error.unwrap_err().to_string().contains("share.db is damaged"));
    scene.write("new", "x");
    scene.until("the new index", || scene.tree.index().epoch() != epoch);
    scene.until("life", || scene.state() == TreeState::Ready);
    assert_eq!(scene.head().files, before.files + 1);
    scene.write("later", "x");
    scene.barrier().unwrap();
    assert!(scene.id("later").is_some());
    assert_kept_up(&scene);
}

#[test]
fn an_index_found_damaged_at_the_start_is_made_anew() {
    let tmp = tempfile::tempdir().unwrap();
    let options = LiveOptions::new(tmp.path().to_path_buf());
    fs::write(tmp.path().join("f"), "x").unwrap();
    let epoch = LiveTree::start(options.clone()).unwrap().index().epoch();
    let state = tmp.path().join(sync_core::name::STATE_DIR);
    // Whoever closes the database last writes its log back into it, and that may be the watcher's thread.
    eventually("the database is closed", || !state.join("share.db-wal").exists());
    fs::write(state.join("share.db"), "this is no database ".repeat(500)).unwrap();
    let tree = LiveTree::start(options).unwrap();
    assert_ne!(tree.index().epoch(), epoch);
    eventually("the scan", || tree.index().head().unwrap().files == 1);
}

#[test]
fn what_a_killed_daemon_left_half_written_is_removed_at_the_start() {
    let left = ".syncd/.share-id.0123456789abcdef.tmp";
    let prepare = |root: &Path| {
        fs::create_dir(root.join(".syncd")).unwrap();
        fs::write(root.join(left), "").unwrap();
    };
    let scene = Scene::prepared(prepare, |_| {}, Box::new(start_system_watcher));
    assert!(!scene.root.join(left).exists());
}
