//! One table of nodes: the SQL for it, and nothing that decides.
//!
//! The daemon's and the agent's own trees use it, and so does the agent's copy of the remote tree: the same code keeps
//! them, so their digests cannot drift apart by an oversight in one of them. The table's name is a parameter.

use std::collections::VecDeque;

use rusqlite::{CachedStatement, Connection, OptionalExtension as _, Row, params, types::ValueRef};
use sync_core::{Content, Digest, Entry, Name, Node, NodeId, Seq, Time, treehash::DirSum};

use super::rows::{self, Adder, Additions};
use crate::hash::Identity;

/// A node with what vouches for its digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexedNode {
    /// The node.
    pub node: Node,
    /// The file identity at the time of hashing; all zero where none is known (a remote tree).
    pub identity: Identity,
    /// Whether the identity vouches for the digest.
    pub vouched: bool,
}

/// What a look compares of a node before anything else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sketch {
    pub is_file: bool,
    pub mtime: Time,
    pub mode: u16,
    pub identity: Identity,
    pub vouched: bool,
}

impl IndexedNode {
    /// As the row has it: of size and time of the identity none but the node's own are stored.
    pub(crate) fn sketch(&self) -> Sketch {
        let Entry { content, mtime, mode } = &self.node.entry;
        let is_file = matches!(content, Content::File { .. });
        let identity = Identity { size: content.size(), mtime: *mtime, ..self.identity };
        Sketch { is_file, mtime: *mtime, mode: *mode, identity, vouched: self.vouched }
    }
}

/// A row as stored: a node that exists, or the tombstone of one.
#[derive(Debug, Clone)]
pub(crate) enum Stored {
    /// The node.
    Present(IndexedNode),
    /// Only the id is left.
    Gone(NodeId),
}

/// A node below a removed directory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Descendant {
    pub id: NodeId,
    pub is_dir: bool,
    pub size: u64,
    /// It was moved here from another directory, so a reader may know it in another place and needs a tombstone for it.
    pub moved: bool,
}

/// The statements for one table, prepared as text once.
#[derive(Debug, Clone)]
pub struct NodeTable {
    name: String,
    select_id: String,
    select_run: String,
    select_place: String,
    select_children: String,
    select_before: String,
    select_behind: String,
    select_since: String,
    select_page: String,
    select_below: String,
    additions: Additions,
    additions_of_others: Additions,
    upsert: String,
    rewrite: String,
    select_sum: String,
    set_sum: String,
    delete_sum: String,
    set_identity: String,
    bury: String,
    delete: String,
}

const COLUMNS: &str =
    "id, kind, parent, name, size, mtime_s, mtime_ns, mode, content, ino, ctime_s, ctime_ns, vouched";
/// What is written behind the id: of the node itself, and of its row.
const OF_A_NODE: &str = "kind, parent, name, size, mtime_s, mtime_ns, mode, content";
const OF_A_ROW: &str = "ino, ctime_s, ctime_ns, vouched, seq, moved";
/// What is not known of a node that somebody else has. It has no inode.
const ZEROS: &[&str] = &["ctime_s", "ctime_ns", "vouched", "seq", "moved"];
/// So many names before and behind another are near to it.
const MOST_NEAR: usize = 4;
const GONE: i64 = 0;
const FILE: i64 = 1;
const DIRECTORY: i64 = 2;
const SYMLINK: i64 = 3;

