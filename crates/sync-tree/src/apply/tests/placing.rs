//! What each call does when nobody disturbs it.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use super::*;

#[test]
fn a_new_file_has_bytes_mode_and_time_and_staging_is_empty_again() {
    let all = [Durability::None, Durability::Batch, Durability::File];
    for (durability, keeping) in all.into_iter().flat_map(|one| KEEPING.map(|keeping| (one, keeping))) {
        let target = target_that_keeps(durability, keeping);
        for (name, mode, want) in
            [("a", 0o644, 0o644), ("b", 0o4755, 0o755), ("c", 0o000, 0), ("名 🎉", 0o600, 0o600)]
        {
            let mut staged = target.stage("text");
            let at = target.at(name);
            let entry = file_entry(b"text", mode);
            target.applier.flush_staged(&mut [(&entry, &mut staged)], &[]).unwrap();
            let stat = target
                .applier
                .place(staged, &at.place(), &entry, &Expect::Nothing, Displaced::Delete)
                .unwrap();
            let mut unflushed = Unflushed::new(durability);
            unflushed.names(&at.dir);
            target.applier.flush(&mut unflushed).unwrap();
            assert_eq!((stat.mode, stat.mtime, stat.size), (want, TIME, 4));
            assert_eq!(stat, target.stat(name), "what was returned is what is there");
        }
        assert_eq!(target.read("a"), "text");
        assert_eq!(target.staging(), []);
        target.applier.clean_run();
        let left = fs::read_dir(target.path.join(".syncd/staging")).unwrap().count();
        assert_eq!(left, 3, "swap, moves and partial");
    }
}

#[test]
fn bytes_that_are_not_the_announced_ones_never_get_a_name() {
    let target = target();
    let other = Digest::of(b"other");
    assert!(matches!(target.applier.stage_bytes(b"text", &other, 0o644), Err(ApplyError::Digest { .. })));
    for (append, size, digest) in
        [("text", 4, other), ("tex", 4, Digest::of(b"text")), ("texts", 4, Digest::of(b"text"))]
    {
        let mut staged = target.applier.stage().unwrap();
        staged.append(append.as_bytes()).unwrap();
        let error = staged.finish(size, &digest).unwrap_err().about(&TreePath::new("f").unwrap());
        assert!(matches!(&error, ApplyError::Digest { path } if path.as_str() == "f"), "{error:?}");
    }
    drop(target.applier.stage().unwrap());
    drop(target.stage("dropped"));
    assert_eq!(target.staging(), []);
}

#[test]
fn files_in_parts_and_with_holes_are_byte_for_byte_the_same() {
    let target = target();
    let mut bytes = vec![0_u8; 1_000_000];
    bytes[300_000..300_010].fill(7);
    for (name, bytes, step) in [
        ("holes", bytes.clone(), 262_144),
        ("odd", bytes.clone(), 99_991),
        ("zeros", vec![0; 500_000], 262_144),
        ("dense", vec![1; 300_000], 70_000),
        ("empty", vec![], 1),
    ] {
        let mut staged = target.applier.stage().unwrap();
        for part in bytes.chunks(step) {
            staged.append(part).unwrap();
        }
        assert_eq!(staged.size(), bytes.len() as u64);
        let staged = staged.finish(bytes.len() as u64, &Digest::of(&bytes)).unwrap();
        let entry = file_entry(&bytes, 0o644);
        let at = target.at(name);
        target.applier.place(staged, &at.place(), &entry, &Expect::Nothing, Displaced::Delete).unwrap();
        assert!(fs::read(target.path.join(name)).unwrap() == bytes, "{name}");
    }
    let blocks = fs::metadata(target.path.join("zeros")).unwrap().blocks();
    assert!(blocks < 900, "most of its 977 blocks are a hole: {blocks}");
}

#[test]
fn more_staged_files_than_may_be_open() {
    let tmp = tempfile::tempdir().unwrap();
    let root = Root::open(tmp.path()).unwrap();
    let mut applier = applier(&root, Durability::Batch, RUN);
    applier.staging.most_held = 100;
    let target = Target::of(tmp, root, applier);
    let mut staged: Vec<Staged> = (0..400).map(|i| target.stage(&i.to_string())).collect();
    let entry = file_entry(b"", 0o640);
    let mut all: Vec<_> = staged.iter_mut().map(|staged| (&entry, staged)).collect();
    target.applier.flush_staged(&mut all, &[]).unwrap();
    target.applier.flush_staged(&mut all[390..], &[]).unwrap();
    for (i, staged) in staged.into_iter().enumerate() {
        let at = target.at(&format!("f{i}"));
        let stat =
            target.applier.place(staged, &at.place(), &entry, &Expect::Nothing, Displaced::Delete).unwrap();
        assert_eq!((stat.mode, stat.mtime), (0o640, TIME));
        assert_eq!(target.read(&format!("f{i}")), i.to_string());
    }
}

