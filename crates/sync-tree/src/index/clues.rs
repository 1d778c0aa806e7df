//! What nodes of the tree on this disk are found by besides their places: *clues*, which are inode numbers and how contents begin.
//!
//! An index of the database would be written in two places for each clue that changes, all over it, and that was a quarter of
//! what is written down with a thousand changed files. So new clues go into a small table, and when there are many they are
//! merged into *runs*: clues in order, a page of them in each row. That is also the quickest way to make them of a whole tree.
//!
//! A clue says where to look, and nothing more: whoever follows it compares. So none in a run is taken away when a node changes
//! or goes. Clues that lead nowhere go when all are made anew, once there are too many of them. From the new ones a clue goes into a
//! run and never back, so who looks among the new ones first misses none, also without a transaction.

use std::{
    mem,
    sync::{
        LazyLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use rusqlite::{Connection, OptionalExtension as _, params, types::ValueRef};
use sync_core::{Content, Digest, NodeId};

use super::{
    rows::{Additions, Row},
    sieve::{Sieve, Sifting},
    table::IndexedNode,
};

/// Clues in a run: when it is made, and at most. These fill a page of the database. Tests have few.
const RUN: usize = if cfg!(debug_assertions) { 3 } else { 168 };
const MOST_IN_RUN: usize = if cfg!(debug_assertions) { 5 } else { 248 };
/// New ones are merged into the runs when they are more than an eighth of the files, within these bounds.
const FEW_NEW: u64 = if cfg!(debug_assertions) { 16 } else { 8192 };
const MANY_NEW: u64 = 65_536;
/// So many files of one content are enough; they are the newest. Of an inode all nodes are known.
const MOST_ALIKE: usize = 64;

/// Where clues of a kind are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Inode,
    Content,
}

impl Kind {
    const ALL: [Self; 2] = [Self::Inode, Self::Content];

    fn number(self) -> i64 {
        match self {
            Self::Inode => 0,
            Self::Content => 1,
        }
    }

    fn runs(self) -> &'static str {
        match self {
            Self::Inode => "inode_runs",
            Self::Content => "content_runs",
        }
    }

    /// How many clues with one key are kept.
    fn most_alike(self) -> usize {
        match self {
            Self::Inode => i32::MAX as usize,
            Self::Content => MOST_ALIKE,
        }
    }
}

/// What leads to a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Clue {
    key: i64,
    id: i64,
}

fn key_of(digest: &Digest) -> i64 {
    digest.0.first_chunk().map_or(0, |begins| i64::from_le_bytes(*begins))
}

/// Whether there are clues, how many new ones, and what spares many searches.
#[derive(Debug)]
pub(super) struct Searching {
    made: AtomicBool,
    new: AtomicUsize,
    /// Of contents.
    sifting: Sifting,
}

impl Searching {
    pub(super) fn of(db: &Connection) -> rusqlite::Result<Self> {
        let made = are_made(db)?;
        let new = if made { count(db, "SELECT count(*) FROM new_clues")? } else { 0 };
        Ok(Self { made: AtomicBool::new(made), new: AtomicUsize::new(new), sifting: Sifting::default() })
    }

    pub(super) fn is_made(&self) -> bool {
        self.made.load(Ordering::Acquire)
    }

    /// So many searches for contents follow. Answers whether it helps to [prepare](Clues::prepare) for them.
    pub(super) fn announce(&self, searches: usize, files: u64) -> bool {
        self.is_made() && self.sifting.announce(searches, files)
    }

    /// If not, no file has this content.
    pub(super) fn may_have(&self, digest: &Digest) -> bool {
        self.sifting.may_have(key_of(digest))
    }
}

/// The clues of one transaction.
#[derive(Debug)]
pub(super) struct Clues<'a> {
    searching: &'a Searching,
    made: bool,
    new: usize,
    found: Vec<(Kind, Clue)>,
    gone: Vec<(Kind, Clue)>,
}

impl<'a> Clues<'a> {
    /// To be called by whoever may write.
    pub(super) fn begin(searching: &'a Searching) -> Self {
        let new = searching.new.load(Ordering::Relaxed);
        Self { searching, made: searching.is_made(), new, found: Vec::new(), gone: Vec::new() }
    }

