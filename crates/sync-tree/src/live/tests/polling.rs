//! Where events cannot be had.

use sync_core::Watching;

use super::*;

fn degraded(scene: &Scene) -> Option<String> {
    match scene.state() {
        TreeState::Degraded { .. } => Some(watching(scene).to_string()),
        _ => None,
    }
}

fn watching(scene: &Scene) -> Watching {
    scene.tree.status().borrow().watching.clone()
}

/// Twenty directories with one more in each.
fn forty(root: &Path) {
    for number in 0..20 {
        fs::create_dir_all(root.join(format!("d{number}/sub"))).unwrap();
    }
}

#[test]
fn a_forced_poll_watches_nothing_and_barriers_hold() {
    let meddler = Meddler::with_limit(usize::MAX);
    let scene = Scene::prepared(|_| {}, |options| options.force_poll = true, meddler.factory());
    assert!(degraded(&scene).unwrap().contains("none of 1 directories are watched"));
    assert!(watching(&scene).reason.contains("as configured"));
    for round in 0..10 {
        scene.write(&format!("d/f{round}"), "x");
        scene.barrier().unwrap();
        assert!(scene.id(&format!("d/f{round}")).is_some());
    }
    scene.write("later", "x");
    scene.until("a poll", || scene.id("later").is_some());
    assert_eq!(meddler.starts(), 0);
}

#[test]
fn beyond_the_limit_of_watches_a_subtree_is_polled_and_that_is_said() {
    // The cookies, the root and a few directories.
    let meddler = Meddler::with_limit(5);
    let scene = Scene::meddled(&meddler, forty);
    let said = degraded(&scene).unwrap();
    assert!(
        said.starts_with("4 of 41 directories are watched, the others are looked at every 2 s: "),
        "{said}"
    );
    assert!(!cfg!(target_os = "linux") || said.contains("sysctl -w fs.inotify.max_user_watches="), "{said}");
    for number in 0..20 {
        scene.write(&format!("d{number}/sub/f"), "x");
    }
    scene.barrier().unwrap();
    assert_eq!(scene.head().files, 20, "a barrier holds in polled directories too");
    for number in 0..20 {
        scene.write(&format!("d{number}/sub/g"), "x");
    }
    scene.until("a poll", || scene.head().files == 40);
    assert_kept_up(&scene);
}

#[test]
fn a_watcher_that_tells_nothing_is_noticed() {
    let meddler = Meddler::with_limit(usize::MAX);
    let scene = Scene::meddled(&meddler, |_| {});
    meddler.mute(true);
    for round in 0..2 {
        scene.write(&format!("f{round}"), "x");
        scene.barrier().unwrap();
        assert!(scene.id(&format!("f{round}")).is_some(), "a late cookie is made up for by a full look");
    }
    assert!(degraded(&scene).unwrap().contains("does not tell of changes"));
    scene.write("later", "x");
    scene.until("a poll", || scene.id("later").is_some());
}

#[test]
fn a_watcher_that_was_only_slow_is_believed_again() {
    let meddler = Meddler::with_limit(usize::MAX);
    let scene = Scene::meddled(&meddler, |_| {});
    meddler.hold();
    for _ in 0..2 {
        scene.barrier().unwrap();
    }
    assert!(degraded(&scene).is_some());
    meddler.release();
    scene.until("trust", || scene.state() == TreeState::Ready);
    scene.write("f", "x");
    scene.until("an event", || scene.id("f").is_some());
    assert_kept_up(&scene);
}

#[test]
fn watches_that_become_free_are_used() {
    let meddler = Meddler::with_limit(5);
    let scene = Scene::meddled(&meddler, forty);
    assert_eq!(watching(&scene).watched, 4);
    meddler.set_limit(10);
    scene.until("more watches", || watching(&scene).watched == 9);
    assert_eq!((watching(&scene).directories, watching(&scene).poll_secs), (41, 2));
    // The limit stays, and the tree gets small enough.
    for number in 0..20 {
        if number != 7 {
            fs::remove_dir_all(scene.root.join(format!("d{number}"))).unwrap();
        }
    }
    scene.until("health", || scene.state() == TreeState::Ready);
    let now = watching(&scene);
    assert_eq!((now.watched, now.directories, now.poll_secs, now.is_degraded()), (3, 3, 0, false));
    scene.write("d7/sub/f", "x");
    scene.until("an event", || scene.id("d7/sub/f").is_some());
    assert_kept_up(&scene);
}