impl NodeTable {
    /// The table of this name. The name is ours, never a peer's.
    #[must_use]
    pub fn new(name: &str) -> Self {
        debug_assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_' || b.is_ascii_digit()));
        Self {
            name: name.to_owned(),
            select_id: format!("SELECT {COLUMNS} FROM {name} WHERE id = ?1"),
            select_run: format!("SELECT {COLUMNS} FROM {name} WHERE id BETWEEN ?1 AND ?2"),
            select_place: format!("SELECT {COLUMNS} FROM {name} WHERE parent = ?1 AND name = ?2"),
            select_children: format!("SELECT {COLUMNS} FROM {name} WHERE parent = ?1"),
            select_before: format!(
                "SELECT {COLUMNS} FROM {name} WHERE parent = ?1 AND name < ?2 ORDER BY name DESC LIMIT {MOST_NEAR}"
            ),
            select_behind: format!(
                "SELECT {COLUMNS} FROM {name} WHERE parent = ?1 AND name > ?2 ORDER BY name LIMIT {MOST_NEAR}"
            ),
            select_since: format!("SELECT {COLUMNS}, seq FROM {name} WHERE seq > ?1 ORDER BY seq LIMIT ?2"),
            select_page: format!(
                "SELECT {COLUMNS} FROM {name} WHERE id > ?1 AND parent IS NOT NULL ORDER BY id LIMIT ?2"
            ),
            // Not UNION ALL: a hostile feed can tell of parents in a loop.
            select_below: format!(
                "WITH RECURSIVE below(id) AS (SELECT id FROM {name} WHERE parent = ?1 \
                 UNION SELECT n.id FROM {name} n JOIN below b ON n.parent = b.id) \
                 SELECT n.id, n.kind, n.size, n.moved FROM below b JOIN {name} n ON n.id = b.id"
            ),
            additions: Additions::with_ids::<WRITTEN>(name, "id", &format!("{OF_A_NODE}, {OF_A_ROW}"), &[]),
            additions_of_others: Additions::with_ids::<WRITTEN_OF_A_NODE>(name, "id", OF_A_NODE, ZEROS),
            upsert: format!(
                "INSERT INTO {name} ({COLUMNS}, seq, moved) VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13,?14,?15) \
                 ON CONFLICT (id) DO UPDATE SET kind=?2, parent=?3, name=?4, size=?5, mtime_s=?6, mtime_ns=?7, mode=?8, \
                 content=?9, ino=?10, ctime_s=?11, ctime_ns=?12, vouched=?13, seq=?14, moved=max(moved, ?15), \
                 gone_at=NULL"
            ),
            // The place, which is searched by, stays.
            rewrite: format!(
                "UPDATE {name} SET kind=?2, size=?5, mtime_s=?6, mtime_ns=?7, mode=?8, content=?9, ino=?10, ctime_s=?11, \
                 ctime_ns=?12, vouched=?13, seq=?14, moved=max(moved, ?15) WHERE id = ?1"
            ),
            select_sum: format!("SELECT sum FROM {name}_sums WHERE id = ?1"),
            set_sum: format!(
                "INSERT INTO {name}_sums VALUES (?1, ?2) ON CONFLICT (id) DO UPDATE SET sum = ?2"
            ),
            delete_sum: format!("DELETE FROM {name}_sums WHERE id = ?1"),
            set_identity: format!(
                "UPDATE {name} SET ino = ?2, ctime_s = ?3, ctime_ns = ?4, vouched = ?5 WHERE id = ?1"
            ),
            bury: format!(
                "INSERT INTO {name} (id, kind, parent, name, size, mtime_s, mtime_ns, mode, content, ino, ctime_s, \
                 ctime_ns, vouched, seq, moved, gone_at) \
                 VALUES (?1,{GONE},NULL,NULL,0,0,0,0,NULL,NULL,0,0,0,?2,0,?3) \
                 ON CONFLICT (id) DO UPDATE SET kind={GONE}, parent=NULL, name=NULL, size=0, content=NULL, \
                 ino=NULL, vouched=0, seq=?2, moved=0, gone_at=?3"
            ),
            delete: format!("DELETE FROM {name} WHERE id = ?1"),
        }
    }