    /// A node is there.
    pub(super) fn enter(&mut self, node: &IndexedNode) {
        if self.made {
            self.found.extend([inode_of(node), content_of(node)].into_iter().flatten());
        }
    }

    /// A node is not as it was.
    pub(super) fn change(&mut self, old: &IndexedNode, new: &IndexedNode) {
        if self.made {
            let inode = inode_of(new).filter(|_| old.identity.ino != new.identity.ino);
            let content = content_of(new).filter(|_| old.node.entry.content != new.node.entry.content);
            self.found.extend([inode, content].into_iter().flatten());
        }
    }

    /// A node is there no more. Where files come and go under numbers that are used again, its clues would be in the way.
    pub(super) fn leave(&mut self, node: &IndexedNode) {
        if self.made {
            self.gone.extend([inode_of(node), content_of(node)].into_iter().flatten());
        }
    }

    /// Prepares for many searches for contents that no file has.
    pub(super) fn prepare(&mut self, db: &Connection) -> rusqlite::Result<()> {
        if self.made {
            self.searching.sifting.begin(sieve_of_contents(db, self.new)?);
        }
        Ok(())
    }

    /// Makes them of all nodes.
    pub(super) fn make(&mut self, db: &Connection) -> rusqlite::Result<()> {
        self.searching.sifting.end();
        make(db)?;
        (self.made, self.new) = (true, 0);
        self.found.clear();
        self.gone.clear();
        Ok(())
    }

    /// Removes all, and keeps none until they are made again.
    pub(super) fn remove(&mut self, db: &Connection) -> rusqlite::Result<()> {
        self.searching.sifting.end();
        remove(db)?;
        (self.made, self.new) = (false, 0);
        self.found.clear();
        self.gone.clear();
        Ok(())
    }

    /// Writes them, at the end of the transaction, which leaves so many files.
    pub(super) fn settle(&mut self, db: &Connection, files: u64) -> rusqlite::Result<()> {
        let (mut found, gone) = (mem::take(&mut self.found), mem::take(&mut self.gone));
        if !gone.is_empty() {
            self.new = self.new.saturating_sub(take_from_new(db, &gone)?);
        }
        if found.is_empty() {
            return Ok(());
        }
        let contents = found.iter().filter(|(kind, _)| *kind == Kind::Content);
        self.searching.sifting.add(contents.map(|(_, clue)| clue.key));
        found.sort_unstable();
        found.dedup();
        let most = (files / 8).clamp(FEW_NEW, MANY_NEW);
        if (self.new + found.len()) as u64 <= most {
            self.new += add_new(db, &found)?;
            return Ok(());
        }
        for kind in Kind::ALL {
            let clues = found.iter().filter(|(of, _)| *of == kind).map(|(_, clue)| *clue);
            merge(db, kind, &with_new(db, kind, clues)?)?;
        }
        db.execute("DELETE FROM new_clues", [])?;
        self.new = 0;
        if are_too_many(db)? { self.make(db) } else { Ok(()) }
    }

    /// The transaction is committed, and nobody else has begun another.
    pub(super) fn committed(&self) {
        self.searching.new.store(self.new, Ordering::Relaxed);
        self.searching.made.store(self.made, Ordering::Release);
    }
}

fn inode_of(node: &IndexedNode) -> Option<(Kind, Clue)> {
    let ino = node.identity.ino;
    (ino != 0).then(|| (Kind::Inode, Clue { key: ino.cast_signed(), id: node.node.id.0.cast_signed() }))
}

fn content_of(node: &IndexedNode) -> Option<(Kind, Clue)> {
    let Content::File { digest, .. } = &node.node.entry.content else { return None };
    Some((Kind::Content, Clue { key: key_of(digest), id: node.node.id.0.cast_signed() }))
}

/// The nodes that may have this inode number.
pub(super) fn with_inode(db: &Connection, ino: u64) -> rusqlite::Result<Vec<NodeId>> {
    with_key(db, Kind::Inode, ino.cast_signed())
}

