//! The index of one tree, which is also its change feed.
//!
//! One SQLite file. Each row is one node with the sequence number of its last change, so "what changed since N" is a range
//! of rows and no second journal can disagree with the index. Invariants:
//!
//! * Sequence numbers and node ids come from one counter and are never issued twice, not even after a power cut: a block of
//!   them is reserved durably before the first is used, and each start goes on above the last block.
//! * Nodes, sums, sheets, clues, counts and the head change in one transaction ([`IndexTx`]).
//! * A removed node leaves a tombstone; a removed directory's covers what was below it, except what had been moved there.
//! * Readers have connections of their own and never wait for the writer.
//! * A damaged database is not used any further; the next opening sets it aside, see `damage`.

mod clues;
mod damage;
mod editions;
mod lookup;
mod replica;
pub mod rows;
mod schema;
mod search;
mod sheets;
mod sieve;
mod sums;
mod table;
#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests damage their own databases")]
mod tests;
mod write;

use std::{
    ops::Range,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use rusqlite::Connection;
use sync_core::{Digest, Hint, Node, NodeChange, NodeId, Problem, RuleSet, Seq, ShareId, TreePath};

use crate::{probe::probed, trouble};

pub use lookup::Lookup;
pub use replica::Replica;
/// The paths that the last look could not read, for readers with a connection of their own.
pub use schema::problems as problems_in;
pub use table::{IndexedNode, NodeTable};
pub use write::IndexTx;

pub(crate) use editions::Edition;
pub(crate) use search::Inodes;
pub(crate) use sheets::{MOST_ON_SHEET, Marker, Sheet};
pub(crate) use table::Sketch;
use table::Stored;

/// Why the index could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// SQLite failed.
    #[error("Cannot use the index")]
    Database {
        /// What it said.
        #[from]
        source: rusqlite::Error,
    },
    /// The database is damaged.
    #[error("The index {} is damaged: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        reason: String,
    },
    /// The file, or what is beside it, cannot be got at.
    #[error("Cannot use the place of the index {}", path.display())]
    Aside {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A newer version wrote the file.
    #[error("{path:?} was written by a newer version of syncd")]
    TooNew {
        /// The file.
        path: PathBuf,
    },
    /// The operating system gave no random bytes.
    #[error("Cannot make a random identity: {reason}")]
    Random {
        /// What it said.
        reason: String,
    },
    /// Four billion changes in one run.
    #[error("The index has used up its reserved sequence numbers")]
    Exhausted,
}

const STATE_ADVICE: &str =
    "check that the state directory is writable, and its disk neither full nor failing";

impl Hint for IndexError {
    fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Damaged { .. } => Some(
                "start it again, or move that file away: a new one is made from what is on the disk, and nothing is lost",
            ),
            Self::Database { source }
                if source.sqlite_error_code() == Some(rusqlite::ErrorCode::CannotOpen) =>
            {
                Some(
                    "check that the state directory is writable, and that the program may have enough files open (ulimit -n)",
                )
            }
            Self::Aside { source, .. } => trouble::advice(source).or(Some(STATE_ADVICE)),
            Self::Database { .. } => Some(STATE_ADVICE),
            Self::TooNew { .. } => {
                Some("run the newer version, or move the state directory away to start anew")
            }
            Self::Random { .. } => None,
            Self::Exhausted => Some("restart it"),
        }
    }
}

/// The tree at a commit point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// The newest change in it.
    pub seq: Seq,
    /// The digest of the whole tree.
    pub root_digest: Digest,
    /// Files and links.
    pub files: u64,
    /// Bytes in files.
    pub bytes: u64,
}

/// A piece of the feed.
#[derive(Debug)]
pub struct FeedPage {
    /// Newest states of changed nodes, oldest change first.
    pub changes: Vec<NodeChange>,
    /// The sequence number of the last of them.
    pub last: Seq,
    /// Set if nothing follows: what has been read up to here is the tree that this head describes.
    pub commit: Option<Head>,
}

/// Hands out sequence numbers.
#[derive(Debug)]
pub(crate) struct SeqSource {
    next: AtomicU64,
    end: u64,
    first: u64,
}

impl SeqSource {
    fn next(&self) -> Result<Seq, IndexError> {
        Ok(Seq(self.some(1)?.start))
    }

