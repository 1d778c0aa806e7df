//! What tells a look that nothing in a directory has changed, without reading a row of it.
//!
//! Nearly always nearly all files are as they were, and reading their rows is a fifth of finding that out. So the *sheet* of a
//! directory has one number for each of its files, a [`Mark`], made of the name and of all that a look compares. A file whose
//! mark is on the sheet is as known; what has none is looked up by its name. Invariants:
//!
//! * There is no sheet, or it says what the rows of the directory say: whatever changes a row in a transaction changes the
//!   sheet in it, or takes it away. What does not fit together takes it away too.
//! * A new directory begins with an empty one. Where there is none it is made by the next look, which has to read the rows.
//! * Only small directories have one, so a change costs the same however much is in a directory.

use std::{
    collections::{HashMap, hash_map::Entry},
    hash::Hasher as _,
};

use rusqlite::{Connection, OptionalExtension as _, params};
use siphasher::sip::SipHasher13;
use sync_core::NodeId;

use super::table::{IndexedNode, NodeTable, Sketch};
use crate::hash::Identity;

/// Directories that hold more have no sheet.
pub(crate) const MOST_ON_SHEET: usize = 512;

/// A number for a file's name and all that a look compares of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Mark(u64);

/// Makes marks. Two files have the same by chance only: the key is the index's own, and nobody else knows it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Marker([u8; 16]);

impl Marker {
    pub(crate) const fn new(key: [u8; 16]) -> Self {
        Self(key)
    }

    /// The mark of a file that is vouched for, and of nothing else.
    pub(crate) fn mark(self, name: &str, seen: &Sketch) -> Option<Mark> {
        if !seen.is_file || !seen.vouched {
            return None;
        }
        let mut hasher = SipHasher13::new_with_key(&self.0);
        let Identity { ino, size, mtime, ctime } = seen.identity;
        for number in [ino, size] {
            hasher.write_u64(number);
        }
        for time in [mtime, ctime] {
            hasher.write_i64(time.secs);
            hasher.write_u32(time.nanos);
        }
        hasher.write_u16(seen.mode);
        hasher.write(name.as_bytes());
        Some(Mark(hasher.finish()))
    }
}

/// What is known of the files in one directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sheet {
    /// How many nodes the directory has, of all kinds.
    nodes: usize,
    /// In order.
    marks: Vec<Mark>,
}

impl Sheet {
    /// How many nodes the directory has, of all kinds.
    pub(crate) fn nodes(&self) -> usize {
        self.nodes
    }

    pub(crate) fn has(&self, mark: Mark) -> bool {
        self.marks.binary_search(&mark).is_ok()
    }

    /// A node is in the directory now. Answers whether it still has room.
    fn add(&mut self, mark: Option<Mark>) -> bool {
        self.nodes += 1;
        if let Some(mark) = mark {
            let (Ok(at) | Err(at)) = self.marks.binary_search(&mark);
            self.marks.insert(at, mark);
        }
        self.nodes <= MOST_ON_SHEET
    }

    /// A node is in the directory no more. Answers whether that fits.
    fn take(&mut self, mark: Option<Mark>) -> bool {
        let Some(left) = self.nodes.checked_sub(1) else { return false };
        self.nodes = left;
        match mark.map(|mark| self.marks.binary_search(&mark)) {
            Some(Ok(at)) => drop(self.marks.remove(at)),
            Some(Err(_)) => return false,
            None => (),
        }
        self.marks.len() <= self.nodes
    }

    fn to_bytes(&self) -> Vec<u8> {
        let nodes = self.nodes as u64;
        std::iter::once(nodes)
            .chain(self.marks.iter().map(|mark| mark.0))
            .flat_map(u64::to_le_bytes)
            .collect()
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut numbers =
            bytes.chunks_exact(8).map(|number| u64::from_le_bytes(number.try_into().unwrap_or_default()));
        let nodes = usize::try_from(numbers.next()?).ok()?;
        Some(Self { nodes, marks: numbers.map(Mark).collect() })
    }
}

pub(super) fn create(db: &Connection) -> rusqlite::Result<()> {
    db.execute_batch("CREATE TABLE sheets (id INTEGER PRIMARY KEY, sheet BLOB NOT NULL) STRICT;")
}

/// The sheet of a directory, if it has one.
pub(crate) fn sheet(db: &Connection, dir: NodeId) -> rusqlite::Result<Option<Sheet>> {
    let mut statement = db.prepare_cached("SELECT sheet FROM sheets WHERE id = ?1")?;
    let sheet =
        statement.query_row([dir.0.cast_signed()], |row| Ok(Sheet::from_bytes(row.get_ref(0)?.as_blob()?)));
    Ok(sheet.optional()?.flatten())
}

