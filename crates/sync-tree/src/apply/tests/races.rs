//! Somebody changes the disk between our check and our rename. What they made must be in the tree or in the trash.

use std::{
    os::unix::fs::symlink,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use super::*;

/// What somebody does to `p`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Race {
    Edit,
    Append,
    SaveAs,
    Dir,
    Link,
    Fifo,
    Delete,
}

const RACES: [Race; 7] =
    [Race::Edit, Race::Append, Race::SaveAs, Race::Dir, Race::Link, Race::Fifo, Race::Delete];

fn disturb(path: &std::path::Path, race: Race) {
    let gone = || match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path).unwrap(),
        Ok(_) => fs::remove_file(path).unwrap(),
        Err(_) => {}
    };
    match race {
        Race::Edit => fs::write(path, "RACING").unwrap(),
        Race::Append => {
            let mut bytes = fs::read(path).unwrap_or_default();
            bytes.extend(b"RACING");
            fs::write(path, bytes).unwrap();
        }
        Race::SaveAs => {
            let temp = path.with_extension("tmp");
            fs::write(&temp, "RACING").unwrap();
            fs::rename(temp, path).unwrap();
        }
        Race::Dir => {
            gone();
            fs::create_dir(path).unwrap();
            fs::write(path.join("inner"), "RACING").unwrap();
        }
        Race::Link => {
            gone();
            symlink("RACING", path).unwrap();
        }
        Race::Fifo => {
            gone();
            rustix::fs::mkfifoat(rustix::fs::CWD, path, rustix::fs::Mode::RWXU).unwrap();
        }
        Race::Delete => gone(),
    }
}

/// Where the racing content is: in the tree, in the trash.
fn survivors(target: &Target) -> (bool, bool) {
    let has = |list: Vec<(String, String)>| {
        list.iter().any(|(_, text)| text.contains("RACING") || text == "(other)")
    };
    (has(target.content()), has(target.trash()))
}

fn disturbed(step: Op, race: Race, with: Option<&str>) -> (Target, Expect) {
    let target = target();
    let expect = match with {
        Some(text) => {
            target.write("p", text);
            target.expect("p")
        }
        None => Expect::Nothing,
    };
    let path = target.path.join("p");
    target.hook.set(step, move || disturb(&path, race));
    (target, expect)
}

#[test]
fn what_comes_right_before_a_swap_is_in_the_trash() {
    for race in RACES {
        for what in [Displaced::Delete, Displaced::Trash] {
            let (target, expect) = disturbed(Op::Checked, race, Some("old"));
            let done = target.place("p", "new", &expect, what);
            if race == Race::Delete {
                // A deletion is an edit, too: it is planned again.
                assert!(matches!(done, Err(ApplyError::Stale { .. })), "{done:?}");
                assert_eq!(target.content(), []);
            } else {
                assert_eq!(done.unwrap(), target.stat("p"), "{race:?}");
                assert_eq!(target.read("p"), "new");
                assert_eq!(survivors(&target), (false, true), "{race:?} {what:?}: {:?}", target.trash());
            }
            assert_eq!(target.staging(), [], "{race:?}");
        }
    }
}

#[test]
fn what_comes_right_before_a_creation_stays() {
    for race in RACES {
        let (target, expect) = disturbed(Op::Checked, race, None);
        let done = target.place("p", "new", &expect, Displaced::Delete);
        if race == Race::Delete {
            assert_eq!(done.unwrap(), target.stat("p"));
        } else {
            assert!(matches!(done, Err(ApplyError::Stale { .. })), "{race:?}: {done:?}");
            assert_eq!(survivors(&target), (true, false), "{race:?}");
        }
        assert_eq!(target.staging(), [], "{race:?}");
    }
}