    /// So many numbers in a row.
    fn some(&self, count: u64) -> Result<Range<u64>, IndexError> {
        let end = |first: u64| first.checked_add(count).filter(|end| *end <= self.end);
        let first = self.next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, end);
        first.map(|first| first..first + count).map_err(|_| IndexError::Exhausted)
    }

    /// The newest number handed out in this run; 0 if none was.
    fn taken(&self) -> Seq {
        let next = self.next.load(Ordering::Relaxed);
        if next == self.first { Seq(0) } else { Seq(next - 1) }
    }
}

/// How many sequence numbers one start reserves: more than a run can use, so that the reservation is written once.
const BLOCK: u64 = 1 << 32;

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    table: NodeTable,
    writer: Mutex<Connection>,
    readers: Mutex<Vec<Connection>>,
    seqs: SeqSource,
    editions: editions::Editions,
    share: ShareId,
    epoch: [u8; 16],
    /// Whether what is searched by is there, see [`Index::make_searchable`].
    searching: clues::Searching,
    /// Set once the database is found to be damaged. Another may be in its place by then, and must not be taken for it.
    damaged: AtomicBool,
}

impl Inner {
    fn check(&self) -> Result<(), IndexError> {
        if self.damaged.load(Ordering::Relaxed) {
            let reason = "it was found to be damaged before".to_owned();
            return Err(IndexError::Damaged { path: self.path.clone(), reason });
        }
        Ok(())
    }

    /// The error to answer in place of this one, if that is about damage.
    fn damage(&self, error: &(dyn std::error::Error + 'static)) -> Option<IndexError> {
        let reason = damage::damage(error)?;
        if !self.damaged.swap(true, Ordering::Relaxed) {
            damage::mark(&self.path);
        }
        Some(IndexError::Damaged { path: self.path.clone(), reason })
    }
}

/// The index of one tree. Cheap to clone; all methods block and may be called from any thread.
#[derive(Debug, Clone)]
pub struct Index(Arc<Inner>);

impl Index {
    /// Opens the index in this file, making it if needed.
    ///
    /// # Errors
    /// The file cannot be used, or a newer version wrote it.
    pub fn open(path: &Path) -> Result<Self, IndexError> {
        Self::open_file(path).map_err(|error| match damage::damage(&error) {
            Some(reason) => IndexError::Damaged { path: path.to_owned(), reason },
            None => error,
        })
    }

    fn open_file(path: &Path) -> Result<Self, IndexError> {
        let mut db = schema::connect(path, schema::Cache::Writer)?;
        schema::migrate(&mut db, path)?;
        let share = random_meta(&db, "share_id")?;
        let epoch = random_meta(&db, "epoch")?;
        let seqs = reserve(&db)?;
        let table = NodeTable::new(schema::LOCAL);
        Ok(Self(Arc::new(Inner {
            path: path.to_owned(),
            searching: clues::Searching::of(&db)?,
            table,
            writer: Mutex::new(db),
            readers: Mutex::new(Vec::new()),
            seqs,
            editions: editions::Editions::default(),
            share: ShareId(share),
            epoch,
            damaged: AtomicBool::new(false),
        })))
    }

    /// The file that it is in.
    #[must_use]
    pub fn file(&self) -> &Path {
        &self.0.path
    }

    /// The random identity made with the index.
    #[must_use]
    pub fn share_id(&self) -> ShareId {
        self.0.share
    }

    /// The index's incarnation.
    #[must_use]
    pub fn epoch(&self) -> [u8; 16] {
        self.0.epoch
    }

    /// A new node's id, for a node that will be inserted later.
    ///
    /// # Errors
    /// All numbers are used up.
    pub fn new_id(&self) -> Result<NodeId, IndexError> {
        self.0.seqs.next().map(|seq| NodeId(seq.0))
    }

    /// Ids in a row, for nodes that will be inserted later and belong together: their rows will be neighbours. What is not used is
    /// lost.
    pub(crate) fn new_ids(&self, count: usize) -> Result<Range<u64>, IndexError> {
        self.0.seqs.some(count as u64)
    }

    /// Runs one transaction. If `work` fails nothing is changed.
    ///
    /// # Errors
    /// `work` failed, or the database did. A damaged one is told as [`IndexError::Damaged`], whatever `work` made of it.
    pub fn write<T, E: From<IndexError> + std::error::Error + 'static>(
        &self,
        work: impl FnOnce(&mut IndexTx<'_>) -> Result<T, E>,
    ) -> Result<(T, Head), E> {
        self.0.check()?;
        self.transact(work).map_err(|error| self.0.damage(&error).map_or(error, E::from))
    }