    /// Makes the table with its indexes. A `local` tree is asked what changed in it.
    pub(crate) fn create(&self, db: &Connection, local: bool) -> rusqlite::Result<()> {
        let name = &self.name;
        // No partial indexes where statements have parameters: what is bound is not asked when a plan is made, so they would not be
        // used. NULLs are distinct, so tombstones do not get into each other's way.
        // Between two commit points a feed may put two nodes into one place; a disk never does.
        let unique = if local { "UNIQUE" } else { "" };
        db.execute_batch(&format!(
            "CREATE TABLE {name} (
                 id INTEGER PRIMARY KEY, kind INTEGER NOT NULL, parent INTEGER, name TEXT, size INTEGER NOT NULL,
                 mtime_s INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, mode INTEGER NOT NULL, content BLOB,
                 ino INTEGER, ctime_s INTEGER NOT NULL, ctime_ns INTEGER NOT NULL, vouched INTEGER NOT NULL,
                 seq INTEGER NOT NULL, moved INTEGER NOT NULL, gone_at INTEGER
             ) STRICT;
             CREATE {unique} INDEX {name}_place ON {name} (parent, name);
             CREATE INDEX {name}_gone ON {name} (gone_at) WHERE gone_at IS NOT NULL;"
        ))?;
        if local {
            self.make_changes(db)?;
        }
        db.execute_batch(&format!(
            "INSERT INTO {name} (id, kind, size, mtime_s, mtime_ns, mode, ctime_s, ctime_ns, vouched, seq, moved)
             VALUES (0, {DIRECTORY}, 0, 0, 0, 0, 0, 0, 0, 0, 0)"
        ))?;
        self.create_sums(db)
    }

    /// The sums of directories are beside the nodes: with each change below a directory its sum changes and nothing else of it,
    /// and all of them together are few pages.
    fn create_sums(&self, db: &Connection) -> rusqlite::Result<()> {
        db.execute_batch(&format!(
            "CREATE TABLE {}_sums (id INTEGER PRIMARY KEY, sum BLOB NOT NULL) STRICT",
            self.name
        ))
    }

    /// Brings a table from the time when sums were in the rows of their directories, if it is one.
    pub(crate) fn part_sums(&self, db: &Connection) -> rusqlite::Result<()> {
        let name = &self.name;
        let has_sums =
            format!("SELECT EXISTS (SELECT 1 FROM pragma_table_info('{name}') WHERE name = 'sum')");
        if !db.query_row(&has_sums, [], |row| row.get(0))? {
            return Ok(());
        }
        self.create_sums(db)?;
        db.execute_batch(&format!(
            "INSERT INTO {name}_sums SELECT id, sum FROM {name} WHERE kind = {DIRECTORY} AND sum IS NOT NULL;
             ALTER TABLE {name} DROP COLUMN sum;"
        ))
    }

    /// Makes the index by change, unless it is there.
    pub(crate) fn make_changes(&self, db: &Connection) -> rusqlite::Result<()> {
        let name = &self.name;
        db.execute_batch(&format!("CREATE INDEX IF NOT EXISTS {name}_seq ON {name} (seq);"))
    }

    /// Removes it.
    pub(crate) fn remove_changes(&self, db: &Connection) -> rusqlite::Result<()> {
        db.execute_batch(&format!("DROP INDEX IF EXISTS {}_seq;", self.name))
    }

    /// Removes the table.
    pub(crate) fn drop(&self, db: &Connection) -> rusqlite::Result<()> {
        let name = &self.name;
        db.execute_batch(&format!("DROP TABLE IF EXISTS {name}; DROP TABLE IF EXISTS {name}_sums;"))
    }

    /// One node, if it exists.
    ///
    /// # Errors
    /// The database failed.
    pub fn get(&self, db: &Connection, id: NodeId) -> rusqlite::Result<Option<IndexedNode>> {
        Ok(self.stored(db, id)?.and_then(not_the_root))
    }

    /// The stored row of a node, or its tombstone.
    pub(crate) fn stored(&self, db: &Connection, id: NodeId) -> rusqlite::Result<Option<Stored>> {
        db.prepare_cached(&self.select_id)?.query_row([sql_id(id)], read).optional()
    }

    /// The node at a place.
    ///
    /// # Errors
    /// The database failed.
    pub fn child(
        &self,
        db: &Connection,
        parent: NodeId,
        name: &str,
    ) -> rusqlite::Result<Option<IndexedNode>> {
        let row = db
            .prepare_cached(&self.select_place)?
            .query_row(params![sql_id(parent), name], read)
            .optional()?;
        Ok(row.and_then(present))
    }

    /// All nodes in a directory, in no order.
    ///
    /// # Errors
    /// The database failed.
    pub fn children(&self, db: &Connection, parent: NodeId) -> rusqlite::Result<Vec<IndexedNode>> {
        let mut statement = db.prepare_cached(&self.select_children)?;
        let rows = statement.query_map([sql_id(parent)], read)?;
        rows.filter_map(|row| row.map(present).transpose()).collect()
    }

    /// The nodes whose names come right before and behind this one in a directory.
    ///
    /// # Errors
    /// The database failed.
    pub fn near(&self, db: &Connection, parent: NodeId, name: &str) -> rusqlite::Result<Vec<IndexedNode>> {
        let mut near = Vec::new();
        for select in [&self.select_before, &self.select_behind] {
            let mut statement = db.prepare_cached(select)?;
            let rows = statement.query_map(params![sql_id(parent), name], read)?;
            for node in rows.filter_map(|row| row.map(present).transpose()) {
                near.push(node?);
            }
        }
        Ok(near)
    }

    /// The nodes in a directory but for those that `settled` answers true for.
    pub(crate) fn children_unless(
        &self,
        db: &Connection,
        parent: NodeId,
        mut settled: impl FnMut(&str, &Sketch) -> bool,
    ) -> rusqlite::Result<Vec<IndexedNode>> {
        let mut statement = db.prepare_cached(&self.select_children)?;
        let mut rows = statement.query([sql_id(parent)])?;
        let mut left = Vec::new();
        while let Some(row) = rows.next()? {
            let is_settled = match row.get_ref(3)?.as_str_or_null()? {
                Some(name) => settled(name, &sketch(row)?),
                None => false,
            };
            if !is_settled {
                left.extend(present(read(row)?));
            }
        }
        Ok(left)
    }

    /// Rows whose last change came after `seq`, oldest first, each with its sequence number.
    pub(crate) fn since(
        &self,
        db: &Connection,
        seq: Seq,
        limit: usize,
    ) -> rusqlite::Result<Vec<(Stored, Seq)>> {
        let mut statement = db.prepare_cached(&self.select_since)?;
        let rows = statement.query_map(params![sql_id(NodeId(seq.0)), limit as i64], |row| {
            Ok((read(row)?, Seq(row.get::<_, i64>(13)?.cast_unsigned())))
        })?;
        rows.collect()
    }

    /// Nodes by id, for pages of the full tree.
    ///
    /// # Errors
    /// The database failed.
    pub fn page(&self, db: &Connection, after: NodeId, limit: usize) -> rusqlite::Result<Vec<IndexedNode>> {
        let mut statement = db.prepare_cached(&self.select_page)?;
        let rows = statement.query_map(params![sql_id(after), limit as i64], read)?;
        rows.filter_map(|row| row.map(present).transpose()).collect()
    }

    /// Everything below a directory.
    pub(crate) fn below(&self, db: &Connection, id: NodeId) -> rusqlite::Result<Vec<Descendant>> {
        let mut statement = db.prepare_cached(&self.select_below)?;
        let rows = statement.query_map([sql_id(id)], |row| {
            Ok(Descendant {
                id: NodeId(row.get::<_, i64>(0)?.cast_unsigned()),
                is_dir: row.get::<_, i64>(1)? == DIRECTORY,
                size: if row.get::<_, i64>(1)? == FILE { row.get::<_, i64>(2)?.cast_unsigned() } else { 0 },
                moved: row.get(3)?,
            })
        })?;
        rows.collect()
    }

    pub(crate) fn write(&self, db: &Connection, row: &Write<'_>) -> rusqlite::Result<()> {
        rows::execute(&mut *db.prepare_cached(&self.upsert)?, row)
    }

    /// Writes a node that is there, and stays in its place.
    pub(crate) fn rewrite(&self, db: &Connection, row: &Write<'_>) -> rusqlite::Result<()> {
        rows::execute(&mut *db.prepare_cached(&self.rewrite)?, row)
    }

    /// What adds new nodes. They collide with others by their id and, in a local tree, by their place.
    pub(crate) fn inserter<'a>(&'a self, db: &'a Connection) -> rusqlite::Result<Inserter<'a>> {
        self.additions.on(db)
    }

    /// The same for nodes that somebody else has.
    pub(crate) fn inserter_of_others<'a>(
        &'a self,
        db: &'a Connection,
    ) -> rusqlite::Result<InserterOfOthers<'a>> {
        self.additions_of_others.on(db)
    }

    /// What reads nodes by their ids.
    pub(crate) fn finder<'db>(&self, db: &'db Connection) -> rusqlite::Result<Finder<'db>> {
        Ok(Finder { one: db.prepare_cached(&self.select_id)?, run: db.prepare_cached(&self.select_run)? })
    }

    /// The sum over the children of a directory.
    pub(crate) fn sum(&self, db: &Connection, id: NodeId) -> rusqlite::Result<DirSum> {
        let mut statement = db.prepare_cached(&self.select_sum)?;
        let sum = statement.query_row([sql_id(id)], |row| Ok(DirSum::from_slice(row.get_ref(0)?.as_blob()?)));
        Ok(sum.optional()?.flatten().unwrap_or_default())
    }

    pub(crate) fn set_sum(&self, db: &Connection, id: NodeId, sum: &DirSum) -> rusqlite::Result<()> {
        db.prepare_cached(&self.set_sum)?.execute(params![sql_id(id), sum.to_bytes()])?;
        Ok(())
    }

    pub(crate) fn delete_sum(&self, db: &Connection, id: NodeId) -> rusqlite::Result<()> {
        db.prepare_cached(&self.delete_sum)?.execute([sql_id(id)])?;
        Ok(())
    }

    /// Writes what vouches for a node, without a change of the node.
    pub(crate) fn set_identity(&self, db: &Connection, row: &IndexedNode) -> rusqlite::Result<()> {
        let ino = (row.identity.ino != 0).then_some(row.identity.ino.cast_signed());
        let (secs, nanos) = (row.identity.ctime.secs, row.identity.ctime.nanos);
        db.prepare_cached(&self.set_identity)?.execute(params![
            sql_id(row.node.id),
            ino,
            secs,
            nanos,
            row.vouched
        ])?;
        Ok(())
    }

    /// Leaves a tombstone in place of a node.
    pub(crate) fn bury(&self, db: &Connection, id: NodeId, seq: Seq, at_secs: i64) -> rusqlite::Result<()> {
        db.prepare_cached(&self.bury)?.execute(params![sql_id(id), seq.0.cast_signed(), at_secs])?;
        Ok(())
    }

    /// Deletes a row without a trace.
    pub(crate) fn delete(&self, db: &Connection, id: NodeId) -> rusqlite::Result<()> {
        db.prepare_cached(&self.delete)?.execute([sql_id(id)])?;
        Ok(())
    }

    /// Forgets tombstones; answers the highest sequence number among them.
    pub(crate) fn prune(&self, db: &Connection, before_secs: i64) -> rusqlite::Result<(u64, Option<Seq>)> {
        let name = &self.name;
        let highest: Option<i64> =
            db.query_row(&format!("SELECT max(seq) FROM {name} WHERE gone_at < ?1"), [before_secs], |row| {
                row.get(0)
            })?;
        let count = db.execute(&format!("DELETE FROM {name} WHERE gone_at < ?1"), [before_secs])?;
        Ok((count as u64, highest.map(|seq| Seq(seq.cast_unsigned()))))
    }

    /// The path of a node, by walking up. `None` if it, or a directory above it, is not there.
    ///
    /// # Errors
    /// The database failed.
    pub fn path_of(&self, db: &Connection, id: NodeId) -> rusqlite::Result<Option<sync_core::TreePath>> {
        let mut names: Vec<Name> = Vec::new();
        let mut at = id;
        while at != NodeId::ROOT {
            // A loop of parents cannot come from a disk, but it can from a hostile peer.
            if names.len() > MAX_DEPTH {
                return Ok(None);
            }
            let Some(node) = self.get(db, at)? else { return Ok(None) };
            at = node.node.parent;
            names.push(node.node.name);
        }
        let path = names.iter().rev().map(Name::as_str).collect::<Vec<_>>().join("/");
        Ok(sync_core::TreePath::new(&path).ok())
    }

    /// The node at a path. The root has none.
    ///
    /// # Errors
    /// The database failed.
    pub fn find(&self, db: &Connection, path: &sync_core::TreePath) -> rusqlite::Result<Option<IndexedNode>> {
        let mut parent = NodeId::ROOT;
        let mut found = None;
        for name in path.names() {
            let Some(child) = self.child(db, parent, name)? else { return Ok(None) };
            parent = child.node.id;
            found = Some(child);
        }
        Ok(found)
    }
}

