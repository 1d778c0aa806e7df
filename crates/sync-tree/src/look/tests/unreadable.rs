//! What cannot be read is not gone, wherever it is moved.

use sync_testkit::host::without_privileges;

use super::*;
use crate::apart::is_apart;

fn places(list: &[&str]) -> Scope {
    Scope::Places(list.iter().map(|place| Dirty { path: path(place), deep: true }).collect())
}

/// A rename is noticed by a look at everything, or by one at the places that its events name.
fn scopes(from: &str, to: &str) -> [Scope; 3] {
    [Scope::Everything, places(&[from, to]), places(&[to, from])]
}

#[test]
fn an_unreadable_file_that_is_renamed_keeps_its_node_and_content() {
    if !is_apart(
        "look::tests::unreadable::an_unreadable_file_that_is_renamed_keeps_its_node_and_content",
        without_privileges(),
    ) {
        return;
    }
    for noticed_before in [false, true] {
        for scope in scopes("secret", "dir/moved") {
            let scene = Scene::new();
            scene.write("secret", "precious");
            scene.write("dir/other", "x");
            scene.look_at_all();
            let before = scene.find("secret").unwrap();
            scene.mode("secret", 0o000);
            if noticed_before {
                scene.look_at_all();
                assert_eq!(scene.unknown(), ["secret"]);
            }
            scene.rename("secret", "dir/moved");
            let report = scene.look(&scope);
            let after = scene.find("dir/moved").expect("it is known in its new place");
            assert_eq!((after.node.id, &after.node.entry), (before.node.id, &before.node.entry));
            assert!(scene.find("secret").is_none());
            assert_eq!(scene.unknown(), ["dir/moved"]);
            assert!(!report.notes.iter().any(|note| note.op == ChangeOp::Deleted), "{:?}", report.notes);
            // And it stays so, until it can be read.
            scene.look_at_all();
            assert_eq!(scene.find("dir/moved").map(|node| node.node), Some(after.node));
            scene.mode("dir/moved", 0o644);
            scene.look_at_all();
            assert_eq!(scene.id("dir/moved"), Some(before.node.id));
            assert!(scene.unknown().is_empty());
        }
    }
}

#[test]
fn an_unreadable_file_that_replaces_another_brings_its_content_along() {
    if !is_apart(
        "look::tests::unreadable::an_unreadable_file_that_replaces_another_brings_its_content_along",
        without_privileges(),
    ) {
        return;
    }
    let scene = Scene::new();
    scene.write("secret", "precious");
    scene.write("other", "x");
    scene.look_at_all();
    let (secret, other) = (scene.find("secret").unwrap(), scene.find("other").unwrap());
    scene.mode("secret", 0o000);
    scene.rename("secret", "other");
    scene.look_at_all();
    let after = scene.find("other").unwrap();
    assert_eq!((after.node.id, after.node.entry), (other.node.id, secret.node.entry));
    assert_eq!(scene.unknown(), ["other"]);
}

#[test]
fn an_unreadable_file_that_is_not_the_one_that_left_is_not_taken_for_it() {
    if !is_apart(
        "look::tests::unreadable::an_unreadable_file_that_is_not_the_one_that_left_is_not_taken_for_it",
        without_privileges(),
    ) {
        return;
    }
    let scene = Scene::new();
    scene.write("secret", "precious");
    scene.look_at_all();
    // The same inode, but not what was read.
    scene.write("secret", "another text");
    scene.mode("secret", 0o000);
    scene.rename("secret", "moved");
    scene.look_at_all();
    assert!(scene.find("moved").is_none() && scene.find("secret").is_none());
    assert_eq!(scene.unknown(), ["moved"]);
}

#[test]
fn an_unreadable_directory_that_is_renamed_keeps_what_is_in_it() {
    if !is_apart(
        "look::tests::unreadable::an_unreadable_directory_that_is_renamed_keeps_what_is_in_it",
        without_privileges(),
    ) {
        return;
    }
    // Neither right; only that to enter; only that to list.
    for mode in [0o000, 0o100, 0o400] {
        for noticed_before in [false, true] {
            for scope in scopes("dir", "dir 2") {
                let scene = Scene::new();
                scene.write("dir/sub/file", "precious");
                scene.write("dir/file", "x");
                scene.look_at_all();
                let before = ["", "/file", "/sub", "/sub/file"].map(|below| scene.id(&format!("dir{below}")));
                scene.mode("dir", mode);
                if noticed_before {
                    scene.look_at_all();
                }
                scene.rename("dir", "dir 2");
                scene.look(&scope);
                let after =
                    ["", "/file", "/sub", "/sub/file"].map(|below| scene.id(&format!("dir 2{below}")));
                assert_eq!(before, after, "{mode:o} {noticed_before} {scope:?}");
                assert!(scene.find("dir").is_none());
                let unknown = scene.unknown();
                assert!(
                    !unknown.is_empty() && unknown.iter().all(|at| at.starts_with("dir 2")),
                    "{unknown:?}"
                );
                scene.mode("dir 2", 0o755);
                scene.look_at_all();
                assert_eq!(scene.id("dir 2/sub/file"), before[3]);
                assert!(scene.unknown().is_empty());
            }
        }
    }
}
