//! File systems that come and go below the root.

use std::process::Command;

use super::*;
use crate::{
    apart::is_apart,
    watch::{WatchEvent, fake::Meddler},
};

/// The prefix of a program with mounts that nobody else sees.
fn own_mounts() -> Option<Vec<String>> {
    let user = if sync_testkit::host::is_root() { &[][..] } else { &["--user", "--map-root-user"] };
    let words = ["unshare", "--mount"].iter().chain(user).map(|word| (*word).to_owned());
    let prefix: Vec<String> = words.collect();
    let works =
        Command::new(&prefix[0]).args(&prefix[1..]).args(["mount", "-t", "tmpfs", "none", "/mnt"]).output();
    works.is_ok_and(|output| output.status.success()).then_some(prefix)
}

fn run(program: &str, words: &[&str], path: &Path) {
    assert!(Command::new(program).args(words).arg(path).status().unwrap().success());
}

fn unknown(scene: &Scene) -> Vec<String> {
    scene.tree.problems().into_iter().map(|problem| problem.path.as_str().to_owned()).collect()
}

#[test]
fn what_was_mounted_over_is_looked_at_again_when_that_is_gone() {
    if !is_apart(
        "live::tests::mounting::what_was_mounted_over_is_looked_at_again_when_that_is_gone",
        own_mounts(),
    ) {
        return;
    }
    let scene = Scene::start();
    scene.write("dir/file", "x");
    scene.barrier().unwrap();
    let id = scene.id("dir/file");
    let dir = scene.root.join("dir");
    run("mount", &["-t", "tmpfs", "none"], &dir);
    scene.tree.suspects().add(TreePath::new("dir").unwrap());
    scene.until("it is left alone", || unknown(&scene) == ["dir"]);
    assert_eq!(scene.id("dir/file"), id);
    run("umount", &[], &dir);
    scene.until("it is looked at", || unknown(&scene).is_empty());
    assert_eq!(scene.id("dir/file"), id);
    scene.write("dir/later", "x");
    scene.until("events", || scene.id("dir/later").is_some());
    assert_kept_up(&scene);
}

#[test]
fn a_file_system_that_goes_and_comes_back_is_noticed_both_times() {
    if !is_apart(
        "live::tests::mounting::a_file_system_that_goes_and_comes_back_is_noticed_both_times",
        own_mounts(),
    ) {
        return;
    }
    let disk = tempfile::tempdir().unwrap();
    run("mount", &["-t", "tmpfs", "none"], disk.path());
    fs::write(disk.path().join("file"), "x").unwrap();
    let bind = |dir: &Path| run("mount", &["--bind", disk.path().to_str().unwrap()], dir);
    let prepare = |root: &Path| {
        fs::create_dir(root.join("dir")).unwrap();
        bind(&root.join("dir"));
    };
    let scene = Scene::prepared(prepare, |_| {}, Box::new(start_system_watcher));
    let id = scene.id("dir/file");
    assert!(id.is_some());
    let dir = scene.root.join("dir");
    run("umount", &[], &dir);
    scene.until("it is missed", || unknown(&scene) == ["dir"]);
    assert_eq!(scene.id("dir/file"), id);
    bind(&dir);
    scene.until("it is back", || unknown(&scene).is_empty());
    assert_eq!(scene.id("dir/file"), id);
    scene.write("dir/later", "x");
    scene.until("events", || scene.id("dir/later").is_some());
    run("umount", &[], &dir);
}

#[test]
fn what_is_said_late_of_a_file_system_that_is_gone_deletes_nothing() {
    if !is_apart(
        "live::tests::mounting::what_is_said_late_of_a_file_system_that_is_gone_deletes_nothing",
        own_mounts(),
    ) {
        return;
    }
    let places = ["above/dir/file", "above/dir/sub/file"];
    let mount = |root: &Path| {
        let dir = root.join("above/dir");
        fs::create_dir_all(&dir).unwrap();
        run("mount", &["-t", "tmpfs", "none"], &dir);
        fs::create_dir(dir.join("sub")).unwrap();
        for place in places {
            fs::write(root.join(place), "x").unwrap();
        }
    };
    let meddler = Meddler::with_limit(usize::MAX);
    let scene = Scene::meddled(&meddler, mount);
    let ids = places.map(|place| scene.id(place));
    assert!(ids.iter().all(Option::is_some));
    // The event that tells of the end itself comes last.
    meddler.mute(true);
    run("umount", &[], &scene.root.join("above/dir"));
    for place in places {
        meddler.inject(WatchEvent::Touched(scene.root.join(place)));
    }
    scene.until("it is missed", || unknown(&scene) == ["above/dir"]);
    scene.barrier().unwrap();
    assert_eq!(places.map(|place| scene.id(place)), ids);
}