/// What the sheet of a directory has to be, if it may have one.
fn read_off(
    db: &Connection,
    table: &NodeTable,
    marker: Marker,
    dir: NodeId,
) -> rusqlite::Result<Option<Sheet>> {
    let mut sheet = Sheet { nodes: 0, marks: Vec::new() };
    table.children_unless(db, dir, |name, sketch| {
        sheet.nodes += 1;
        sheet.marks.extend(marker.mark(name, sketch));
        true
    })?;
    sheet.marks.sort_unstable();
    Ok((sheet.nodes <= MOST_ON_SHEET).then_some(sheet))
}

fn delete(db: &Connection, dir: NodeId) -> rusqlite::Result<()> {
    db.prepare_cached("DELETE FROM sheets WHERE id = ?1")?.execute([dir.0.cast_signed()])?;
    Ok(())
}

/// The sheets that one transaction touches.
#[derive(Debug)]
pub(super) struct Sheets {
    marker: Marker,
    touched: HashMap<NodeId, Touched>,
}

#[derive(Debug)]
struct Touched {
    sheet: Option<Sheet>,
    changed: bool,
}

impl Sheets {
    pub(super) fn new(marker: Marker) -> Self {
        Self { marker, touched: HashMap::new() }
    }

    /// A node appears in its directory.
    pub(super) fn enter(&mut self, db: &Connection, node: &IndexedNode) -> rusqlite::Result<()> {
        self.change(db, node, Sheet::add)
    }

    /// A node leaves its directory, or is about to change there.
    pub(super) fn leave(&mut self, db: &Connection, node: &IndexedNode) -> rusqlite::Result<()> {
        self.change(db, node, Sheet::take)
    }

    fn change(
        &mut self,
        db: &Connection,
        row: &IndexedNode,
        change: fn(&mut Sheet, Option<Mark>) -> bool,
    ) -> rusqlite::Result<()> {
        let marker = self.marker;
        let touched = self.touch(db, row.node.parent)?;
        if let Some(sheet) = &mut touched.sheet {
            touched.changed = true;
            if !change(sheet, marker.mark(&row.node.name, &row.sketch())) {
                touched.sheet = None;
            }
        }
        Ok(())
    }

    /// The directory is new, and nothing is in it yet.
    pub(super) fn begin(&mut self, dir: NodeId) {
        let sheet = Some(Sheet { nodes: 0, marks: Vec::new() });
        self.touched.insert(dir, Touched { sheet, changed: true });
    }

    /// The directory is gone, or is one no more.
    pub(super) fn forget(&mut self, db: &Connection, dir: NodeId) -> rusqlite::Result<()> {
        self.touched.remove(&dir);
        delete(db, dir)
    }

    /// Makes the sheet of a directory from its rows.
    pub(super) fn make(&mut self, db: &Connection, table: &NodeTable, dir: NodeId) -> rusqlite::Result<()> {
        self.touched.insert(dir, Touched { sheet: read_off(db, table, self.marker, dir)?, changed: true });
        Ok(())
    }

    /// Writes down what has changed.
    pub(super) fn settle(&mut self, db: &Connection, table: &NodeTable) -> rusqlite::Result<()> {
        for (dir, touched) in self.touched.drain().filter(|(_, touched)| touched.changed) {
            let Some(sheet) = touched.sheet else {
                delete(db, dir)?;
                continue;
            };
            debug_assert_eq!(read_off(db, table, self.marker, dir)?.as_ref(), Some(&sheet), "{dir:?}");
            db.prepare_cached(
                "INSERT INTO sheets VALUES (?1, ?2) ON CONFLICT (id) DO UPDATE SET sheet = ?2",
            )?
            .execute(params![dir.0.cast_signed(), sheet.to_bytes()])?;
        }
        Ok(())
    }

    fn touch(&mut self, db: &Connection, dir: NodeId) -> rusqlite::Result<&mut Touched> {
        Ok(match self.touched.entry(dir) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => place.insert(Touched { sheet: sheet(db, dir)?, changed: false }),
        })
    }
}

#[cfg(test)]
mod tests {
    use sync_core::{Content, Digest, Entry as NodeEntry, Name, Node, Time};
    use sync_testkit::rng::Rng;

    use super::*;
    use crate::index::{Index, IndexError};