/// The statements that read nodes by their ids, at hand for many of them.
pub(crate) struct Finder<'db> {
    one: CachedStatement<'db>,
    run: CachedStatement<'db>,
}

impl std::fmt::Debug for Finder<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Finder")
    }
}

impl Finder<'_> {
    /// One node, if it exists.
    pub(crate) fn one(&mut self, id: NodeId) -> rusqlite::Result<Option<IndexedNode>> {
        Ok(self.one.query_row([sql_id(id)], read).optional()?.and_then(not_the_root))
    }

    /// Each of these nodes, if it exists. Their ids ascend; the rows between the first and the last of them are all passed, but
    /// only those that are asked for are read.
    pub(crate) fn run(&mut self, ids: &[NodeId]) -> rusqlite::Result<VecDeque<Option<IndexedNode>>> {
        let mut found: VecDeque<_> = ids.iter().map(|_| None).collect();
        let (Some(first), Some(last)) = (ids.first(), ids.last()) else { return Ok(found) };
        let mut rows = self.run.query([sql_id(*first), sql_id(*last)])?;
        while let Some(row) = rows.next()? {
            let id: i64 = row.get(0)?;
            if let Ok(at) = ids.binary_search_by_key(&id, |id| sql_id(*id)) {
                found[at] = not_the_root(read(row)?);
            }
        }
        Ok(found)
    }
}

