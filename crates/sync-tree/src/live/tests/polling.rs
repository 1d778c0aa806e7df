//! Where events cannot be had.

use super::*;

fn degraded(scene: &Scene) -> Option<String> {
    match scene.state() {
        TreeState::Degraded { reason } => Some(reason),
        _ => None,
    }
}

#[test]
fn a_forced_poll_watches_nothing_and_barriers_hold() {
    let meddler = Meddler::with_limit(usize::MAX);
    let scene = Scene::prepared(|_| {}, |options| options.force_poll = true, meddler.factory());
    assert!(degraded(&scene).unwrap().contains("force_poll"));
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
    let prepare = |root: &Path| {
        for number in 0..20 {
            fs::create_dir_all(root.join(format!("d{number}/sub"))).unwrap();
        }
    };
    let scene = Scene::meddled(&meddler, prepare);
    let reason = degraded(&scene).unwrap();
    assert!(reason.contains("polled") && reason.contains("limit"), "{reason}");
    assert!(
        !cfg!(target_os = "linux") || reason.contains("sysctl -w fs.inotify.max_user_watches="),
        "{reason}"
    );
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
    assert!(degraded(&scene).unwrap().contains("polled"));
    scene.write("later", "x");
    scene.until("a poll", || scene.id("later").is_some());
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
