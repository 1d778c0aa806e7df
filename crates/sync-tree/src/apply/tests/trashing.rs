//! Names in the trash, and who may point us elsewhere.

use std::{os::unix::fs::symlink, time::SystemTime};

use super::*;

#[test]
fn the_trash_keeps_paths_and_every_version() {
    let target = target();
    for text in ["one", "two", "three"] {
        target.write("a/b/f", text);
        target.remove("a/b/f", &target.expect("a/b/f"), Displaced::Trash).unwrap();
    }
    let long = "\u{6587}".repeat(85);
    for text in ["one", "two"] {
        target.write(&long, text);
        target.remove(&long, &target.expect(&long), Displaced::Trash).unwrap();
    }
    target.write("a/b/f/g", "below what was a file");
    target.remove("a/b/f/g", &target.expect("a/b/f/g"), Displaced::Trash).unwrap();
    target.write("a/x", "whole");
    target.remove("a", &target.expect("a"), Displaced::Trash).unwrap();
    let cut = format!("{}~2", "\u{6587}".repeat(76));
    let mut want = pairs(&[
        ("a/b/f", "one"),
        ("a/b/f~2", "two"),
        ("a/b/f~3", "three"),
        ("a/b/f~4/g", "below what was a file"),
        ("a~2/b/f/", ""),
        ("a~2/x", "whole"),
        (&long, "one"),
        (&cut, "two"),
    ]);
    want.sort();
    assert_eq!(target.trash(), want);

    for _ in 0..30 {
        target.write("many", "x");
        target.remove("many", &target.expect("many"), Displaced::Trash).unwrap();
    }
    assert_eq!(target.trash().len(), want.len() + 30);
}

#[test]
fn an_emptied_trash_is_made_again() {
    let target = target();
    for text in ["one", "two"] {
        target.write("a/f", text);
        target.remove("a/f", &target.expect("a/f"), Displaced::Trash).unwrap();
        assert_eq!(target.trash(), pairs(&[("a/f", text)]));
        fs::remove_dir_all(target.path.join(".syncd/trash").join(RUN)).unwrap();
    }
}

#[test]
fn links_planted_in_our_directories_are_refused() {
    let outside = tempfile::tempdir().unwrap();
    let target = target();
    symlink(outside.path(), target.path.join(".syncd/trash").join(RUN)).unwrap();
    target.write("a/f", "text");
    let expect = target.expect("a/f");
    target.remove("a/f", &expect, Displaced::Trash).unwrap_err();
    assert_eq!(target.read("a/f"), "text");
    fs::remove_file(target.path.join(".syncd/trash").join(RUN)).unwrap();
    fs::create_dir(target.path.join(".syncd/trash").join(RUN)).unwrap();
    symlink(outside.path(), target.path.join(".syncd/trash").join(RUN).join("a")).unwrap();
    target.remove("a/f", &expect, Displaced::Trash).unwrap();
    assert_eq!(target.read(&format!(".syncd/trash/{RUN}/a~2/f")), "text");

    for name in ["swap", "moves"] {
        let path = target.path.join(".syncd/staging").join(name);
        fs::remove_dir(&path).unwrap();
        symlink(outside.path(), &path).unwrap();
        let work = StateDir::open(&target.root, &StateOptions::default()).unwrap().work.unwrap();
        let options =
            ApplyOptions { durability: Durability::None, trash_run: "x".into(), trash_keep: Duration::ZERO };
        Applier::open(target.root.clone(), &work, options).unwrap_err();
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
    }
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
}

#[test]
fn old_runs_are_deleted_and_nothing_outside() {
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("safe"), "").unwrap();
    let target = target();
    for run in ["old", "young", RUN] {
        target.write(&format!(".syncd/trash/{run}/a/b/c/f"), "x");
        target.write(&format!(".syncd/trash/{run}/a/g"), "x");
        symlink(outside.path(), target.path.join(format!(".syncd/trash/{run}/a/link"))).unwrap();
        let raw = std::os::unix::ffi::OsStrExt::from_bytes(b"\xff\xfe");
        fs::create_dir(target.path.join(format!(".syncd/trash/{run}/a")).join::<&std::ffi::OsStr>(raw))
            .unwrap();
    }
    symlink(outside.path(), target.path.join(".syncd/trash/link")).unwrap();
    let old = Time { secs: 1_000_000_000, nanos: 0 };
    for run in ["old", RUN] {
        target.root.dir().open_dir(".syncd").unwrap().open_dir("trash").unwrap().set_times(run, old).unwrap();
    }
    // A budget that is too small leaves the rest for the next time.
    let mut budget = 2;
    target.applier.trash.prune(SystemTime::now(), &mut budget).unwrap();
    assert_eq!(budget, 0);
    target.applier.prune_trash(SystemTime::now()).unwrap();
    let mut names: Vec<_> = fs::read_dir(target.path.join(".syncd/trash"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, [RUN, "link", "young"]);
    assert!(outside.path().join("safe").exists());
    target.applier.prune_trash(SystemTime::now() + Duration::from_secs(31 * 86_400)).unwrap();
    assert!(!target.path.join(".syncd/trash/young").exists());
    assert!(target.path.join(".syncd/trash").join(RUN).exists(), "this run's stays");
}

/// Refuses what would bring something into the trash.
struct Closed;

impl Probe for Closed {
    fn before(&self, call: &Call<'_>) -> io::Result<()> {
        let refused = call.op == Op::RenameNew && call.site().ends_with(">trash");
        if refused { Err(rustix::io::Errno::ACCESS.into()) } else { Ok(()) }
    }
}

#[test]
fn what_does_not_come_to_the_trash_leaves_no_directories_there() {
    let target = target();
    target.write("kept", "x");
    target.write("a/b/f", "text");
    {
        let _closed = probe::install(&target.path, Arc::new(Closed));
        let refused = target.remove("a/b/f", &target.expect("a/b/f"), Displaced::Trash);
        assert!(matches!(refused, Err(ApplyError::Denied { .. })), "{refused:?}");
        assert_eq!(fs::read_dir(target.path.join(".syncd/trash")).unwrap().count(), 0);
    }
    target.remove("kept", &target.expect("kept"), Displaced::Trash).unwrap();
    {
        let _closed = probe::install(&target.path, Arc::new(Closed));
        target.remove("a/b/f", &target.expect("a/b/f"), Displaced::Trash).unwrap_err();
    }
    assert_eq!(target.trash(), pairs(&[("kept", "x")]), "only what is empty goes");
    target.remove("a/b/f", &target.expect("a/b/f"), Displaced::Trash).unwrap();
    assert_eq!(target.trash(), pairs(&[("a/b/f", "text"), ("kept", "x")]));
}