/// Deeper trees than any path length allows.
const MAX_DEPTH: usize = 4096;

/// Columns that are written.
const WRITTEN: usize = 15;
/// Those of the node itself.
const WRITTEN_OF_A_NODE: usize = 9;

/// Adds new nodes.
pub(crate) type Inserter<'a> = Adder<'a, WRITTEN>;
pub(crate) type InserterOfOthers<'a> = Adder<'a, WRITTEN_OF_A_NODE>;

/// One row to write.
#[derive(Debug)]
pub(crate) struct Write<'a> {
    pub node: &'a IndexedNode,
    pub seq: Seq,
    pub moved: bool,
}

impl rows::Row<WRITTEN> for Write<'_> {
    fn values(&self) -> [ValueRef<'_>; WRITTEN] {
        use ValueRef::{Integer, Null};
        let IndexedNode { node, identity, vouched } = self.node;
        let [id, kind, parent, name, size, mtime_s, mtime_ns, mode, content] = values_of(node);
        [
            id,
            kind,
            parent,
            name,
            size,
            mtime_s,
            mtime_ns,
            mode,
            content,
            if identity.ino == 0 { Null } else { Integer(identity.ino.cast_signed()) },
            Integer(identity.ctime.secs),
            Integer(identity.ctime.nanos.into()),
            Integer((*vouched).into()),
            Integer(self.seq.0.cast_signed()),
            Integer(self.moved.into()),
        ]
    }
}

