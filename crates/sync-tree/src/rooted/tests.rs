use std::{
    fs,
    io::{self, ErrorKind, Read, Write},
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use sync_core::{Time, TreePath};

use super::*;

fn path(text: &str) -> TreePath {
    TreePath::new(text).unwrap()
}

fn tree() -> (tempfile::TempDir, Root) {
    let tmp = tempfile::tempdir().unwrap();
    let root = Root::open(tmp.path()).unwrap();
    (tmp, root)
}

#[test]
fn root_follows_a_symlink_once_and_notices_a_replacement() {
    let tmp = tempfile::tempdir().unwrap();
    fs::create_dir(tmp.path().join("real")).unwrap();
    symlink("real", tmp.path().join("link")).unwrap();
    let root = Root::open(&tmp.path().join("link")).unwrap();
    assert!(root.path().ends_with("real"));
    assert_eq!(root.path_identity().unwrap(), root.identity());

    fs::rename(tmp.path().join("real"), tmp.path().join("gone")).unwrap();
    assert_eq!(root.path_identity().unwrap_err().kind(), ErrorKind::NotFound);
    fs::create_dir(tmp.path().join("real")).unwrap();
    assert_ne!(root.path_identity().unwrap(), root.identity());
    // The held handle still works in the directory that was opened.
    root.dir().make_dir("d", 0o755).unwrap();
    assert!(tmp.path().join("gone/d").is_dir());
}

#[test]
fn root_must_be_a_directory() {
    let tmp = tempfile::tempdir().unwrap();
    fs::write(tmp.path().join("f"), "").unwrap();
    assert_eq!(Root::open(&tmp.path().join("f")).unwrap_err().kind(), ErrorKind::NotADirectory);
    assert_eq!(Root::open(&tmp.path().join("none")).unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn directories_open_by_name_and_never_through_links() {
    let (tmp, root) = tree();
    fs::create_dir_all(tmp.path().join("a/b/c")).unwrap();
    fs::write(tmp.path().join("a/f"), "").unwrap();
    symlink("a", tmp.path().join("link")).unwrap();
    let deep = root.open_dir(&path("a/b/c")).unwrap();
    assert_eq!(deep.stat_self().unwrap().kind, StatKind::Directory);
    let top = root.open_dir(&TreePath::root()).unwrap();
    assert_eq!(top.stat_self().unwrap().ino, root.identity().1);
    for wrong in ["link", "link/b", "a/f", "a/f/x"] {
        assert_eq!(root.open_dir(&path(wrong)).unwrap_err().kind(), ErrorKind::NotADirectory, "{wrong}");
    }
    assert_eq!(root.open_dir(&path("a/none")).unwrap_err().kind(), ErrorKind::NotFound);

    let (parent, name) = root.open_parent(&path("a/b/new")).unwrap();
    assert_eq!(name.as_str(), "new");
    parent.make_dir(&name, 0o700).unwrap();
    assert!(tmp.path().join("a/b/new").is_dir());
    assert_eq!(root.open_parent(&TreePath::root()).unwrap_err().kind(), ErrorKind::InvalidInput);
}

#[test]
fn a_name_is_one_component() {
    let (tmp, root) = tree();
    fs::create_dir(tmp.path().join("d")).unwrap();
    fs::write(tmp.path().join("d/f"), "x").unwrap();
    let dir = root.dir();
    for bad in ["", ".", "..", "d/f", "/etc/passwd", "../x", "d/", "a\0b"] {
        let refused: [(&str, io::Result<()>); 8] = [
            ("stat", dir.stat(bad).map(drop)),
            ("stat_raw", dir.stat_raw(bad.as_bytes()).map(drop)),
            ("open_dir", dir.open_dir(bad).map(drop)),
            ("open_file", dir.open_file(bad).map(drop)),
            ("create_new", dir.create_new(bad, 0o644).map(drop)),
            ("rename_to", dir.rename_to("d", &dir, bad)),
            ("rename_new", dir.rename_new(bad, &dir, "z")),
            ("set_mode", dir.set_mode(bad, 0o600)),
        ];
        for (what, result) in refused {
            assert_eq!(result.unwrap_err().kind(), ErrorKind::InvalidInput, "{what} {bad:?}");
        }
    }
}

#[test]
fn list_tells_names_and_kinds_of_everything() {
    let (tmp, root) = tree();
    fs::create_dir(tmp.path().join("d")).unwrap();
    fs::write(tmp.path().join("f"), "").unwrap();
    symlink("nowhere", tmp.path().join("l")).unwrap();
    let raw = <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(b"\xff\xfe");
    fs::write(tmp.path().join(raw), "").unwrap();
    let fifo = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(CWD, tmp.path().join("p"), fifo, rustix::fs::Mode::RUSR, 0).unwrap();
    let mut entries = root.dir().list().unwrap();
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    let expected: [(&[u8], StatKind); 5] = [
        (b"d", StatKind::Directory),
        (b"f", StatKind::File),
        (b"l", StatKind::Symlink),
        (b"p", StatKind::Other),
        (b"\xff\xfe", StatKind::File),
    ];
    assert_eq!(entries.len(), expected.len());
    for (entry, (name, kind)) in entries.iter().zip(expected) {
        assert_eq!(&*entry.name, name);
        assert!(entry.kind.is_none_or(|told| told == kind), "{entry:?}");
        assert_eq!(root.dir().stat_raw(name).unwrap().kind, kind);
    }
    // Listing again gives the same: no position is shared.
    assert_eq!(root.dir().list().unwrap().len(), 5);
}

#[test]
fn long_listings_are_complete() {
    let (tmp, root) = tree();
    for number in 0..3000 {
        fs::write(tmp.path().join(format!("a-rather-long-name-to-fill-the-buffer-{number}")), "").unwrap();
    }
    let names: std::collections::BTreeSet<_> =
        root.dir().list().unwrap().into_iter().map(|e| e.name).collect();
    assert_eq!(names.len(), 3000);
}

#[test]
fn stat_agrees_with_the_system() {
    let (tmp, root) = tree();
    fs::write(tmp.path().join("f"), "12345").unwrap();
    fs::hard_link(tmp.path().join("f"), tmp.path().join("g")).unwrap();
    fs::set_permissions(tmp.path().join("f"), fs::Permissions::from_mode(0o2750)).unwrap();
    let meta = fs::symlink_metadata(tmp.path().join("f")).unwrap();
    let stat = root.dir().stat("f").unwrap();
    assert_eq!((stat.kind, stat.size, stat.nlink), (StatKind::File, 5, 2));
    assert_eq!(u32::from(stat.mode), meta.mode() & 0o7777);
    assert_eq!((stat.dev, stat.ino), (meta.dev(), meta.ino()));
    assert_eq!((stat.mtime.secs, i64::from(stat.mtime.nanos)), (meta.mtime(), meta.mtime_nsec()));
    assert_eq!((stat.ctime.secs, i64::from(stat.ctime.nanos)), (meta.ctime(), meta.ctime_nsec()));
    assert_eq!(stat_file(&root.dir().open_file("f").unwrap()).unwrap(), stat);
    assert_eq!(root.dir().stat("none").unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn only_regular_files_are_opened() {
    let (tmp, root) = tree();
    fs::create_dir(tmp.path().join("d")).unwrap();
    fs::write(tmp.path().join("f"), "text").unwrap();
    symlink("f", tmp.path().join("l")).unwrap();
    let fifo = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(CWD, tmp.path().join("p"), fifo, rustix::fs::Mode::RUSR, 0).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(tmp.path().join("s")).unwrap();
    for wrong in ["d", "l", "p", "s"] {
        assert_eq!(root.dir().open_file(wrong).unwrap_err().kind(), ErrorKind::InvalidInput, "{wrong}");
    }
    let mut text = String::new();
    root.dir().open_file("f").unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, "text");
}

#[test]
fn creating_moving_and_removing() {
    let (tmp, root) = tree();
    let dir = root.dir();
    dir.make_dir("d", 0o755).unwrap();
    let sub = dir.open_dir("d").unwrap();
    dir.create_new("f", 0o600).unwrap().write_all(b"one").unwrap();
    assert_eq!(dir.stat("f").unwrap().mode, 0o600);
    symlink("f", tmp.path().join("l")).unwrap();
    for taken in ["f", "d", "l"] {
        assert_eq!(dir.create_new(taken, 0o600).unwrap_err().kind(), ErrorKind::AlreadyExists);
    }
    dir.rename_new("f", &sub, "g").unwrap();
    sub.create_new("h", 0o600).unwrap().write_all(b"two").unwrap();
    sub.exchange("g", &sub, "h").unwrap();
    assert_eq!(fs::read(tmp.path().join("d/g")).unwrap(), b"two");
    assert_eq!(sub.rename_new("g", &sub, "h").unwrap_err().kind(), ErrorKind::AlreadyExists);
    sub.rename_to("g", &sub, "h").unwrap();
    assert_eq!(fs::read(tmp.path().join("d/h")).unwrap(), b"two");
    dir.symlink(b"../\xffanywhere", "m").unwrap();
    assert_eq!(&*dir.read_link("m").unwrap(), b"../\xffanywhere");
    assert_eq!(dir.read_link("d").unwrap_err().kind(), ErrorKind::InvalidInput);
    assert_eq!(dir.remove_dir("d").unwrap_err().kind(), ErrorKind::DirectoryNotEmpty);
    sub.remove_file("h").unwrap();
    dir.remove_dir("d").unwrap();
    dir.remove_file("m").unwrap();
    dir.remove_file("l").unwrap();
    assert!(dir.list().unwrap().is_empty());
    dir.sync().unwrap();
    dir.sync_fs().unwrap();
}

#[test]
fn modes_and_times_are_set_exactly_and_not_through_links() {
    let (tmp, root) = tree();
    let dir = root.dir();
    let file = dir.create_new("f", 0o600).unwrap();
    dir.make_dir("d", 0o700).unwrap();
    symlink("f", tmp.path().join("l")).unwrap();
    for mode in [0o000, 0o777, 0o640, 0o4755] {
        dir.set_mode("f", mode).unwrap();
        assert_eq!(dir.stat("f").unwrap().mode, mode);
    }
    dir.set_mode("d", 0o000).unwrap();
    dir.set_mode("d", 0o755).unwrap();
    set_file_mode(&file, 0o644).unwrap();
    assert_eq!(dir.set_mode("l", 0o600).unwrap_err().kind(), ErrorKind::InvalidInput);
    assert_eq!(dir.stat("f").unwrap().mode, 0o644);

    let times = [
        Time { secs: -1, nanos: 999_999_999 },
        Time { secs: 4_070_908_800, nanos: 1 },
        Time { secs: 0, nanos: 0 },
    ];
    for time in times {
        set_file_times(&file, time).unwrap();
        assert_eq!(dir.stat("f").unwrap().mtime, time);
        for name in ["d", "l"] {
            dir.set_times(name, time).unwrap();
            assert_eq!(dir.stat(name).unwrap().mtime, time);
        }
    }
    let accessed = fs::symlink_metadata(tmp.path().join("f")).unwrap().atime();
    dir.set_times("l", Time { secs: 5, nanos: 0 }).unwrap();
    dir.set_times("f", Time { secs: 6, nanos: 0 }).unwrap();
    let after = fs::symlink_metadata(tmp.path().join("f")).unwrap();
    assert_eq!((after.mtime(), after.atime()), (6, accessed));
}

/// Swaps two places as fast as it can until told to stop.
fn flip(a: &Path, b: &Path, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE).unwrap();
    }
}

/// Everything an operation could have done wrong outside.
fn fingerprint(outside: &Path) -> (Vec<std::ffi::OsString>, Vec<u8>, u32, i64) {
    let mut names: Vec<_> = fs::read_dir(outside).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    let canary = fs::symlink_metadata(outside.join("f")).unwrap();
    (names, fs::read(outside.join("f")).unwrap(), canary.mode(), canary.mtime())
}

/// Does one of everything to `d/f`, `d/new` and the leaf `leaf`; counts what went well and what was refused.
fn disturb(root: &Root, seen: &mut [u32; 2]) {
    let time = Time { secs: 77, nanos: 0 };
    let within = || -> io::Result<()> {
        let (dir, name) = root.open_parent(&path("d/f"))?;
        let mut text = String::new();
        dir.open_file(&name)?.read_to_string(&mut text)?;
        assert_eq!(text, "inside", "read a file outside of the root");
        dir.set_mode(&name, 0o640)?;
        dir.set_times(&name, time)?;
        drop(dir.create_new("new", 0o600)?);
        dir.rename_to("new", &dir, "moved")?;
        dir.remove_file("moved")?;
        dir.make_dir("sub", 0o700)?;
        dir.remove_dir("sub")
    };
    let leaf = || -> io::Result<()> {
        let dir = root.dir();
        if let Ok(mut file) = dir.open_file("leaf") {
            let mut text = String::new();
            file.read_to_string(&mut text)?;
            assert_eq!(text, "inside", "read a file outside of the root");
        }
        dir.set_times("leaf", time)?;
        dir.set_mode("leaf", 0o600)
    };
    for result in [within(), leaf()] {
        seen[usize::from(result.is_err())] += 1;
    }
}

#[test]
fn a_directory_that_flips_to_a_symlink_leads_nowhere() {
    let (tmp, root) = tree();
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("f"), "canary").unwrap();
    let inside = tmp.path().join("d");
    fs::create_dir(&inside).unwrap();
    fs::write(inside.join("f"), "inside").unwrap();
    fs::write(tmp.path().join("leaf"), "inside").unwrap();
    symlink(outside.path(), tmp.path().join("d-link")).unwrap();
    symlink(outside.path().join("f"), tmp.path().join("leaf-link")).unwrap();
    let before = fingerprint(outside.path());

    let stop = AtomicBool::new(false);
    let mut seen = [0; 2];
    std::thread::scope(|scope| {
        scope.spawn(|| flip(&inside, &tmp.path().join("d-link"), &stop));
        scope.spawn(|| flip(&tmp.path().join("leaf"), &tmp.path().join("leaf-link"), &stop));
        let deadline = Instant::now() + Duration::from_secs(20);
        while seen.iter().any(|count| *count < 500) && Instant::now() < deadline {
            disturb(&root, &mut seen);
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(seen.iter().all(|count| *count >= 500), "both outcomes must have been met: {seen:?}");
    assert_eq!(fingerprint(outside.path()), before, "something outside of the root was changed");
}