#[test]
fn a_small_file_that_waits_for_its_place_has_no_name_where_that_can_be() {
    let target = target();
    let staged = target.stage("text");
    let unnamed = target.root.dir().create_unnamed(0o600).is_ok();
    assert_eq!(target.staging().is_empty(), unnamed);
    drop(staged);
    assert_eq!(target.staging(), []);
}

/// What is in a place, or expected there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Thing {
    Nothing,
    File,
    OtherFile,
    Link,
    Dir,
    Fifo,
}

const THINGS: [Thing; 6] =
    [Thing::Nothing, Thing::File, Thing::OtherFile, Thing::Link, Thing::Dir, Thing::Fifo];

fn make(target: &Target, path: &str, thing: Thing) {
    let full = target.path.join(path);
    match thing {
        Thing::Nothing => {}
        Thing::File => target.write(path, "old"),
        Thing::OtherFile => target.write(path, "edited"),
        Thing::Link => symlink("old-target", full).unwrap(),
        Thing::Dir => target.write(&format!("{path}/inner"), "in a directory"),
        Thing::Fifo => {
            let at = target.at(path);
            rustix::fs::mkfifoat(&at.dir, at.place().name, rustix::fs::Mode::RWXU).unwrap();
        }
    }
}

#[test]
fn every_kind_is_replaced_only_if_it_was_expected() {
    for expected in [Thing::Nothing, Thing::File, Thing::Link] {
        for found in THINGS {
            let files = KEEPING.map(|keeping| (false, keeping));
            for (link, keeping) in files.into_iter().chain([(true, Keeping::AsItCan)]) {
                let target = target_that_keeps(Durability::None, keeping);
                make(&target, "sample", expected);
                let expect =
                    if expected == Thing::Nothing { Expect::Nothing } else { target.expect("sample") };
                if expected != Thing::Nothing {
                    fs::rename(target.path.join("sample"), target.path.join("p")).unwrap();
                }
                // A rename changes the ctime.
                let mut expect = expect;
                if let Expect::File(identity) | Expect::Link(identity) = &mut expect {
                    identity.ctime = target.stat("p").ctime;
                }
                if found != expected {
                    let _ = fs::remove_file(target.path.join("p"));
                    make(&target, "p", found);
                }
                let before = target.content();
                let at = target.at("p");
                let done = if link {
                    let entry = link_entry(b"to");
                    target.applier.place_link(b"to", &at.place(), &entry, &expect, Displaced::Delete)
                } else {
                    target.place("p", "new", &expect, Displaced::Delete)
                };
                let context = format!("expected {expected:?}, found {found:?}, link {link}, {keeping:?}");
                if found == expected {
                    let stat = done.unwrap_or_else(|error| panic!("{context}: {error:?}"));
                    assert_eq!(stat, target.stat("p"), "{context}");
                    assert_eq!(stat.mtime, TIME, "{context}");
                } else {
                    assert!(matches!(done, Err(ApplyError::Stale { .. })), "{context}: {done:?}");
                    assert_eq!(target.content(), before, "{context}: nothing was touched");
                }
                assert_eq!(target.staging(), [], "{context}");
                assert_eq!(target.trash(), [], "{context}");
            }
        }
    }
}