#[test]
fn where_no_watcher_can_be_started_everything_is_polled_until_one_can() {
    let meddler = Meddler::with_limit(usize::MAX);
    meddler.refuse_starts(true);
    let scene = Scene::meddled(&meddler, forty);
    let said = degraded(&scene).unwrap();
    assert!(
        said.starts_with("none of 41 directories are watched, everything is looked at every 2 s"),
        "{said}"
    );
    assert!(
        !cfg!(target_os = "linux") || said.contains("sysctl -w fs.inotify.max_user_instances="),
        "{said}"
    );
    scene.write("d3/sub/f", "x");
    scene.barrier().unwrap();
    assert!(scene.id("d3/sub/f").is_some(), "a barrier holds without events");
    scene.write("d4/sub/f", "x");
    scene.until("a poll", || scene.id("d4/sub/f").is_some());
    meddler.refuse_starts(false);
    scene.until("a watcher", || scene.state() == TreeState::Ready);
    assert_eq!((watching(&scene).watched, meddler.starts()), (41, 1));
    assert_kept_up(&scene);
}

#[test]
fn lost_events_are_said_until_everything_was_looked_at() {
    let meddler = Meddler::with_limit(usize::MAX);
    let scene = Scene::meddled(&meddler, forty);
    meddler.mute(true);
    scene.write("d5/sub/f", "x");
    let held = meddler.hold_watches();
    meddler.mute(false);
    meddler.inject(WatchEvent::Lost);
    scene.until("a word", || degraded(&scene).is_some());
    let said = degraded(&scene).unwrap();
    assert!(said.contains("events were lost"), "{said}");
    assert!(!cfg!(target_os = "linux") || said.contains("fs.inotify.max_queued_events"), "{said}");
    drop(held);
    scene.until("health", || scene.state() == TreeState::Ready);
    assert!(scene.id("d5/sub/f").is_some(), "it is not said to be over before it was looked at");
    assert_eq!((watching(&scene).lost, watching(&scene).watched), (1, 41));
}

#[test]
fn a_barrier_whose_cookie_was_lost_does_not_wait_for_it() {
    let meddler = Meddler::with_limit(usize::MAX);
    let scene = Scene::meddled(&meddler, forty);
    meddler.mute(true);
    for round in 0..4 {
        scene.write(&format!("f{round}"), "x");
        let began = Instant::now();
        std::thread::scope(|threads| {
            let barrier = threads.spawn(|| scene.barrier());
            let made = |path: &Path| fs::read_dir(path).unwrap().count() > 0;
            scene.until("a cookie", || made(&scene.root.join(".syncd/cookies")) || barrier.is_finished());
            meddler.inject(WatchEvent::Lost);
            barrier.join().unwrap().unwrap();
        });
        assert!(scene.id(&format!("f{round}")).is_some());
        assert!(began.elapsed() < Duration::from_millis(1500), "{:?}", began.elapsed());
    }
    scene.until("health", || scene.state() == TreeState::Ready);
}

#[test]
fn a_tree_that_changes_without_events_is_found_by_the_regular_rescan() {
    let meddler = Meddler::with_limit(usize::MAX);
    let often = |options: &mut LiveOptions| options.rescan = Duration::from_millis(200);
    let scene = Scene::prepared(|_| {}, often, meddler.factory());
    meddler.mute(true);
    scene.write("a/b", "x");
    scene.until("the rescan", || scene.id("a/b").is_some());
    assert_eq!(scene.state(), TreeState::Ready);
}
