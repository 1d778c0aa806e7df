//! What moved is told from what is new.

use std::os::unix::fs::MetadataExt as _;

use super::*;

/// Numbers of inodes are used again, for directories and for what is in them.
#[test]
fn a_new_directory_with_the_inodes_and_names_of_one_that_is_gone_is_new() {
    let scene = Scene::new();
    scene.write("old/file", "old content");
    scene.look_at_all();
    let (dir, file) = (scene.find("old").unwrap(), scene.find("old/file").unwrap());
    fs::remove_dir_all(scene.root.join("old")).unwrap();
    scene.write("new/file", "new content");
    let inode = |path: &str| fs::metadata(scene.root.join(path)).unwrap().ino();
    let again = [(&dir, inode("new")), (&file, inode("new/file"))];
    let used = |tx: &mut crate::index::IndexTx<'_>| {
        for (known, ino) in again {
            let mut now = known.clone();
            now.identity.ino = ino;
            tx.update(known, &now)?;
        }
        Ok::<_, IndexError>(())
    };
    scene.looker.index().write(used).unwrap();
    let report = scene.look_at_all();
    assert!(report.moved.is_empty(), "{:?}", report.moved);
    assert_ne!(scene.id("new"), Some(dir.node.id));
    assert!(scene.id("old").is_none() && scene.id("new/file").is_some());
}

#[test]
fn a_directory_that_moved_and_changed_is_the_same_if_anything_in_it_is() {
    for (change, same) in [("", true), ("one", true), ("one two", false)] {
        let scene = Scene::new();
        scene.write("old/one", "content");
        scene.write("old/two", "content");
        scene.look_at_all();
        let id = scene.id("old");
        scene.rename("old", "new");
        for name in change.split_whitespace() {
            fs::remove_file(scene.root.join("new").join(name)).unwrap();
            scene.write(&format!("new/{name}"), "changed");
        }
        scene.look_at_all();
        assert_eq!(scene.id("new") == id, same, "{change}");
        assert!(scene.id("old").is_none());
    }
}

/// Of many names that are new in one directory the inodes are asked for together.
#[test]
fn a_file_that_moves_in_among_many_new_ones_is_the_same_one() {
    // With more than a few known inodes in between they are asked for one by one again.
    for known_between in [0, 3, 300] {
        let scene = Scene::new();
        scene.write("old/first", "content of the first");
        (0..known_between).for_each(|at| scene.write(&format!("between/{at}"), "there before"));
        scene.write("old/last", "content of the last");
        scene.look_at_all();
        let ids = ["old/first", "old/last"].map(|place| scene.id(place));
        for at in 0..20 {
            scene.write(&format!("new/{at}"), "new");
        }
        scene.rename("old/first", "new/5a");
        scene.rename("old/last", "new/z");
        let report = scene.look_at_all();
        assert_eq!(["new/5a", "new/z"].map(|place| scene.id(place)), ids, "{known_between}");
        let renamed = report.notes.iter().filter(|note| matches!(note.op, ChangeOp::Renamed { .. }));
        assert_eq!(renamed.count(), 2, "{:?}", report.notes);
        assert!(scene.id("old/first").is_none() && scene.id("new/19").is_some());
    }
}