#[test]
fn what_comes_right_before_a_removal_stays_or_is_in_the_trash() {
    for race in RACES {
        for what in [Displaced::Delete, Displaced::Trash] {
            let (target, expect) = disturbed(Op::Checked, race, Some("old"));
            let done = target.remove("p", &expect, what);
            let (in_tree, in_trash) = survivors(&target);
            if race == Race::Delete || what == Displaced::Delete {
                assert!(matches!(done, Err(ApplyError::Stale { .. })), "{race:?} {what:?}: {done:?}");
            } else {
                done.unwrap();
            }
            assert_eq!(in_tree || in_trash, race != Race::Delete, "{race:?} {what:?}");
            assert_eq!(in_tree, race != Race::Delete && what == Displaced::Delete, "{race:?} {what:?}");
            assert_eq!(target.staging(), [], "{race:?}");
        }
    }
}

#[test]
fn what_comes_right_after_the_rename_stays() {
    for race in RACES {
        for what in [Displaced::Delete, Displaced::Trash] {
            let (target, expect) = disturbed(Op::Taken, race, Some("old"));
            let _ = target.place("p", "new", &expect, what);
            assert_eq!(survivors(&target).0, race != Race::Delete, "{race:?}");
            let trashed = if what == Displaced::Trash { pairs(&[("p", "old")]) } else { vec![] };
            assert_eq!(target.trash(), trashed, "{race:?}");
            assert_eq!(target.staging(), [], "{race:?}");

            let (target, expect) = disturbed(Op::Taken, race, Some("old"));
            target.remove("p", &expect, Displaced::Delete).unwrap();
            assert_eq!(survivors(&target), (race != Race::Delete, false), "{race:?}");
            assert_eq!(target.staging(), [], "{race:?}");
        }
    }
}

#[test]
fn a_taken_edit_whose_place_is_taken_goes_to_the_trash() {
    let (target, expect) = disturbed(Op::Checked, Race::Edit, Some("old"));
    let path = target.path.join("p");
    let hook = target.hook.clone();
    target.hook.set(Op::Checked, move || {
        disturb(&path, Race::Edit);
        let path = path.clone();
        hook.set(Op::Taken, move || fs::write(&path, "another").unwrap());
    });
    let done = target.remove("p", &expect, Displaced::Delete);
    assert!(matches!(done, Err(ApplyError::Stale { .. })), "{done:?}");
    assert_eq!(target.content(), pairs(&[("p", "another")]));
    assert_eq!(target.trash(), pairs(&[("p", "RACING")]));
}

#[test]
fn links_are_replaced_with_the_same_care() {
    for race in RACES {
        let target = target();
        symlink("old", target.path.join("p")).unwrap();
        let expect = target.expect("p");
        let path = target.path.join("p");
        target.hook.set(Op::Checked, move || match race {
            Race::Edit | Race::Append => disturb(&path, Race::SaveAs),
            _ => disturb(&path, race),
        });
        let at = target.at("p");
        let done =
            target.applier.place_link(b"new", &at.place(), &link_entry(b"new"), &expect, Displaced::Delete);
        assert_eq!(done.is_ok(), race != Race::Delete, "{race:?}: {done:?}");
        assert_eq!(survivors(&target), (false, race != Race::Delete), "{race:?}");
        assert_eq!(target.staging(), []);
    }
}

#[test]
fn moves_carry_nothing_that_was_not_expected() {
    for race in RACES {
        let (target, expect) = disturbed(Op::Checked, race, Some("old"));
        let (from, to) = (target.at("p"), target.at("q"));
        let done = target.applier.move_new(&from.place(), &to.place(), &expect);
        assert!(matches!(done, Err(ApplyError::Stale { .. })), "{race:?}: {done:?}");
        assert!(!target.path.join("q").exists(), "{race:?}");
        assert_eq!(survivors(&target), (race != Race::Delete, false), "{race:?}");

        let (target, expect) = disturbed(Op::Checked, race, Some("old"));
        let done = target.applier.take_out(&target.at("p").place(), &expect, 7);
        assert!(matches!(done, Err(ApplyError::Stale { .. })), "{race:?}: {done:?}");
        assert_eq!(survivors(&target), (race != Race::Delete, false), "{race:?}");
        assert_eq!(target.staging(), [], "{race:?}");

        let target = self::target();
        target.write("from", "old");
        target.applier.take_out(&target.at("from").place(), &target.expect("from"), 7).unwrap();
        let path = target.path.join("p");
        target.hook.set(Op::Checked, move || disturb(&path, race));
        let done = target.applier.put_in(7, &target.at("p").place());
        assert_eq!(done.is_ok(), race == Race::Delete, "{race:?}: {done:?}");
        assert_eq!(survivors(&target), (race != Race::Delete, false), "{race:?}");
    }
}

