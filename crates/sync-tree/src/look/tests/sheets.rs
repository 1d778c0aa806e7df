//! What is found with the sheets of directories is what is found with their rows.

use std::{fs, os::unix::fs::symlink, path::Path, time::Duration};

use sync_core::Content;
use sync_testkit::eventually;

use super::*;

const FILES: usize = 16;

/// A change in `dir`, and what has to be told of it.
type Change = (&'static str, fn(&Path), &'static [&'static str]);

/// Some files and others, all vouched for.
fn settled_scene() -> Scene {
    let scene = Scene::new();
    for number in 0..FILES {
        scene.write(&format!("dir/file {number:02}"), &format!("content {number:02}"));
    }
    scene.write("dir/below/file", "content");
    scene.write("other/file", "content");
    symlink("nowhere", scene.root.join("dir/link")).unwrap();
    eventually(Duration::from_secs(20), || {
        let report = scene.look_at_all();
        if report.revisit.is_empty() { Ok(()) } else { Err(format!("{:?}", report.revisit)) }
    });
    scene.look_at_all();
    scene
}

fn told(report: &LookReport) -> Vec<String> {
    let mut notes: Vec<String> =
        report.notes.iter().map(|note| format!("{:?} {}", note.op, note.path.as_str())).collect();
    notes.sort();
    notes
}

/// The time of a file as it was before.
fn keeping_time(file: &Path, change: impl FnOnce()) {
    let time = fs::metadata(file).unwrap().modified().unwrap();
    change();
    fs::File::options().write(true).open(file).unwrap().set_modified(time).unwrap();
}

const CHANGES: [Change; 14] = [
    ("nothing", |_| (), &[]),
    ("content", |dir| fs::write(dir.join("file 03"), "grown content").unwrap(), &["Modified dir/file 03"]),
    (
        "content of the same size and time",
        |dir| {
            let file = dir.join("file 03");
            keeping_time(&file, || fs::write(&file, "CONTENT 03").unwrap());
        },
        &["Modified dir/file 03"],
    ),
    (
        "mode",
        |dir| fs::set_permissions(dir.join("file 03"), fs::Permissions::from_mode(0o600)).unwrap(),
        &["Metadata dir/file 03"],
    ),
    (
        "time",
        |dir| {
            let file = fs::File::options().write(true).open(dir.join("file 03")).unwrap();
            file.set_modified(std::time::UNIX_EPOCH).unwrap();
        },
        &["Metadata dir/file 03"],
    ),
    ("a new one", |dir| fs::write(dir.join("new"), "new").unwrap(), &["Created dir/new"]),
    ("one is gone", |dir| fs::remove_file(dir.join("file 03")).unwrap(), &["Deleted dir/file 03"]),
    (
        "as many as before",
        |dir| {
            // Its inode must not be used for the new one, or that has moved.
            fs::write(dir.join("new"), "new").unwrap();
            fs::remove_file(dir.join("file 03")).unwrap();
        },
        &["Created dir/new", "Deleted dir/file 03"],
    ),
    (
        "another name",
        |dir| fs::rename(dir.join("file 03"), dir.join("new name")).unwrap(),
        &["Renamed { from: \"dir/file 03\" } dir/new name"],
    ),
    (
        "another directory",
        |dir| fs::rename(dir.join("file 03"), dir.join("below/file 03")).unwrap(),
        &["Renamed { from: \"dir/file 03\" } dir/below/file 03"],
    ),
    (
        "names changed over",
        |dir| {
            fs::rename(dir.join("file 03"), dir.join("between")).unwrap();
            fs::rename(dir.join("file 04"), dir.join("file 03")).unwrap();
            fs::rename(dir.join("between"), dir.join("file 04")).unwrap();
        },
        &["Modified dir/file 03", "Modified dir/file 04"],
    ),
    (
        "a link in its place",
        |dir| {
            fs::remove_file(dir.join("file 03")).unwrap();
            symlink("elsewhere", dir.join("file 03")).unwrap();
        },
        &["Modified dir/file 03"],
    ),
    (
        "ignored",
        |dir| fs::write(dir.join(".syncignore"), "file 03\n").unwrap(),
        &["Created dir/.syncignore", "Forgotten dir/file 03"],
    ),
    (
        "most are gone",
        |dir| (3..FILES).for_each(|number| fs::remove_file(dir.join(format!("file {number:02}"))).unwrap()),
        &[
            "Deleted dir/file 03",
            "Deleted dir/file 04",
            "Deleted dir/file 05",
            "Deleted dir/file 06",
            "Deleted dir/file 07",
            "Deleted dir/file 08",
            "Deleted dir/file 09",
            "Deleted dir/file 10",
            "Deleted dir/file 11",
            "Deleted dir/file 12",
            "Deleted dir/file 13",
            "Deleted dir/file 14",
            "Deleted dir/file 15",
        ],
    ),
];

#[test]
fn each_change_is_found_with_sheets_as_without() {
    for (what, change, expected) in CHANGES {
        for has_sheets in [true, false] {
            let scene = settled_scene();
            let index = scene.looker.index();
            let dir = scene.id("dir").unwrap();
            assert_eq!(index.sheet(dir).unwrap().map(|sheet| sheet.nodes()), Some(FILES + 2));
            if !has_sheets {
                index.write(|tx| Ok::<_, IndexError>(tx.sql().execute_batch("DELETE FROM sheets")?)).unwrap();
            }
            change(&scene.root.join("dir"));
            assert_eq!(told(&scene.look_at_all()), expected, "{what}, with sheets: {has_sheets}");
            assert_eq!(told(&scene.look_at_all()), [""; 0], "{what}, once more");
        }
    }
}

#[test]
fn who_believes_nothing_does_not_believe_a_sheet() {
    let scene = settled_scene();
    let dir = scene.id("dir").unwrap();
    let known = scene.find("dir/file 03").unwrap();
    // The index is told what is not so, and vouches for it.
    let mut wrong = known.clone();
    wrong.node.entry.content = Content::File { size: 10, digest: Digest::of(b"wrong") };
    scene.looker.index().write(|tx| tx.update(&known, &wrong)).unwrap();
    assert_eq!(told(&scene.look_at_all()), [""; 0]);
    let distrust = LookLimits { distrust: true, ..LookLimits::default() };
    let report = scene.looker.look(&Scope::Everything, &NoObserver, &distrust).unwrap();
    assert_eq!(told(&report), ["Modified dir/file 03"]);
    assert!(scene.looker.index().sheet(dir).unwrap().is_some());
}

#[test]
fn what_is_moved_into_a_directory_after_its_sheet_was_read_is_no_substitute_for_what_is_gone() {
    let scene = settled_scene();
    let index = scene.looker.index();
    let dir = scene.id("dir").unwrap();
    let sheet = index.sheet(dir).unwrap().unwrap();
    assert_eq!(
        index.children_beside(dir, &sheet, ["file 03", "new"]).unwrap().map(|found| found.len()),
        Some(1)
    );
    let known = scene.find("other/file").unwrap();
    let mut moved = known.clone();
    moved.node.parent = dir;
    index.write(|tx| tx.update(&known, &moved)).unwrap();
    assert_eq!(index.children_beside(dir, &sheet, ["file 03", "file"]).unwrap(), None);
}

#[test]
fn a_wrong_sheet_tells_nothing_and_is_put_right() {
    let scene = settled_scene();
    let index = scene.looker.index();
    let dir = scene.id("dir").unwrap();
    let right = index.sheet(dir).unwrap();
    // Of one that has all marks but one wrong, and of one that is all wrong.
    for kept in [FILES - 1, 0] {
        let spoil = |tx: &mut crate::index::IndexTx<'_>| {
            let bytes = "SELECT sheet FROM sheets WHERE id = ?1";
            let id = dir.0.cast_signed();
            let mut bytes: Vec<u8> = tx.sql().query_row(bytes, [id], |row| row.get(0))?;
            bytes[8 + 8 * kept..].fill(0xff);
            tx.sql().execute("UPDATE sheets SET sheet = ?2 WHERE id = ?1", (id, bytes))?;
            Ok::<_, IndexError>(())
        };
        index.write(spoil).unwrap();
        assert_ne!(index.sheet(dir).unwrap(), right);
        assert_eq!(told(&scene.look_at_all()), [""; 0]);
        assert_eq!(index.sheet(dir).unwrap(), right);
    }
}
