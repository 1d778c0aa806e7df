use super::*;

fn two_trees() -> (tempfile::TempDir, Tree, Tree) {
    let dir = tempfile::tempdir().unwrap();
    let build = |name: &str| {
        let tree = Tree::at(dir.path().join(name));
        tree.file("d/f", "text").mode(0o644).mtime(1, 5);
        tree.link("l", "d/f").mtime(2, 0);
        tree.placed("d").mode(0o755).mtime(3, 0);
        tree
    };
    let (left, right) = (build("left"), build("right"));
    (dir, left, right)
}

fn lines(left: &Tree, right: &Tree) -> Vec<String> {
    differences(&left.snapshot(), &right.snapshot(), Compare::default())
}

#[test]
fn equal_trees_are_equal() {
    let (_dir, left, right) = two_trees();
    assert_eq!(lines(&left, &right), Vec::<String>::new());
    assert_same(left.root(), right.root());
    wait_same(left.root(), right.root(), Duration::ZERO);
}

#[test]
fn every_kind_of_difference_is_noticed() {
    type Change = fn(&Tree);
    let later = |tree: &Tree| tree.placed("d").mtime(3, 0);
    let cases: [(Change, &str); 10] = [
        (|t| drop(t.file("d/f", "longer").mtime(1, 5)), "4 against 6 bytes"),
        (|t| t.rewrite_quietly("d/f", 1), "other bytes of the same length 4"),
        (|t| drop(t.placed("d/f").mode(0o600)), "mode 644 against 600"),
        (|t| drop(t.placed("d/f").mtime(-1, 999_999_999)), "mtime 1.000000005 against -1.999999999"),
        (|t| drop(t.placed("d").mode(0o700)), "mode 755 against 700"),
        (|t| t.remove("d/f"), "only left:  \"d/f\" (file of 4 bytes)"),
        (|t| drop(t.dir("e")), "only right: \"e\" (directory)"),
        (
            |t| {
                t.remove("l");
                t.link("l", "elsewhere").mtime(2, 0);
            },
            "link to \"d/f\" against link to \"elsewhere\"",
        ),
        (
            |t| {
                t.remove("d/f");
                t.dir("d/f");
            },
            "file of 4 bytes against directory",
        ),
        (|t| drop(t.placed("l").mtime(9, 0)), "mtime 2.000000000 against 9.000000000"),
    ];
    for (change, want) in cases {
        let (_dir, left, right) = two_trees();
        change(&right);
        drop(later(&right));
        let lines = lines(&left, &right);
        assert!(lines.len() == 1 && lines[0].contains(want), "wanted {want}, got {lines:?}");
    }
}

#[test]
fn directory_times_count_unless_told_otherwise() {
    let (_dir, left, right) = two_trees();
    right.placed("d").mtime(4, 0);
    assert_eq!(lines(&left, &right).len(), 1);
    let by = Compare { dir_times: false, ..Compare::default() };
    assert!(differences(&left.snapshot(), &right.snapshot(), by).is_empty());
}

#[test]
fn the_state_directory_is_not_part_of_a_tree() {
    let (_dir, left, right) = two_trees();
    right.file(".syncd/target.db", "state");
    right.dir("d/.SyncD");
    right.placed("d").mtime(3, 0);
    assert_same(left.root(), right.root());
    right.empty();
    assert!(right.has(".syncd/target.db") && !right.has("d"));
}

#[test]
fn strange_names_are_read_and_printed_on_one_line() {
    let (_dir, left, right) = two_trees();
    left.file(OsStr::from_bytes(b"bad\xffname\n"), "");
    left.file("x".repeat(255), "");
    let lines = lines(&left, &right);
    assert_eq!(lines.len(), 2);
    assert!(lines.iter().all(|line| !line.contains('\n') && line.len() < 120), "{lines:?}");
}

#[test]
fn an_editor_save_is_another_inode_and_a_write_is_not() {
    let (_dir, tree, _) = two_trees();
    let before = tree.inode("d/f");
    tree.file("d/f", "in place");
    assert_eq!(tree.inode("d/f"), before);
    tree.save("d/f", "saved");
    assert_ne!(tree.inode("d/f"), before);
    assert_eq!(tree.read("d/f"), b"saved");
}

#[test]
fn a_swap_exchanges_inodes() {
    let (_dir, tree, _) = two_trees();
    let (f, l) = (tree.inode("d/f"), tree.inode("l"));
    tree.swap("d/f", "l");
    assert_eq!((tree.inode("d/f"), tree.inode("l")), (l, f));
}

#[test]
fn a_sparse_file_takes_no_space() {
    let (_dir, tree, _) = two_trees();
    tree.sparse("hole", 64 << 20);
    let meta = fs::metadata(tree.path("hole")).unwrap();
    assert_eq!(meta.len(), 64 << 20);
    assert!(meta.blocks() * 512 < 1 << 20);
}

#[test]
fn special_files_are_seen_as_such() {
    let (_dir, tree, _) = two_trees();
    tree.fifo("fifo");
    tree.socket("socket");
    assert_eq!([tree.look("fifo").kind, tree.look("socket").kind], [Kind::Other, Kind::Other]);
}

#[test]
fn a_copy_is_the_same_with_its_times() {
    let (dir, tree, _) = two_trees();
    let copy = Tree::at(dir.path().join("copy"));
    copy.copy_from(tree.root(), "-a");
    assert_same(tree.root(), copy.root());
}

#[test]
fn trash_is_listed_by_the_path_that_it_had() {
    let (_dir, tree, _) = two_trees();
    assert!(tree.trash().is_empty() && tree.state_bytes() == 0);
    tree.file(".syncd/trash/20260101T000000-aa/d/f", "mine");
    let trash = tree.trash();
    assert_eq!(trash.keys().collect::<Vec<_>>(), [&PathBytes::from("d/f")]);
    assert_eq!(tree.state_bytes(), 4);
}