#[test]
fn every_kind_is_removed_only_if_it_was_expected() {
    for expected in [Thing::File, Thing::Link, Thing::Dir] {
        for found in THINGS {
            for what in [Displaced::Delete, Displaced::Trash] {
                let target = target();
                make(&target, "p", expected);
                let expect = target.expect("p");
                if found != expected {
                    fs::rename(target.path.join("p"), target.path.join("kept")).unwrap();
                    make(&target, "p", found);
                }
                let before = target.content();
                let done = target.remove("p", &expect, what);
                let context = format!("expected {expected:?}, found {found:?}, {what:?}");
                if found != expected {
                    assert!(matches!(done, Err(ApplyError::Stale { .. })), "{context}: {done:?}");
                    assert_eq!(target.content(), before, "{context}");
                } else if (expected, what) == (Thing::Dir, Displaced::Delete) {
                    assert!(matches!(done, Err(ApplyError::NotEmpty { .. })), "{context}: {done:?}");
                    assert_eq!(target.read("p/inner"), "in a directory");
                } else {
                    done.unwrap_or_else(|error| panic!("{context}: {error:?}"));
                    assert!(!target.path.join("p").exists(), "{context}");
                    let trashed = match expected {
                        _ if what == Displaced::Delete => vec![],
                        Thing::File => pairs(&[("p", "old")]),
                        Thing::Link => pairs(&[("p", "-> old-target")]),
                        _ => pairs(&[("p/inner", "in a directory")]),
                    };
                    assert_eq!(target.trash(), trashed, "{context}");
                }
                assert_eq!(target.staging(), [], "{context}");
            }
        }
    }
}

#[test]
fn directories_are_made_given_their_metadata_and_removed() {
    let target = target();
    let at = target.at("d");
    let made = target.applier.make_dir(&at.place()).unwrap();
    assert_eq!(made.mode, 0o700);
    assert!(matches!(target.applier.make_dir(&at.place()), Err(ApplyError::Stale { .. })));
    fs::set_permissions(target.path.join("d"), fs::Permissions::from_mode(0o2700)).unwrap();
    let expect = Expect::Directory { ino: made.ino };
    let now = target.applier.set_meta(&at.place(), &dir_entry(0o4555), &expect).unwrap();
    assert_eq!((now.mode, now.mtime), (0o2555, TIME), "the group bit of a directory is its owner's word");
    assert!(matches!(target.applier.remove_dir(&at.place(), made.ino + 1), Err(ApplyError::Stale { .. })));
    target.applier.remove_dir(&at.place(), made.ino).unwrap();
    assert!(!target.path.join("d").exists());
}

#[test]
fn metadata_is_set_on_what_was_expected_only() {
    let target = target();
    target.write("f", "text");
    symlink("f", target.path.join("l")).unwrap();
    let expect = target.expect("f");
    let (at, link) = (target.at("f"), target.at("l"));
    let now = target.applier.set_meta(&at.place(), &file_entry(b"text", 0o6711), &expect).unwrap();
    assert_eq!((now.mode, now.mtime), (0o711, TIME));
    assert_eq!(now, target.stat("f"));
    let again = target.applier.set_meta(&at.place(), &file_entry(b"", 0o600), &expect);
    assert!(matches!(again, Err(ApplyError::Stale { .. })), "its ctime is another one now: {again:?}");
    let now = target.applier.set_meta(&link.place(), &link_entry(b"f"), &target.expect("l")).unwrap();
    assert_eq!((now.mtime, now.kind), (TIME, StatKind::Symlink));
    assert_eq!(target.stat("f").mode, 0o711, "links are never followed");
}

#[test]
fn a_directory_without_rights_is_worked_in_and_looks_as_before() {
    let target = target();
    target.write("d/f", "text");
    fs::set_permissions(target.path.join("d"), fs::Permissions::from_mode(0o050)).unwrap();
    let at = target.at("d");
    let work = target.applier.open_for_work(&at.place()).unwrap();
    assert_eq!(target.stat("d").mode, 0o750);
    work.dir().remove_file("f").unwrap();
    drop(work);
    assert_eq!(target.stat("d").mode, 0o050);
    let work = target.applier.open_for_work(&at.place()).unwrap();
    target.applier.set_meta(&at.place(), &dir_entry(0o511), &target.expect("d")).unwrap();
    work.settled();
    assert_eq!(target.stat("d").mode, 0o511);
    symlink("d", target.path.join("l")).unwrap();
    assert!(matches!(target.applier.open_for_work(&target.at("l").place()), Err(ApplyError::Stale { .. })));
}