#[test]
fn metadata_never_reaches_through_a_link_and_content_survives() {
    for race in RACES {
        let (target, expect) = disturbed(Op::Checked, race, Some("old"));
        target.write("RACING", "what the link points to");
        let before = target.stat("RACING");
        let done = target.applier.set_meta(&target.at("p").place(), &file_entry(b"old", 0o600), &expect);
        assert!(matches!(done, Err(ApplyError::Stale { .. })), "{race:?}: {done:?}");
        assert_eq!(target.stat("RACING"), before, "{race:?}");
        assert_eq!(survivors(&target).0, race != Race::Delete, "{race:?}");
    }
}

/// A directory that is moved away, and a link put in its place, while its handle is held.
#[test]
fn a_parent_that_becomes_a_link_is_not_followed() {
    let outside = tempfile::tempdir().unwrap();
    let target = target();
    target.write("d/f", "old");
    let expect = target.expect("d/f");
    let (at, new) = (target.at("d/f"), target.at("d/new"));
    let (path, away) = (target.path.join("d"), outside.path().to_owned());
    target.hook.set(Op::Checked, move || {
        fs::rename(&path, path.with_extension("moved")).unwrap();
        symlink(&away, &path).unwrap();
    });
    let entry = file_entry(b"new", 0o644);
    target.applier.place(target.stage("new"), &at.place(), &entry, &expect, Displaced::Delete).unwrap();
    target
        .applier
        .place(target.stage("new"), &new.place(), &entry, &Expect::Nothing, Displaced::Delete)
        .unwrap();
    assert_eq!(
        target.content(),
        pairs(&[
            ("d", &format!("-> {}", outside.path().display())),
            ("d.moved/f", "new"),
            ("d.moved/new", "new")
        ])
    );
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
}

#[test]
fn a_reader_sees_only_whole_files() {
    let target = target();
    let text = |n: usize| format!("{n:03}").repeat(20_000);
    target.write("p", &text(0));
    let path = target.path.join("p");
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut seen = 0;
            while !stop.load(Ordering::Relaxed) || seen == 0 {
                let found = fs::read_to_string(&path).expect("the place is never empty");
                assert_eq!(found, found[..3].repeat(20_000));
                seen += 1;
            }
        });
        for n in 1..200 {
            let what = if n % 2 == 0 { Displaced::Delete } else { Displaced::Trash };
            target.place("p", &text(n), &target.expect("p"), what).unwrap();
        }
        stop.store(true, Ordering::Relaxed);
        reader.join().unwrap();
    });
    assert_eq!(target.trash().len(), 100);
}

#[test]
fn threads_work_side_by_side() {
    let target = target();
    fs::create_dir(target.path.join("d")).unwrap();
    thread::scope(|scope| {
        for thread in 0..4 {
            let target = &target;
            scope.spawn(move || {
                for i in 0..50 {
                    let path = format!("d/{thread}-{i}");
                    target.place(&path, "one", &Expect::Nothing, Displaced::Delete).unwrap();
                    target.place(&path, "two", &target.expect(&path), Displaced::Trash).unwrap();
                    target.remove(&path, &target.expect(&path), Displaced::Trash).unwrap();
                }
            });
        }
    });
    assert_eq!(target.trash().len(), 400);
    assert_eq!(target.staging(), []);
}