    fn transact<T, E: From<IndexError>>(
        &self,
        work: impl FnOnce(&mut IndexTx<'_>) -> Result<T, E>,
    ) -> Result<(T, Head), E> {
        let db = self.0.writer.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut tx =
            IndexTx::begin(&db, &self.0.table, (&self.0.seqs, &self.0.searching), self.marker(), now_secs())?;
        let value = work(&mut tx)?;
        let next = self.0.editions.next();
        let head = probed!(Commit { database: &self.0.path } => tx.commit())?;
        drop(next);
        Ok((value, head))
    }

    /// Flushes: all that was committed up to now survives a power cut. By itself a commit does not.
    ///
    /// # Errors
    /// The database failed.
    pub fn flush(&self) -> Result<(), IndexError> {
        self.0.check()?;
        let flushed = probed!(SyncIndex { database: &self.0.path } => self.flush_log());
        flushed.map_err(|error: IndexError| self.0.damage(&error).unwrap_or(error))
    }

    fn flush_log(&self) -> Result<(), IndexError> {
        let db = self.0.writer.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        // Only a commit that changes something flushes the log, but then all of it.
        let flushes = schema::meta_u64(&db, FLUSHES)?.unwrap_or(0) + 1;
        Ok(set_meta_durably(&db, FLUSHES, flushes)?)
    }

    /// Moves what was committed up to now from the log into the database, while others may write on. Closing does that too; what
    /// is moved by then makes it quicker, so nothing is lost if it fails.
    pub fn move_log(&self) {
        let moved = self.read(|db| db.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())));
        if let Err(error) = moved {
            tracing::debug!(%error, "the log is left for later");
        }
    }