/// A row for a node that somebody else has.
#[derive(Debug)]
pub(crate) struct Theirs<'a>(pub &'a Node);

impl rows::Row<WRITTEN_OF_A_NODE> for Theirs<'_> {
    fn values(&self) -> [ValueRef<'_>; WRITTEN_OF_A_NODE] {
        values_of(self.0)
    }
}

fn values_of(node: &Node) -> [ValueRef<'_>; WRITTEN_OF_A_NODE] {
    use ValueRef::{Blob, Integer, Null, Text};
    let Entry { content, mtime, mode } = &node.entry;
    let (kind, bytes) = match content {
        Content::File { digest, .. } => (FILE, Blob(&digest.0)),
        Content::Directory => (DIRECTORY, Null),
        Content::Symlink { target } => (SYMLINK, Blob(target)),
    };
    [
        Integer(sql_id(node.id)),
        Integer(kind),
        Integer(sql_id(node.parent)),
        Text(node.name.as_str().as_bytes()),
        Integer(content.size().cast_signed()),
        Integer(mtime.secs),
        Integer(mtime.nanos.into()),
        Integer((*mode).into()),
        bytes,
    ]
}

/// An id as it is in the table, where they are in the order of these.
pub(super) fn sql_id(id: NodeId) -> i64 {
    id.0.cast_signed()
}