/// Files that may have this content, the newest first.
pub(super) fn with_digest(db: &Connection, digest: &Digest) -> rusqlite::Result<Vec<NodeId>> {
    with_key(db, Kind::Content, key_of(digest))
}

/// The inode numbers from the first to the last that nodes may have, in order; `None` if they are as many as `most`.
pub(super) fn inodes_between(
    db: &Connection,
    (first, last): (i64, i64),
    most: usize,
) -> rusqlite::Result<Option<Vec<i64>>> {
    let new =
        "SELECT DISTINCT key FROM new_clues WHERE kind = ?1 AND key BETWEEN ?2 AND ?3 ORDER BY key LIMIT ?4";
    let mut inodes: Vec<i64> = db
        .prepare_cached(new)?
        .query_map(params![Kind::Inode.number(), first, last, most as i64], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    let runs = "SELECT clues FROM inode_runs WHERE first <= ?2 \
                AND first >= coalesce((SELECT max(first) FROM inode_runs WHERE first <= ?1), ?1) ORDER BY first";
    let mut runs = db.prepare_cached(runs)?;
    let mut runs = runs.query([first, last])?;
    while inodes.len() < most
        && let Some(run) = runs.next()?
    {
        let keys = clues_in(run.get_ref(0)?.as_blob()?).map(|clue| clue.key);
        inodes.extend(keys.filter(|key| (first..=last).contains(key)));
        // Many nodes may have been of one inode.
        inodes.sort_unstable();
        inodes.dedup();
    }
    Ok((inodes.len() < most).then_some(inodes))
}

const NEW_WITH_KEY: &str = "SELECT id FROM new_clues WHERE kind = ?1 AND key = ?2 ORDER BY id DESC LIMIT ?3";

fn with_key(db: &Connection, kind: Kind, key: i64) -> rusqlite::Result<Vec<NodeId>> {
    let mut ids: Vec<i64> = db
        .prepare_cached(NEW_WITH_KEY)?
        .query_map(params![kind.number(), key, kind.most_alike() as i64], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    let run = match kind {
        Kind::Inode => "SELECT clues FROM inode_runs WHERE first <= ?1 ORDER BY first DESC LIMIT 1",
        Kind::Content => "SELECT clues FROM content_runs WHERE first <= ?1 ORDER BY first DESC LIMIT 1",
    };
    db.prepare_cached(run)?
        .query_row([key], |row| {
            let clues = clues_in(row.get_ref(0)?.as_blob()?);
            ids.extend(clues.filter(|clue| clue.key == key).map(|clue| clue.id));
            Ok(())
        })
        .optional()?;
    ids.sort_unstable_by(|one, other| other.cmp(one));
    ids.dedup();
    ids.truncate(kind.most_alike());
    Ok(ids.into_iter().map(|id| NodeId(id.cast_unsigned())).collect())
}

/// The tables come and go together, and the index by change with them.
fn are_made(db: &Connection) -> rusqlite::Result<bool> {
    let tables = "SELECT count(*) FROM sqlite_master WHERE type = 'table' \
                  AND name IN ('new_clues', 'inode_runs', 'content_runs')";
    Ok(count(db, tables)? == 3)
}

fn remove(db: &Connection) -> rusqlite::Result<()> {
    db.execute_batch(
        "DROP TABLE IF EXISTS new_clues; DROP TABLE IF EXISTS inode_runs; DROP TABLE IF EXISTS content_runs;",
    )
}

fn make(db: &Connection) -> rusqlite::Result<()> {
    remove(db)?;
    db.execute_batch(
        "CREATE TABLE new_clues (kind INTEGER NOT NULL, key INTEGER NOT NULL, id INTEGER NOT NULL,
             PRIMARY KEY (kind, key, id)) STRICT, WITHOUT ROWID;
         CREATE TABLE inode_runs (first INTEGER PRIMARY KEY, clues BLOB NOT NULL) STRICT;
         CREATE TABLE content_runs (first INTEGER PRIMARY KEY, clues BLOB NOT NULL) STRICT;",
    )?;
    let (mut inodes, mut contents) = (Vec::new(), Vec::new());
    let mut nodes =
        db.prepare("SELECT id, ino, CASE kind WHEN 1 THEN content END FROM nodes WHERE kind <> 0")?;
    let mut nodes = nodes.query([])?;
    while let Some(node) = nodes.next()? {
        let id = node.get(0)?;
        inodes.extend(node.get::<_, Option<i64>>(1)?.map(|key| Clue { key, id }));
        let digest = node.get_ref(2)?.as_blob_or_null()?.and_then(Digest::from_slice);
        contents.extend(digest.map(|digest| Clue { key: key_of(&digest), id }));
    }
    for (kind, clues) in [(Kind::Inode, inodes), (Kind::Content, contents)] {
        write(db, kind, &in_order(kind, clues), RUN)?;
    }
    Ok(())
}

/// Clues in order, of each key not more than are kept.
fn in_order(kind: Kind, mut clues: Vec<Clue>) -> Vec<Clue> {
    clues.sort_unstable();
    clues.dedup();
    let most = kind.most_alike();
    if clues.len() <= most {
        return clues;
    }
    let is_kept = |(at, clue): (usize, &Clue)| clues.get(at + most).is_none_or(|later| later.key != clue.key);
    clues.iter().enumerate().filter(|clue| is_kept(*clue)).map(|(_, clue)| *clue).collect()
}

/// Answers how many of them were there.
fn take_from_new(db: &Connection, gone: &[(Kind, Clue)]) -> rusqlite::Result<usize> {
    let mut take = db.prepare_cached("DELETE FROM new_clues WHERE kind = ?1 AND key = ?2 AND id = ?3")?;
    gone.iter().map(|(kind, clue)| take.execute([kind.number(), clue.key, clue.id])).sum()
}

impl Row<3> for (Kind, Clue) {
    fn values(&self) -> [ValueRef<'_>; 3] {
        let (kind, clue) = self;
        [kind.number(), clue.key, clue.id].map(ValueRef::Integer)
    }
}

static NEW_CLUES: LazyLock<Additions> = LazyLock::new(|| Additions::to::<3>("new_clues"));

/// Answers how many of them were not there.
fn add_new(db: &Connection, found: &[(Kind, Clue)]) -> rusqlite::Result<usize> {
    let mut adder = NEW_CLUES.on(db)?;
    let mut new = adder.add_each(found)?;
    // Where one was there, others mostly were.
    for clue in &found[new..] {
        new += usize::from(adder.add(clue)?);
    }
    Ok(new)
}

/// A sieve with the keys of all contents, if they are not too many. So many clues of both kinds are new.
fn sieve_of_contents(db: &Connection, new: usize) -> rusqlite::Result<Option<Sieve>> {
    let keys = in_runs(db, Kind::Content)? + new;
    let Some(mut sieve) = Sieve::with_room_for(keys as u64) else { return Ok(None) };
    let mut runs = db.prepare_cached("SELECT clues FROM content_runs")?;
    let mut runs = runs.query([])?;
    while let Some(run) = runs.next()? {
        clues_in(run.get_ref(0)?.as_blob()?).for_each(|clue| sieve.add(clue.key));
    }
    let mut new = db.prepare_cached("SELECT key FROM new_clues WHERE kind = ?1")?;
    let mut new = new.query([Kind::Content.number()])?;
    while let Some(clue) = new.next()? {
        sieve.add(clue.get(0)?);
    }
    Ok(Some(sieve))
}

/// These and those that are among the new ones, in order.
fn with_new(db: &Connection, kind: Kind, clues: impl Iterator<Item = Clue>) -> rusqlite::Result<Vec<Clue>> {
    let mut new: Vec<Clue> = db
        .prepare_cached("SELECT key, id FROM new_clues WHERE kind = ?1")?
        .query_map([kind.number()], |row| Ok(Clue { key: row.get(0)?, id: row.get(1)? }))?
        .collect::<rusqlite::Result<_>>()?;
    new.extend(clues);
    new.sort_unstable();
    new.dedup();
    Ok(new)
}

/// Brings clues, which are in order, into the runs that they belong to.
fn merge(db: &Connection, kind: Kind, clues: &[Clue]) -> rusqlite::Result<()> {
    let runs = kind.runs();
    let firsts: Vec<i64> = db
        .prepare_cached(&format!("SELECT first FROM {runs} ORDER BY first"))?
        .query_map([], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    let mut read = db.prepare_cached(&format!("SELECT clues FROM {runs} WHERE first = ?1"))?;
    let mut delete = db.prepare_cached(&format!("DELETE FROM {runs} WHERE first = ?1"))?;
    let mut rest = clues;
    while let Some(next) = rest.first() {
        // What comes before the first run goes into that.
        let at = firsts.partition_point(|first| *first <= next.key).saturating_sub(1);
        let end = firsts.get(at + 1);
        let here = end.map_or(rest.len(), |end| rest.partition_point(|clue| clue.key < *end));
        let (new, others) = rest.split_at(here);
        let mut run = Vec::with_capacity(new.len() + MOST_IN_RUN);
        if let Some(first) = firsts.get(at) {
            read.query_row([first], |row| {
                run.extend(clues_in(row.get_ref(0)?.as_blob()?));
                Ok(())
            })?;
            delete.execute([first])?;
        }
        run.extend(new);
        write(db, kind, &in_order(kind, run), MOST_IN_RUN)?;
        rest = others;
    }
    Ok(())
}

/// Writes clues, which are in order, as runs of about the same length, with at most so many unless their keys are all the same:
/// a key is in one run.
fn write(db: &Connection, kind: Kind, clues: &[Clue], most: usize) -> rusqlite::Result<()> {
    let mut insert = db.prepare_cached(&format!("INSERT INTO {} VALUES (?1, ?2)", kind.runs()))?;
    let length = clues.len().div_ceil(clues.len().div_ceil(most).max(1));
    let mut rest = clues;
    while let Some(first) = rest.first() {
        let (run, others) = rest.split_at(end_of_run(rest, length));
        let bytes: Vec<u8> =
            run.iter().flat_map(|clue| [clue.key, clue.id]).flat_map(i64::to_le_bytes).collect();
        insert.execute(params![first.key, bytes])?;
        rest = others;
    }
    Ok(())
}

/// Where to end a run of about this length.
fn end_of_run(clues: &[Clue], length: usize) -> usize {
    let Some(last) = clues.get(length.saturating_sub(1)) else { return clues.len() };
    clues.partition_point(|clue| clue.key <= last.key)
}

fn clues_in(run: &[u8]) -> impl Iterator<Item = Clue> {
    let number = |bytes: &[u8]| i64::from_le_bytes(bytes.try_into().unwrap_or_default());
    run.chunks_exact(16).map(move |clue| Clue { key: number(&clue[..8]), id: number(&clue[8..]) })
}

/// Whether more than every other leads nowhere.
fn are_too_many(db: &Connection) -> rusqlite::Result<bool> {
    let clues = in_runs(db, Kind::Inode)? + in_runs(db, Kind::Content)?;
    // A file has two.
    let all = count(db, "SELECT count(*) FROM nodes")?;
    let fit = 4 * all.saturating_sub(count(db, "SELECT count(*) FROM nodes WHERE gone_at IS NOT NULL")?);
    Ok(clues > fit + FEW_NEW as usize)
}

/// How many clues are in the runs.
fn in_runs(db: &Connection, kind: Kind) -> rusqlite::Result<usize> {
    count(db, &format!("SELECT coalesce(sum(length(clues)), 0) / 16 FROM {}", kind.runs()))
}

fn count(db: &Connection, sql: &str) -> rusqlite::Result<usize> {
    db.prepare_cached(sql)?
        .query_row([], |row| row.get::<_, i64>(0))
        .map(|count| count.unsigned_abs() as usize)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use sync_core::{Entry, Name, Node, Time};
    use sync_testkit::rng::Rng;

    use super::*;
    use crate::{
        hash::Identity,
        index::{Index, IndexError},
    };

    fn searchable() -> (tempfile::TempDir, Index) {
        let dir = tempfile::tempdir().unwrap();
        let index = Index::open(&dir.path().join("index.db")).unwrap();
        index.make_searchable().unwrap();
        (dir, index)
    }

    /// A few inodes and contents for many files, so that many have the same.
    fn file(index: &Index, rng: &mut Rng, name: usize) -> IndexedNode {
        let content = rng.below(40);
        let content = Content::File { size: 1, digest: Digest::of(&[content as u8]) };
        let entry = Entry { content, mtime: Time::default(), mode: 0 };
        let name = Name::new(&name.to_string()).unwrap();
        let id = index.new_id().unwrap();
        let ino = (rng.below(60) as u64).wrapping_sub(5);
        let identity = Identity { ino, ..Identity::default() };
        IndexedNode { node: Node { id, parent: NodeId::ROOT, name, entry }, identity, vouched: true }
    }

    fn digest(node: &IndexedNode) -> Digest {
        match &node.node.entry.content {
            Content::File { digest, .. } => *digest,
            other => panic!("{other:?}"),
        }
    }

    /// Everything that can be asked, against what is there.
    fn check(index: &Index, there: &BTreeMap<usize, IndexedNode>) {
        let ids =
            |found: Vec<IndexedNode>| -> BTreeSet<NodeId> { found.iter().map(|row| row.node.id).collect() };
        for ino in (0..60u64).map(|ino| ino.wrapping_sub(5)).filter(|ino| *ino != 0) {
            let have = there.values().filter(|row| row.identity.ino == ino).map(|row| row.node.id);
            assert_eq!(ids(index.with_inode(ino).unwrap()), have.collect(), "inode {ino}");
        }
        for content in 0..40u8 {
            let wanted = Digest::of(&[content]);
            let have = there.values().filter(|row| digest(row) == wanted).map(|row| row.node.id);
            assert!(have.clone().next().is_none() || index.may_have(&wanted), "{content}");
            assert_eq!(ids(index.with_digest(&wanted, usize::MAX).unwrap()), have.collect(), "{content}");
        }
        let ranges = [(-5, 60), (3, 9), (20, 20), (100, 200)];
        for ((first, last), most) in
            ranges.into_iter().flat_map(|range| [(range, 1000), (range, 6), (range, 30)])
        {
            let Some(told) = index.read(|db| inodes_between(db, (first, last), most)).unwrap() else {
                assert!(most < 1000);
                continue;
            };
            assert!(told.len() < most);
            assert!(told.is_sorted() && told.iter().all(|ino| (first..=last).contains(ino)), "{told:?}");
            let known = there.values().map(|row| row.identity.ino.cast_signed()).filter(|ino| *ino != 0);
            for ino in known.filter(|ino| (first..=last).contains(ino)) {
                assert!(told.contains(&ino), "{ino} between {first} and {last}");
            }
        }
    }

    fn runs(index: &Index) -> Vec<Vec<Clue>> {
        let all = Kind::ALL.map(|kind| format!("SELECT clues, first FROM {} ORDER BY first", kind.runs()));
        let read = |sql: &String| {
            index
                .read(|db| {
                    let mut rows = db.prepare(sql)?;
                    let rows = rows.query_map([], |row| {
                        let clues: Vec<Clue> = clues_in(row.get_ref(0)?.as_blob()?).collect();
                        assert_eq!(clues.first().map(|clue| clue.key), Some(row.get(1)?));
                        Ok(clues)
                    })?;
                    rows.collect::<rusqlite::Result<Vec<_>>>()
                })
                .unwrap()
        };
        all.iter().flat_map(read).collect()
    }

    #[test]
    fn those_that_are_new_are_counted_wherever_some_are_there() {
        for there in (0..40).map(|at| at..at + 1).chain([0..40, 3..20, 16..32]) {
            let (_dir, index) = searchable();
            let all: Vec<_> = (0..40).map(|key| (Kind::Content, Clue { key, id: 7 })).collect();
            let write = index.write(|tx| {
                assert_eq!(add_new(tx.sql(), &all[there.clone()])?, there.len());
                assert_eq!(add_new(tx.sql(), &all)?, all.len() - there.len(), "{there:?}");
                assert_eq!(count(tx.sql(), "SELECT count(*) FROM new_clues")?, all.len());
                Ok::<_, IndexError>(())
            });
            write.unwrap();
        }
    }

    /// However nodes come, change and go, in many transactions or few, some of them given up, with restarts: what is there is
    /// found, and nothing else is.
    #[test]
    fn what_is_there_is_found_whatever_happened() {
        for seed in 0..12 {
            let mut rng = Rng::new(seed);
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("index.db");
            let mut index = Index::open(&path).unwrap();
            let mut there: BTreeMap<usize, IndexedNode> = BTreeMap::new();
            for step in 0..120 {
                let before = there.clone();
                let given_up = rng.below(10) == 0;
                let done = index.write(|tx| {
                    for _ in 0..rng.below(12) {
                        let name = rng.below(50);
                        let new = file(&index, &mut rng, name);
                        match there.get(&name).cloned() {
                            Some(old) if rng.below(4) == 0 => {
                                tx.remove(&old)?;
                                there.remove(&name);
                            }
                            Some(old) => {
                                let mut new =
                                    IndexedNode { node: Node { id: old.node.id, ..new.node }, ..new };
                                match rng.below(3) {
                                    0 => new.node = old.node.clone(),
                                    1 => new.identity = old.identity,
                                    _ => {}
                                }
                                tx.update(&old, &new)?;
                                there.insert(name, new);
                            }
                            None if rng.below(2) == 0 => {
                                tx.insert(&new)?;
                                there.insert(name, new);
                            }
                            None => {
                                assert_eq!(tx.insert_each_new_if_free(&[&new])?, 1);
                                there.insert(name, new);
                            }
                        }
                    }
                    if given_up { Err(IndexError::Exhausted) } else { Ok(()) }
                });
                if given_up {
                    assert!(done.is_err());
                    there = before;
                } else {
                    done.unwrap();
                }
                match rng.below(20) {
                    0 => {
                        drop(index);
                        index = Index::open(&path).unwrap();
                    }
                    1 => {
                        index.begin_bulk().unwrap();
                        assert_eq!(index.is_searchable(), !there.is_empty());
                    }
                    2..5 => index.prepare_searches(1000).unwrap(),
                    _ => {}
                }
                if step % 5 == 0 {
                    check(&index, &there);
                }
            }
            check(&index, &there);
            let clues: usize = runs(&index).iter().map(Vec::len).sum();
            // All files were there at some time since the last of them was made anew.
            assert!(clues <= 4 * 51 + FEW_NEW as usize, "{clues} clues");
        }
    }

    /// A key is in one run, or it would be missed.
    #[test]
    fn runs_are_in_order_and_part_no_key() {
        let (_dir, index) = searchable();
        let mut rng = Rng::new(1);
        for _ in 0..60 {
            let clues: BTreeSet<Clue> = (0..rng.below(30))
                .map(|_| Clue { key: rng.below(20) as i64 - 10, id: rng.below(50) as i64 })
                .collect();
            let write = index.write(|tx| {
                merge(tx.sql(), Kind::Inode, &clues.iter().copied().collect::<Vec<_>>())?;
                Ok::<_, IndexError>(())
            });
            write.unwrap();
            let runs = runs(&index);
            let all: Vec<Clue> = runs.iter().flatten().copied().collect();
            assert!(all.is_sorted_by(|one, next| one < next), "{runs:?}");
            assert!(clues.iter().all(|clue| all.binary_search(clue).is_ok()), "{runs:?}");
            let parted = runs.windows(2).find(|two| two[0].last().unwrap().key == two[1][0].key);
            assert_eq!(parted, None);
            let long = runs.iter().find(|run| {
                run.len() > MOST_IN_RUN && run[0].key != run[run.len() - 1].key && {
                    let last = run[run.len() - 1].key;
                    run.iter().filter(|clue| clue.key != last).count() >= MOST_IN_RUN
                }
            });
            assert_eq!(long, None);
        }
    }

    /// The first runs of a range may have the same inodes again and again.
    #[test]
    fn an_inode_of_many_nodes_hides_no_other() {
        let (_dir, index) = searchable();
        let clues: Vec<Clue> = (0..10).flat_map(|key| (0..9).map(move |id| Clue { key, id })).collect();
        index
            .write(|tx| {
                add_new(tx.sql(), &[(Kind::Inode, Clue { key: 0, id: 20 })])?;
                Ok::<_, IndexError>(merge(tx.sql(), Kind::Inode, &clues)?)
            })
            .unwrap();
        let told = |last, most| index.read(|db| inodes_between(db, (0, last), most)).unwrap();
        assert_eq!(told(9, 11), Some((0..10).collect()));
        assert_eq!(told(5, 7), Some((0..6).collect()));
        assert_eq!((told(9, 10), told(9, 2)), (None, None));
    }

    /// Empty files are all alike, and asking for one must not cost what all of them do.
    #[test]
    fn of_a_content_that_many_files_have_some_are_known() {
        let dir = tempfile::tempdir().unwrap();
        let index = Index::open(&dir.path().join("index.db")).unwrap();
        let mut rng = Rng::new(3);
        let mut alike = |name: usize| {
            let mut node = file(&index, &mut rng, name);
            node.node.entry.content = Content::File { size: 0, digest: Digest::of(b"") };
            node
        };
        let files: Vec<_> = (0..300).map(&mut alike).collect();
        let insert = |files: &[IndexedNode]| {
            index.write(|tx| files.iter().try_for_each(|file| tx.insert(file))).unwrap();
        };
        insert(&files[..200]);
        index.make_searchable().unwrap();
        files[200..].chunks(7).for_each(insert);
        let found = index.with_digest(&Digest::of(b""), 1000).unwrap();
        assert_eq!(found.len(), MOST_ALIKE);
        assert_eq!(found[0].node.id, files[299].node.id, "the newest");
        let longest = runs(&index).iter().map(Vec::len).max();
        assert!(longest.is_some_and(|longest| longest <= MOST_IN_RUN + MOST_ALIKE), "{longest:?}");
    }

    /// What is bound to a statement is what SQLite makes another plan for, if it is let, and this is asked for each file.
    #[test]
    fn a_search_is_compiled_once_whatever_is_bound_to_it() {
        let (_dir, index) = searchable();
        let compiled_again = |db: &Connection| {
            for key in [0, 1, 7] {
                for kind in Kind::ALL {
                    with_key(db, kind, key)?;
                }
            }
            // The cache has the very statement.
            Ok(db.prepare_cached(NEW_WITH_KEY)?.get_status(rusqlite::StatementStatus::RePrepare))
        };
        assert_eq!(index.read(compiled_again).unwrap(), 0, "a reader's");
        let written = index.write(|tx| compiled_again(tx.sql()).map_err(IndexError::from));
        assert_eq!(written.unwrap().0, 0, "the writer's");
    }

    /// Files that come and go have the same inode numbers again and again.
    #[test]
    fn what_comes_and_goes_leaves_no_clues() {
        let (_dir, index) = searchable();
        let mut rng = Rng::new(4);
        for _ in 0..500 {
            let mut lock = file(&index, &mut rng, 0);
            lock.identity.ino = 7;
            index.write(|tx| tx.insert(&lock)).unwrap();
            index.write(|tx| tx.remove(&lock)).unwrap();
        }
        let clues: usize = runs(&index).iter().map(Vec::len).sum();
        let new = index.read(|db| count(db, "SELECT count(*) FROM new_clues")).unwrap();
        assert!(clues + new < 20, "{clues} {new}");
    }

    /// What leads nowhere does not grow without end.
    #[test]
    fn clues_that_lead_nowhere_go() {
        let (_dir, index) = searchable();
        let mut rng = Rng::new(2);
        let first = file(&index, &mut rng, 0);
        index.write(|tx| tx.insert(&first)).unwrap();
        let mut old = first;
        for at in 1..=2000u64 {
            let mut new = old.clone();
            new.identity.ino = at;
            new.node.entry.content = Content::File { size: 8, digest: Digest::of(&at.to_le_bytes()) };
            index.write(|tx| tx.update(&old, &new)).unwrap();
            old = new;
        }
        let clues: usize = runs(&index).iter().map(Vec::len).sum();
        assert!(clues < 100, "{clues}");
        assert_eq!(index.with_inode(2000).unwrap().len(), 1);
        assert!(index.with_inode(1999).unwrap().is_empty());
    }
}