    fn row(id: NodeId, parent: NodeId, name: &str, content: Content) -> IndexedNode {
        let mtime = Time { secs: 5, nanos: 6 };
        let entry = NodeEntry { content, mtime, mode: 0o644 };
        let node = Node { id, parent, name: Name::new(name).unwrap(), entry };
        let size = node.entry.content.size();
        let identity = Identity { ino: id.0, size, mtime, ctime: Time { secs: 7, nanos: 8 } };
        IndexedNode { node, identity, vouched: true }
    }

    fn file(id: NodeId, parent: NodeId, name: &str) -> IndexedNode {
        row(id, parent, name, Content::File { size: id.0 % 9, digest: Digest::of(&id.0.to_le_bytes()) })
    }

    fn directories(index: &Index) -> Vec<NodeId> {
        let ids = "SELECT id FROM nodes WHERE kind = 2";
        let ids = index.read(|db| db.prepare(ids)?.query_map([], |row| row.get::<_, i64>(0))?.collect());
        let ids: Vec<i64> = ids.unwrap();
        ids.into_iter().map(|id| NodeId(id.cast_unsigned())).collect()
    }

    #[test]
    fn all_that_is_compared_is_in_a_mark() {
        let known = file(NodeId(4), NodeId(1), "name");
        let marker = Marker::new([1; 16]);
        let mark = |change: fn(&mut Sketch)| {
            let mut sketch = known.sketch();
            change(&mut sketch);
            marker.mark("name", &sketch)
        };
        let changes: [fn(&mut Sketch); 9] = [
            |_| (),
            |sketch| sketch.mode = 0o645,
            |sketch| sketch.identity.ino += 1,
            |sketch| sketch.identity.size += 1,
            |sketch| sketch.identity.mtime.secs += 1,
            |sketch| sketch.identity.mtime.nanos += 1,
            |sketch| sketch.identity.ctime.secs += 1,
            |sketch| sketch.identity.ctime.nanos += 1,
            |sketch| sketch.identity.ctime.secs -= 1,
        ];
        let mut marks: Vec<_> = changes.into_iter().map(|change| mark(change).unwrap()).collect();
        marks.push(marker.mark("name ", &known.sketch()).unwrap());
        marks.push(Marker::new([2; 16]).mark("name", &known.sketch()).unwrap());
        let all = marks.len();
        marks.sort();
        marks.dedup();
        assert_eq!(marks.len(), all);
        assert_eq!(mark(|sketch| sketch.vouched = false), None);
        assert_eq!(mark(|sketch| sketch.is_file = false), None);
    }