    /// Runs a read on a connection of its own, for tables that others keep in the same file.
    ///
    /// # Errors
    /// The database failed.
    pub fn read<T>(&self, work: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, IndexError> {
        self.0.check()?;
        let asked: rusqlite::Result<()> = probed!(Query { database: &self.0.path } => Ok(()));
        let value = asked.and_then(|()| self.read_with(work));
        value.map_err(|error| self.0.damage(&error).unwrap_or_else(|| error.into()))
    }

    fn read_with<T>(&self, work: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> rusqlite::Result<T> {
        let idle = self.lock_readers().pop();
        let db = match idle {
            Some(db) => db,
            None => schema::connect(&self.0.path, schema::Cache::Reader)?,
        };
        let value = work(&db);
        let mut readers = self.lock_readers();
        if readers.len() < MAX_IDLE_READERS {
            readers.push(db);
        }
        value
    }

    /// The table of this tree, for reads within [`read`](Self::read).
    #[must_use]
    pub fn table(&self) -> &NodeTable {
        &self.0.table
    }

    /// The newest commit point.
    ///
    /// # Errors
    /// The database failed.
    pub fn head(&self) -> Result<Head, IndexError> {
        self.read(schema::head)
    }

    /// The feed after a sequence number, at most `limit` nodes of it.
    ///
    /// # Errors
    /// The database failed.
    pub fn feed_page(&self, after: Seq, limit: usize) -> Result<FeedPage, IndexError> {
        self.make_searchable()?;
        self.read(|db| {
            // One transaction: the head must be the one that belongs to the rows.
            let db = db.unchecked_transaction()?;
            let rows = self.0.table.since(&db, after, limit)?;
            let complete = rows.len() < limit;
            let last = rows.last().map_or(after, |(_, seq)| *seq);
            let commit = if complete { Some(schema::head(&db)?) } else { None };
            let changes = rows.into_iter().map(|(row, _)| change(row)).collect();
            Ok(FeedPage { changes, last, commit })
        })
    }

    /// A page of the full tree, by id.
    ///
    /// # Errors
    /// The database failed.
    pub fn tree_page(&self, after: NodeId, limit: usize) -> Result<Vec<Node>, IndexError> {
        let (rows, _) = self.tree_rows(after, limit)?;
        Ok(rows.into_iter().map(|row| row.node).collect())
    }

    /// The rows of such a page, and the edition that they are of, if that is known.
    pub(crate) fn tree_rows(
        &self,
        after: NodeId,
        limit: usize,
    ) -> Result<(Vec<IndexedNode>, Option<Edition>), IndexError> {
        let before = self.edition();
        let rows = self.read(|db| self.0.table.page(db, after, limit))?;
        Ok((rows, before.filter(|_| self.edition() == before)))
    }

    /// The edition that is read now, unless another is about to take its place.
    pub(crate) fn edition(&self) -> Option<Edition> {
        self.0.editions.present()
    }

    /// A cursor below this needs a reset: tombstones after it were forgotten.
    ///
    /// # Errors
    /// The database failed.
    pub fn oldest_cursor(&self) -> Result<Seq, IndexError> {
        Ok(Seq(self.read(|db| schema::meta_u64(db, "oldest_cursor"))?.unwrap_or(0)))
    }

    /// A cursor above this was not issued by what is in this index.
    ///
    /// # Errors
    /// The database failed.
    pub fn highest_seq(&self) -> Result<Seq, IndexError> {
        Ok(self.head()?.seq)
    }

    /// Forgets tombstones of before this moment (seconds since 1970). Answers how many.
    ///
    /// # Errors
    /// The database failed.
    pub fn prune_tombstones(&self, before_secs: i64) -> Result<u64, IndexError> {
        let (count, _) = self.write(|tx| {
            let (count, highest) = self.0.table.prune(tx.sql(), before_secs).map_err(IndexError::from)?;
            if let Some(highest) = highest {
                schema::set_meta(tx.sql(), "oldest_cursor", &highest.0.to_le_bytes())
                    .map_err(IndexError::from)?;
            }
            Ok::<_, IndexError>(count)
        })?;
        Ok(count)
    }

    /// One node, if it exists.
    ///
    /// # Errors
    /// The database failed.
    pub fn node(&self, id: NodeId) -> Result<Option<IndexedNode>, IndexError> {
        self.read(|db| self.0.table.get(db, id))
    }

    /// The node at a path.
    ///
    /// # Errors
    /// The database failed.
    pub fn find(&self, path: &TreePath) -> Result<Option<IndexedNode>, IndexError> {
        // One transaction for all names on the way.
        self.read(|db| self.0.table.find(&*db.unchecked_transaction()?, path))
    }

    /// The node with this name in a directory.
    ///
    /// # Errors
    /// The database failed.
    pub fn child(&self, parent: NodeId, name: &str) -> Result<Option<IndexedNode>, IndexError> {
        self.read(|db| self.0.table.child(db, parent, name))
    }

    /// The nodes with these names in a directory, in their order. To ask for each by itself takes twice the time.
    pub(crate) fn children_named(
        &self,
        dir: NodeId,
        names: &[&str],
    ) -> Result<Vec<Option<IndexedNode>>, IndexError> {
        self.read(|db| {
            let db = db.unchecked_transaction()?;
            names.iter().map(|name| self.0.table.child(&db, dir, name)).collect()
        })
    }

    /// All nodes in a directory, in no order.
    ///
    /// # Errors
    /// The database failed.
    pub fn children(&self, id: NodeId) -> Result<Vec<IndexedNode>, IndexError> {
        self.read(|db| self.0.table.children(db, id))
    }

    /// Those nodes in a directory that `settled`, which sees what a look compares of each, does not answer true for. The
    /// others cost next to nothing.
    pub(crate) fn children_unless(
        &self,
        id: NodeId,
        settled: impl FnMut(&str, &Sketch) -> bool,
    ) -> Result<Vec<IndexedNode>, IndexError> {
        self.read(|db| self.0.table.children_unless(db, id, settled))
    }

    /// Those nodes in a directory that have one of these names, if this is still its sheet.
    pub(crate) fn children_beside<'n>(
        &self,
        dir: NodeId,
        sheet: &Sheet,
        names: impl IntoIterator<Item = &'n str>,
    ) -> Result<Option<Vec<IndexedNode>>, IndexError> {
        self.read(|db| {
            let db = db.unchecked_transaction()?;
            if sheets::sheet(&db, dir)?.as_ref() != Some(sheet) {
                return Ok(None);
            }
            let found = names.into_iter().map(|name| self.0.table.child(&db, dir, name));
            found.filter_map(Result::transpose).collect::<Result<_, _>>().map(Some)
        })
    }

    /// The sheet of a directory, if it has one.
    pub(crate) fn sheet(&self, dir: NodeId) -> Result<Option<Sheet>, IndexError> {
        self.read(|db| sheets::sheet(db, dir))
    }

    /// Makes what is on the sheets.
    pub(crate) fn marker(&self) -> Marker {
        Marker::new(self.0.epoch)
    }

    /// The path of a node.
    ///
    /// # Errors
    /// The database failed.
    pub fn path_of(&self, id: NodeId) -> Result<Option<TreePath>, IndexError> {
        self.read(|db| self.0.table.path_of(&*db.unchecked_transaction()?, id))
    }

    /// Nodes with this inode number.
    ///
    /// # Errors
    /// The database failed.
    pub fn with_inode(&self, ino: u64) -> Result<Vec<IndexedNode>, IndexError> {
        self.make_searchable()?;
        self.read(|db| self.0.table.with_inode(db, ino))
    }

    /// Some files with this content.
    ///
    /// # Errors
    /// The database failed.
    pub fn with_digest(&self, digest: &Digest, limit: usize) -> Result<Vec<IndexedNode>, IndexError> {
        self.make_searchable()?;
        self.read(|db| self.0.table.with_digest(db, digest, limit))
    }

    /// The ignore rules of the last look.
    ///
    /// # Errors
    /// The database failed.
    pub fn rule_set(&self) -> Result<RuleSet, IndexError> {
        self.read(schema::rules)
    }

    /// The paths that the last look could not read.
    ///
    /// # Errors
    /// The database failed.
    pub fn problems(&self) -> Result<Vec<Problem>, IndexError> {
        self.read(schema::problems)
    }

    /// Those of them at one of these places, or below one that is deep: costs what these places hold of them.
    ///
    /// # Errors
    /// The database failed.
    pub fn problems_at<'a>(
        &self,
        places: impl IntoIterator<Item = (&'a TreePath, bool)>,
    ) -> Result<Vec<Problem>, IndexError> {
        self.read(|db| schema::problems_at(db, places))
    }

    /// Whether there are any.
    ///
    /// # Errors
    /// The database failed.
    pub fn has_problems(&self) -> Result<bool, IndexError> {
        self.read(schema::has_problems)
    }

    /// Whether the last look could not find out what is at some place.
    ///
    /// # Errors
    /// The database failed.
    pub fn is_partly_unknown(&self) -> Result<bool, IndexError> {
        self.read(schema::is_partly_unknown)
    }

    /// The directories that were other file systems at the last look.
    ///
    /// # Errors
    /// The database failed.
    pub fn mounts(&self) -> Result<Vec<TreePath>, IndexError> {
        self.read(schema::mounts)
    }

    fn lock_readers(&self) -> std::sync::MutexGuard<'_, Vec<Connection>> {
        self.0.readers.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Enough for the threads that read at once; more are opened when needed and closed after.
const MAX_IDLE_READERS: usize = 8;

fn change(row: Stored) -> NodeChange {
    match row {
        Stored::Present(row) => NodeChange::Present(row.node),
        Stored::Gone(id) => NodeChange::Gone(id),
    }
}

/// Reads sixteen random bytes that were made with the index, or makes them.
fn random_meta(db: &Connection, key: &str) -> Result<[u8; 16], IndexError> {
    if let Some(Ok(known)) = schema::meta(db, key)?.map(<[u8; 16]>::try_from) {
        return Ok(known);
    }
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| IndexError::Random { reason: error.to_string() })?;
    schema::set_meta(db, key, &bytes)?;
    Ok(bytes)
}

/// Reserves the numbers of this run, durably.
fn reserve(db: &Connection) -> Result<SeqSource, IndexError> {
    let first = schema::meta_u64(db, "reserved_to")?.unwrap_or(1);
    let end = first + BLOCK;
    set_meta_durably(db, "reserved_to", end)?;
    Ok(SeqSource { next: AtomicU64::new(first), end, first })
}

/// How often the log was flushed.
const FLUSHES: &str = "flushes";

/// With this, all that was committed before survives a power cut.
fn set_meta_durably(db: &Connection, key: &str, value: u64) -> rusqlite::Result<()> {
    db.pragma_update(None, "synchronous", "FULL")?;
    let set = schema::set_meta(db, key, &value.to_le_bytes());
    db.pragma_update(None, "synchronous", "NORMAL")?;
    set
}

fn now_secs() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs().cast_signed())
}