#[test]
fn copies_come_from_the_expected_bytes_only() {
    let target = target();
    for size in [0, 10, 300_000] {
        let text = "x".repeat(size);
        target.write("a/source", &text);
        let from = TreePath::new("a/source").unwrap();
        let identity = Identity::of(&target.stat("a/source"));
        let copy = |size, digest: &Digest| target.applier.stage_copy(&from, &identity, size, digest);
        let digest = Digest::of(text.as_bytes());
        assert!(matches!(copy(size as u64 + 1, &digest), Err(ApplyError::Digest { .. })));
        assert!(matches!(copy(size as u64, &Digest::of(b"y")), Err(ApplyError::Digest { .. })));
        let staged = copy(size as u64, &digest).unwrap();
        let name = format!("copy{size}");
        let entry = file_entry(text.as_bytes(), 0o644);
        let at = target.at(&name);
        let stat =
            target.applier.place(staged, &at.place(), &entry, &Expect::Nothing, Displaced::Delete).unwrap();
        assert_ne!(stat.ino, identity.ino);
        assert_eq!(target.read(&name), text);
        target.write("a/source", "changed");
        assert!(matches!(copy(size as u64, &digest), Err(ApplyError::Stale { path }) if path == from));
    }
    assert_eq!(target.staging(), []);
}

#[test]
fn moves_directly_and_through_staging() {
    let target = target();
    target.write("a/f", "one");
    target.write("b/f", "two");
    let (a, b, c) = (target.at("a"), target.at("b"), target.at("c"));
    let (ea, eb) = (target.expect("a"), target.expect("b"));
    let taken = target.applier.move_new(&a.place(), &b.place(), &ea);
    assert!(matches!(taken, Err(ApplyError::Stale { path }) if path == b.path));
    // A swap of two directories.
    target.applier.take_out(&a.place(), &ea, 1).unwrap();
    target.applier.take_out(&b.place(), &eb, 2).unwrap();
    assert!(!target.path.join("a").exists());
    target.applier.put_in(1, &b.place()).unwrap();
    assert!(matches!(target.applier.put_in(2, &b.place()), Err(ApplyError::Stale { .. })));
    let stat = target.applier.put_in(2, &a.place()).unwrap();
    assert_eq!(expect_of(&stat), eb);
    assert_eq!((target.read("a/f"), target.read("b/f")), ("two".into(), "one".into()));
    let stat = target.applier.move_new(&a.place(), &c.place(), &eb).unwrap();
    assert_eq!(expect_of(&stat), eb);
    assert_eq!(target.read("c/f"), "two");
    assert_eq!(target.staging().len(), 2, "until it is flushed it may be back where it was");
    let mut unflushed = Unflushed::new(Durability::None);
    [1, 2].into_iter().for_each(|key| unflushed.put_in(key));
    target.applier.flush(&mut unflushed).unwrap();
    assert_eq!(target.staging(), [], "no notes stay");
    // Given up: back, or to the trash.
    target.applier.take_out(&c.place(), &eb, 3).unwrap();
    assert_eq!(target.applier.put_back(3).unwrap(), Recovered::PutBack { path: c.path.clone() });
    target.applier.take_out(&c.place(), &eb, 3).unwrap();
    target.write("c", "newer");
    assert_eq!(target.applier.put_back(3).unwrap(), Recovered::Trashed { path: c.path.clone() });
    assert_eq!(target.trash(), pairs(&[("c/f", "two")]));
}

/// Renaming a directory changes it, which its owner may have forbidden. (Root is never refused; for others this fails
/// without care.)
#[test]
fn directories_that_may_not_be_written_are_moved_and_trashed() {
    let target = target();
    for name in ["a", "b"] {
        target.write(&format!("{name}/f"), "text");
        fs::set_permissions(target.path.join(name), fs::Permissions::from_mode(0o555)).unwrap();
    }
    let (a, b, c) = (target.at("a"), target.at("b"), target.at("c"));
    target.applier.move_new(&a.place(), &c.place(), &target.expect("a")).unwrap();
    target.applier.take_out(&b.place(), &target.expect("b"), 1).unwrap();
    target.applier.put_in(1, &a.place()).unwrap();
    assert_eq!((target.stat("a").mode, target.stat("c").mode), (0o555, 0o555));
    target.remove("a", &target.expect("a"), Displaced::Trash).unwrap();
    target.remove("c", &target.expect("c"), Displaced::Trash).unwrap();
    assert_eq!(target.trash(), pairs(&[("a/f", "text"), ("c/f", "text")]));
    // What is in the trash can be deleted whatever its modes.
    let run = target.path.join(".syncd/trash");
    fs::rename(run.join(RUN), run.join("old")).unwrap();
    target.applier.prune_trash(std::time::SystemTime::now() + Duration::from_secs(31 * 86_400)).unwrap();
    assert_eq!(fs::read_dir(run).unwrap().count(), 0);
}
