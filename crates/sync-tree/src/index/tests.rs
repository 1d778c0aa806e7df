//! Databases that are damaged, or of other versions.

use std::{
    fs,
    io::{Seek as _, SeekFrom, Write as _},
};

use sync_core::{Content, Entry, Name, Time};

use super::*;
use crate::hash::Identity;

type Damage = fn(&Path);

/// An index with a directory of many files, closed.
fn filled(path: &Path) -> [u8; 16] {
    let index = Index::open_or_rebuild(path).unwrap();
    let dir = index.new_id().unwrap();
    let put = |id, parent, name: &str, content| IndexedNode {
        node: Node {
            id,
            parent,
            name: Name::new(name).unwrap(),
            entry: Entry { content, mtime: Time::default(), mode: 0o644 },
        },
        identity: Identity::default(),
        vouched: false,
    };
    let written = index.write(|tx| {
        tx.insert(&put(dir, NodeId::ROOT, "dir", Content::Directory))?;
        for number in 0..2000 {
            let content = Content::File { size: 1, digest: Digest::of(&[0]) };
            tx.insert(&put(tx.new_id()?, dir, &format!("file {number}"), content))?;
        }
        Ok::<_, IndexError>(())
    });
    assert_eq!(written.unwrap().1.files, 2000);
    index.epoch()
}

fn overwrite(path: &Path, from: u64) {
    let mut file = fs::OpenOptions::new().write(true).open(path).unwrap();
    let length = file.metadata().unwrap().len();
    file.seek(SeekFrom::Start(from)).unwrap();
    file.write_all(&vec![0xff; usize::try_from(length - from).unwrap()]).unwrap();
}