fn present(row: Stored) -> Option<IndexedNode> {
    match row {
        Stored::Present(node) => Some(node),
        Stored::Gone(_) => None,
    }
}

/// The node of a row; nobody is shown the root's.
fn not_the_root(row: Stored) -> Option<IndexedNode> {
    present(row).filter(|row| row.node.id != NodeId::ROOT)
}

fn sketch(row: &Row<'_>) -> rusqlite::Result<Sketch> {
    let mtime = Time { secs: row.get(5)?, nanos: row.get(6)? };
    Ok(Sketch {
        is_file: row.get::<_, i64>(1)? == FILE,
        mtime,
        mode: row.get(7)?,
        identity: identity(row, mtime)?,
        vouched: row.get(12)?,
    })
}

/// The identity in a row of this modification time.
fn identity(row: &Row<'_>, mtime: Time) -> rusqlite::Result<Identity> {
    Ok(Identity {
        ino: row.get::<_, Option<i64>>(9)?.unwrap_or(0).cast_unsigned(),
        size: row.get::<_, i64>(4)?.cast_unsigned(),
        mtime,
        ctime: Time { secs: row.get(10)?, nanos: row.get(11)? },
    })
}

fn read(row: &Row<'_>) -> rusqlite::Result<Stored> {
    let id = NodeId(row.get::<_, i64>(0)?.cast_unsigned());
    let kind: i64 = row.get(1)?;
    if kind == GONE {
        return Ok(Stored::Gone(id));
    }
    let size = row.get::<_, i64>(4)?.cast_unsigned();
    let content = match kind {
        FILE => Content::File { size, digest: Digest(row.get(8)?) },
        DIRECTORY => Content::Directory,
        _ => Content::Symlink { target: row.get_ref(8)?.as_blob()?.into() },
    };
    let mtime = Time { secs: row.get(5)?, nanos: row.get(6)? };
    let name = match row.get_ref(3)?.as_str_or_null()? {
        Some(name) => Name::new(name).map_err(|error| bad_name(&error))?,
        // Only the root has no name; a stand-in keeps `Node` simple, and nobody is shown the root's node.
        None => Name::new("root").map_err(|error| bad_name(&error))?,
    };
    let parent = NodeId(row.get::<_, Option<i64>>(2)?.unwrap_or(0).cast_unsigned());
    let entry = Entry { content, mtime, mode: row.get(7)? };
    let node = Node { id, parent, name, entry };
    let identity = identity(row, mtime)?;
    Ok(Stored::Present(IndexedNode { node, identity, vouched: row.get(12)? }))
}

fn bad_name(error: &sync_core::NameError) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(3, rusqlite::types::Type::Text, error.to_string().into())
}