    /// Whatever is done to the rows, each sheet says what they say; small directories have one once it was made.
    #[test]
    fn sheets_follow_the_rows() {
        let mut kept = 0;
        for seed in 0..200 {
            let tmp = tempfile::tempdir().unwrap();
            let index = Index::open(&tmp.path().join("x.db")).unwrap();
            let mut rng = Rng::new(seed);
            for _ in 0..12 {
                let work = |tx: &mut crate::index::IndexTx<'_>| {
                    for _ in 0..rng.below(12) {
                        step(tx, &mut rng)?;
                    }
                    Ok::<_, IndexError>(())
                };
                index.write(work).unwrap();
                kept += check(&index, seed);
            }
        }
        assert!(kept > 2000, "{kept} sheets are not enough to say anything");
    }

    fn step(tx: &mut crate::index::IndexTx<'_>, rng: &mut Rng) -> Result<(), IndexError> {
        let nodes: Vec<IndexedNode> = {
            let mut rows = tx.sql().prepare("SELECT id FROM nodes WHERE kind <> 0 AND id <> 0")?;
            let ids: Vec<i64> = rows.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
            ids.into_iter()
                .filter_map(|id| tx.get(NodeId(id.cast_unsigned())).transpose())
                .collect::<Result<_, _>>()?
        };
        let dirs: Vec<NodeId> = nodes
            .iter()
            .filter(|node| node.node.entry.content.is_dir())
            .map(|node| node.node.id)
            .chain([NodeId::ROOT])
            .collect();
        let dir = *rng.pick(&dirs).unwrap();
        let name = format!("name {}", rng.below(6));
        let is_free = tx.child(dir, &name)?.is_none();
        let picked = rng.pick(&nodes).cloned();
        match (rng.below(8), picked) {
            (0, _) => tx.make_sheet(dir)?,
            (1, _) if is_free => tx.insert(&row(tx.new_id()?, dir, &name, Content::Directory))?,
            (2 | 3, _) if is_free => tx.insert(&file(tx.new_id()?, dir, &name))?,
            (4, _) if rng.chance(50) => drop(tx.insert_if_free(&file(tx.new_id()?, dir, &name))?),
            (4, _) => insert_some(tx, rng, dir)?,
            (5, Some(old)) => {
                let mut new = old.clone();
                match rng.below(3) {
                    0 => new.vouched = !new.vouched,
                    1 => new.identity.ino += 1000,
                    _ => new.node.entry.mtime.secs += 1,
                }
                tx.update(&old, &new)?;
            }
            // Not into itself: no disk has that.
            (6, Some(old)) if is_free && !old.node.entry.content.is_dir() => {
                let mut new = old.clone();
                (new.node.parent, new.node.name) = (dir, Name::new(&name).unwrap());
                tx.update(&old, &new)?;
            }
            (7, Some(old)) if rng.chance(50) => drop(tx.remove(&old)?),
            _ => (),
        }
        Ok(())
    }

    /// Several at once, up to the first whose place is taken.
    fn insert_some(tx: &mut crate::index::IndexTx<'_>, rng: &mut Rng, dir: NodeId) -> Result<(), IndexError> {
        let mut new = Vec::new();
        for _ in 0..rng.below(40) {
            new.push(file(tx.new_id()?, dir, &format!("name {}", rng.below(1000))));
        }
        let mut names: std::collections::HashSet<Name> =
            tx.children(dir)?.into_iter().map(|node| node.node.name).collect();
        let files = tx.files();
        let free = new.iter().take_while(|new| names.insert(new.node.name.clone())).count();
        assert_eq!(tx.insert_each_if_free(&new)?, free);
        assert_eq!(tx.files(), files + free as u64);
        Ok(())
    }

    /// Answers how many sheets there are.
    fn check(index: &Index, seed: u64) -> usize {
        let dirs = directories(index);
        for dir in &dirs {
            let (kept, made) = index
                .read(|db| Ok((sheet(db, *dir)?, read_off(db, index.table(), index.marker(), *dir)?)))
                .unwrap();
            assert!(kept.is_none() || kept == made, "seed {seed}, {dir:?}: {kept:?}, {made:?}");
        }
        let kept: i64 =
            index.read(|db| db.query_row("SELECT count(*) FROM sheets", [], |row| row.get(0))).unwrap();
        let kept = usize::try_from(kept).unwrap();
        assert!(kept <= dirs.len(), "seed {seed}: some are of what is no directory");
        kept
    }

    #[test]
    fn a_directory_that_becomes_large_loses_its_sheet() {
        let tmp = tempfile::tempdir().unwrap();
        let index = Index::open(&tmp.path().join("x.db")).unwrap();
        let add = |count: usize| {
            let work = |tx: &mut crate::index::IndexTx<'_>| {
                for _ in 0..count {
                    let id = tx.new_id()?;
                    tx.insert(&file(id, NodeId::ROOT, &format!("file {}", id.0)))?;
                }
                tx.make_sheet(NodeId::ROOT)
            };
            index.write(work).unwrap();
            index.sheet(NodeId::ROOT).unwrap().map(|sheet| sheet.nodes())
        };
        assert_eq!(add(MOST_ON_SHEET), Some(MOST_ON_SHEET));
        let last = index.children(NodeId::ROOT).unwrap().pop().unwrap();
        let id = index.new_id().unwrap();
        index.write(|tx| tx.insert(&file(id, NodeId::ROOT, "one more"))).unwrap();
        assert_eq!(index.sheet(NodeId::ROOT).unwrap(), None);
        assert_eq!(add(0), None, "it is too large");
        index.write(|tx| tx.remove(&last)).unwrap();
        assert_eq!(add(0), Some(MOST_ON_SHEET));
    }

    #[test]
    fn a_sheet_that_does_not_fit_is_thrown_away() {
        let tmp = tempfile::tempdir().unwrap();
        let index = Index::open(&tmp.path().join("x.db")).unwrap();
        let known = file(index.new_id().unwrap(), NodeId::ROOT, "name");
        index.write(|tx| tx.insert(&known)).unwrap();
        let other = Sheet { nodes: 1, marks: vec![Mark(1)] };
        let spoil = |bytes: Vec<u8>| {
            let work = |tx: &mut crate::index::IndexTx<'_>| {
                Ok::<_, IndexError>(tx.sql().execute("INSERT INTO sheets VALUES (0, ?1)", [bytes])?)
            };
            index.write(work).unwrap();
        };
        spoil(other.to_bytes());
        assert_eq!(index.sheet(NodeId::ROOT).unwrap(), Some(other));
        let mut new = known.clone();
        new.vouched = false;
        index.write(|tx| tx.update(&known, &new)).unwrap();
        assert_eq!(index.sheet(NodeId::ROOT).unwrap(), None);
        spoil(vec![1, 2, 3]);
        assert_eq!(index.sheet(NodeId::ROOT).unwrap(), None);
    }
}