fn truncate(path: &Path, to: u64) {
    fs::OpenOptions::new().write(true).open(path).unwrap().set_len(to).unwrap();
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn set_aside(dir: &Path) -> usize {
    names(dir).iter().filter(|name| name.starts_with("x.db.damaged-") && !name.ends_with("-wal")).count()
}

#[test]
fn what_is_moved_from_the_log_is_in_the_file_itself() {
    let tmp = tempfile::tempdir().unwrap();
    let (path, alone) = (tmp.path().join("x.db"), tmp.path().join("alone.db"));
    drop(Index::open(&path).unwrap());
    let index = Index::open(&path).unwrap();
    let files_of_file = || {
        fs::copy(&path, &alone).unwrap();
        let files = Index::open(&alone).unwrap().head().unwrap().files;
        fs::remove_file(&alone).unwrap();
        files
    };
    let put = |name: &str| {
        let entry = Entry {
            content: Content::File { size: 1, digest: Digest::of(&[0]) },
            mtime: Time::default(),
            mode: 0o644,
        };
        let node =
            Node { id: index.new_id().unwrap(), parent: NodeId::ROOT, name: Name::new(name).unwrap(), entry };
        IndexedNode { node, identity: Identity::default(), vouched: false }
    };
    index.write(|tx| tx.insert(&put("one"))).unwrap();
    assert_eq!(files_of_file(), 0, "it is in the log");
    // Beside somebody who is writing, too.
    let written = index.write(|tx| {
        index.move_log();
        assert_eq!(files_of_file(), 1);
        tx.insert(&put("two"))
    });
    assert_eq!((written.unwrap().1.files, files_of_file()), (2, 1));
}

#[test]
fn a_damaged_database_is_set_aside_and_made_anew() {
    let damages: [(&str, Damage); 4] = [
        ("garbage", |path| overwrite(path, 0)),
        ("all but the first page", |path| overwrite(path, 4096)),
        ("half of it", |path| truncate(path, fs::metadata(path).unwrap().len() / 2)),
        ("a piece of the header", |path| truncate(path, 50)),
    ];
    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join("x.db");
    // A log from elsewhere must not get into the new database.
    fs::write(tmp.path().join("x.db-wal"), "old").unwrap();
    let mut epoch = filled(&path);
    for (what, damage) in damages {
        damage(&path);
        let index = Index::open_or_rebuild(&path).unwrap();
        assert_ne!(index.epoch(), epoch, "{what}");
        assert_eq!(index.head().unwrap().files, 0, "{what}");
        assert_eq!(set_aside(tmp.path()), 1, "{what}: {:?}", names(tmp.path()));
        drop(index);
        fs::remove_file(&path).unwrap();
        epoch = filled(&path);
        assert_eq!(Index::open_or_rebuild(&path).unwrap().epoch(), epoch, "{what}");
    }
}

/// Makes a table what it was in the first version, when sums were in the rows of their directories.
pub(super) fn put_sums_back(db: &Connection, table: &str) {
    let back = format!(
        "ALTER TABLE {table} ADD COLUMN sum BLOB;
         UPDATE {table} SET sum = (SELECT s.sum FROM {table}_sums s WHERE s.id = {table}.id);
         DROP TABLE {table}_sums;"
    );
    db.execute_batch(&back).unwrap();
}

/// One file in the directory of a [filled] index changes. Answers the head after that.
fn change_one(index: &Index) -> Head {
    let dir = index.child(NodeId::ROOT, "dir").unwrap().unwrap();
    let names = ["file 7", "no file", "file 1", "file 7", ""];
    let singly = names.map(|name| index.child(dir.node.id, name).unwrap());
    assert_eq!(index.children_named(dir.node.id, &names).unwrap(), singly);
    assert_eq!(index.children_named(dir.node.id, &[]).unwrap(), []);
    assert_eq!(index.children_named(NodeId(1 << 40), &names).unwrap(), [const { None }; 5]);
    let old = index.child(dir.node.id, "file 7").unwrap().unwrap();
    let mut new = old.clone();
    new.node.entry.mode = 0o600;
    index.write(|tx| tx.update(&old, &new)).unwrap().1
}

#[test]
fn a_database_of_the_first_version_is_brought_to_this_one() {
    let tmp = tempfile::tempdir().unwrap();
    let [old, other] = ["x.db", "other.db"].map(|name| tmp.path().join(name));
    let epoch = filled(&old);
    filled(&other);
    let db = Connection::open(&old).unwrap();
    put_sums_back(&db, "nodes");
    db.execute_batch("DROP TABLE sheets;").unwrap();
    db.execute_batch("CREATE INDEX nodes_content ON nodes (content); CREATE INDEX nodes_ino ON nodes (ino);")
        .unwrap();
    db.pragma_update(None, "user_version", 1).unwrap();
    drop(db);
    let [old, other] = [&old, &other].map(|path| Index::open_or_rebuild(path).unwrap());
    assert_eq!(old.epoch(), epoch, "it is not made anew");
    assert_eq!(old.head().unwrap().root_digest, other.head().unwrap().root_digest);
    assert_eq!(change_one(&old).root_digest, change_one(&other).root_digest);
    assert_eq!(old.with_digest(&Digest::of(&[0]), 1).unwrap().len(), 1);
    let indexes = "SELECT count(*) FROM sqlite_master WHERE name IN ('nodes_content', 'nodes_ino')";
    assert_eq!(old.read(|db| db.query_row(indexes, [], |row| row.get::<_, i64>(0))).unwrap(), 0);
}

#[test]
fn what_is_gone_or_no_directory_any_more_has_no_sum() {
    let tmp = tempfile::tempdir().unwrap();
    let index = Index::open(&tmp.path().join("x.db")).unwrap();
    let sums = || {
        let count = "SELECT count(*) FROM nodes_sums";
        index.read(|db| db.query_row(count, [], |row| row.get::<_, i64>(0))).unwrap()
    };
    let put = |parent, name: &str| {
        let name = Name::new(name).unwrap();
        let entry = Entry { content: Content::Directory, mtime: Time::default(), mode: 0o755 };
        let node = Node { id: index.new_id().unwrap(), parent, name, entry };
        let row = IndexedNode { node, identity: Identity::default(), vouched: false };
        index.write(|tx| tx.insert(&row)).unwrap();
        row
    };
    let above = put(NodeId::ROOT, "above");
    put(above.node.id, "below");
    let dir = put(NodeId::ROOT, "a directory now");
    assert_eq!(sums(), 4, "with that of the root");
    index.write(|tx| tx.remove(&above)).unwrap();
    assert_eq!(sums(), 2);
    let mut file = dir.clone();
    file.node.entry.content = Content::File { size: 1, digest: Digest::of(&[0]) };
    index.write(|tx| tx.update(&dir, &file)).unwrap();
    assert_eq!(sums(), 1);
}

#[test]
fn a_database_of_a_newer_version_is_refused_and_stays() {
    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join("x.db");
    filled(&path);
    Connection::open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
    let error = Index::open_or_rebuild(&path).unwrap_err();
    assert!(matches!(error, IndexError::TooNew { .. }), "{error:?}");
    assert!(error.hint().is_some_and(|hint| hint.contains("newer version")));
    assert_eq!(names(tmp.path()), ["x.db"]);
}

#[test]
fn damage_found_while_running_is_named_and_remembered() {
    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join("x.db");
    let epoch = filled(&path);
    // The first pages hold all that an opening reads.
    overwrite(&path, 40 * 4096);
    let index = Index::open_or_rebuild(&path).unwrap();
    assert_eq!(index.epoch(), epoch);
    let error = index.tree_page(NodeId::ROOT, 5000).unwrap_err();
    assert!(error.to_string().contains("x.db is damaged"), "{error}");
    assert!(error.hint().is_some_and(|hint| hint.contains("move that file away")));
    // Once that is known nothing goes through it any more: another may be in its place.
    assert!(matches!(index.head(), Err(IndexError::Damaged { .. })));
    let written = index.write(|_| Ok::<_, IndexError>(()));
    assert!(matches!(written, Err(IndexError::Damaged { .. })));
    drop(index);
    assert_ne!(Index::open_or_rebuild(&path).unwrap().epoch(), epoch);
    assert_eq!(set_aside(tmp.path()), 1);
    let kept = Index::open_or_rebuild(&path).unwrap().epoch();
    assert_eq!(Index::open_or_rebuild(&path).unwrap().epoch(), kept, "the mark is gone");
}

#[test]
fn damage_within_a_transaction_is_named_too() {
    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join("x.db");
    filled(&path);
    overwrite(&path, 40 * 4096);
    let index = Index::open(&path).unwrap();
    let dir = index.child(NodeId::ROOT, "dir").unwrap().unwrap();
    let error = index.write(|tx| tx.children(dir.node.id)).unwrap_err();
    assert!(matches!(error, IndexError::Damaged { .. }), "{error:?}");
}
