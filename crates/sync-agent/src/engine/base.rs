//! *Base*: what share and target last agreed on, a row for each remote node, with the local node that it was agreed to be.
//!
//! A local node is agreed on with one remote node at most. Of what the remote had once, and has no more or elsewhere, the row
//! has a negative id, which no node has.

use std::{ops::Range, sync::LazyLock};

use rusqlite::{Connection, OptionalExtension as _, types::ValueRef};
use sync_core::{Content, Digest, Entry, Node, NodeId, Time, plan::Base};
use sync_tree::index::{
    NodeTable,
    rows::{Adder, Additions, Row, execute},
};

/// Both sides have this node now.
pub(super) fn agree(db: &Connection, remote: &Node, local: NodeId) -> rusqlite::Result<()> {
    // Mostly it is the same two that agree on something else, or on the same again. Replacing the row would write its place
    // in the index too.
    match base_of(db, remote.id)? {
        Some(base) if base.local == local && base.entry == remote.entry => return Ok(()),
        Some(base) if base.local == local => {
            return execute(&mut *db.prepare_cached(UPDATE_BASE)?, &BaseRow { remote, local });
        }
        _ => {}
    }
    // A local node is agreed on with one remote node at most.
    db.prepare_cached("DELETE FROM base WHERE local = ?1 AND id <> ?2")?
        .execute([local.0.cast_signed(), remote.id.0.cast_signed()])?;
    NewBase::of(db)?.agree(remote, local)
}

/// What is agreed on about a node.
#[derive(Debug, Clone, Copy)]
pub(super) struct BaseRow<'n> {
    pub remote: &'n Node,
    pub local: NodeId,
}

const COLUMNS: usize = 8;

impl Row<COLUMNS> for BaseRow<'_> {
    fn values(&self) -> [ValueRef<'_>; COLUMNS] {
        use ValueRef::{Blob, Integer, Null};
        let Entry { content, mtime, mode } = &self.remote.entry;
        let (kind, bytes) = match content {
            Content::File { digest, .. } => (1, Blob(&digest.0)),
            Content::Directory => (2, Null),
            Content::Symlink { target } => (3, Blob(target)),
        };
        [
            Integer(self.remote.id.0.cast_signed()),
            Integer(self.local.0.cast_signed()),
            Integer(kind),
            Integer(content.size().cast_signed()),
            Integer(mtime.secs),
            Integer(mtime.nanos.into()),
            Integer((*mode).into()),
            bytes,
        ]
    }
}

static ADDITIONS: LazyLock<Additions> = LazyLock::new(|| {
    Additions::with_ids::<COLUMNS>("base", "id", "local, kind, size, mtime_s, mtime_ns, mode, content", &[])
});

/// Writes what is agreed on about local nodes about which nothing is, as those that were just made.
pub(super) struct NewBase<'db> {
    db: &'db Connection,
    adder: Adder<'db, COLUMNS>,
}

impl<'db> NewBase<'db> {
    pub(super) fn of(db: &'db Connection) -> rusqlite::Result<Self> {
        Ok(Self { db, adder: ADDITIONS.on(db)? })
    }

    /// Both sides have this node now.
    pub(super) fn agree(&mut self, remote: &Node, local: NodeId) -> rusqlite::Result<()> {
        self.agree_each(&[BaseRow { remote, local }])
    }

    /// Both sides have these nodes now.
    pub(super) fn agree_each(&mut self, rows: &[BaseRow<'_>]) -> rusqlite::Result<()> {
        let added = self.adder.add_each(rows)?;
        // Where something was agreed on about one of them, it mostly was about those behind it.
        for row in &rows[added..] {
            // REPLACE makes SQLite note the pages of each row for the case that it fails midway, which takes as long again.
            if !self.adder.add(row)? {
                self.replace(row)?;
            }
        }
        Ok(())
    }

    /// Writes what is agreed on in place of what was.
    fn replace(&self, row: &BaseRow<'_>) -> rusqlite::Result<()> {
        keep_former(self.db, row.remote.id, row.local)?;
        let replace = "INSERT OR REPLACE INTO base VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
        execute(&mut *self.db.prepare_cached(replace)?, row)
    }
}

/// The remote node is another local node from now on. If the one that it was is still there, the share had that all the same:
/// it is nobody's own work.
fn keep_former(db: &Connection, id: NodeId, local: NodeId) -> rusqlite::Result<()> {
    db.prepare_cached(
        "UPDATE base SET id = (SELECT min(id, 0) - 1 FROM base ORDER BY id LIMIT 1) WHERE id = ?1 AND local <> ?2 \
         AND local IN (SELECT id FROM nodes WHERE kind <> 0)",
    )?
    .execute([id.0.cast_signed(), local.0.cast_signed()])?;
    Ok(())
}

/// For a row whose local node stays the same; the numbers are those of the row's columns.
const UPDATE_BASE: &str = "UPDATE base SET kind = ?3, size = ?4, mtime_s = ?5, mtime_ns = ?6, mode = ?7, content = ?8 \
     WHERE id = ?1 AND local = ?2";

/// Nothing is agreed on about this remote node any more.
pub(super) fn drop_base(db: &Connection, id: NodeId) -> rusqlite::Result<()> {
    db.prepare_cached("DELETE FROM base WHERE id = ?1")?.execute([id.0.cast_signed()])?;
    Ok(())
}

/// Nothing is agreed on about this local node any more.
pub(super) fn drop_base_of_local(db: &Connection, local: NodeId) -> rusqlite::Result<()> {
    db.prepare_cached("DELETE FROM base WHERE local = ?1")?.execute([local.0.cast_signed()])?;
    Ok(())
}

/// The local node that a remote one was agreed to be.
pub(super) fn local_of(db: &Connection, remote: NodeId) -> rusqlite::Result<Option<NodeId>> {
    if remote == NodeId::ROOT {
        return Ok(Some(remote));
    }
    let found = db
        .prepare_cached("SELECT local FROM base WHERE id = ?1")?
        .query_row([remote.0.cast_signed()], |row| row.get::<_, i64>(0))
        .optional()?;
    Ok(found.map(|id| NodeId(id.cast_unsigned())))
}

/// The remote node that a local one was agreed to be.
pub(super) fn remote_of(db: &Connection, local: NodeId) -> rusqlite::Result<Option<NodeId>> {
    let found = db
        .prepare_cached("SELECT id FROM base WHERE local = ?1")?
        .query_row([local.0.cast_signed()], |row| row.get::<_, i64>(0))
        .optional()?;
    Ok(found.map(|id| NodeId(id.cast_unsigned())))
}

/// Gives everything that was agreed on the id that the same path has in the new tree. What the new tree lacks gets an id
/// that no node has: the remote had it once, and has it no more.
pub(super) fn rename_base(db: &Connection, old: &NodeTable, new: &NodeTable) -> rusqlite::Result<()> {
    let ids: Vec<i64> = db
        .prepare("SELECT id FROM base")?
        .query_map([], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    // First out of the way of the new ids, and of what is out of the way since earlier: all become negative.
    let lowest: i64 = db.query_row("SELECT min(coalesce(min(id), 0), 0) FROM base", [], |row| row.get(0))?;
    db.execute("UPDATE base SET id = ?1 - id - 1 WHERE id >= 0", [lowest])?;
    for id in ids.into_iter().filter(|id| *id >= 0) {
        let Some(path) = old.path_of(db, NodeId(id.cast_unsigned()))? else { continue };
        if let Some(found) = new.find(db, &path)? {
            // A feed that was cut between two commit points may have left two nodes in one place; one of them has it.
            db.prepare_cached("UPDATE OR IGNORE base SET id = ?2 WHERE id = ?1")?
                .execute([lowest - id - 1, found.node.id.0.cast_signed()])?;
        }
    }
    Ok(())
}

/// What neither side has any more was agreed on for nothing. `remote` is the table of the remote tree.
pub(super) fn drop_dead_base(db: &Connection, remote: &str) -> rusqlite::Result<()> {
    db.execute(
        &format!(
            "DELETE FROM base WHERE id NOT IN (SELECT id FROM {remote}) \
             AND local NOT IN (SELECT id FROM nodes WHERE kind <> 0)"
        ),
        [],
    )?;
    Ok(())
}

/// The same for the remote nodes that are pending.
pub(super) fn drop_base_of_dead(db: &Connection, remote: &str) -> rusqlite::Result<()> {
    db.execute(
        &format!(
            "DELETE FROM base WHERE id IN (SELECT id FROM pending_remote p WHERE NOT EXISTS \
             (SELECT 1 FROM {remote} r WHERE r.id = p.id)) \
             AND NOT EXISTS (SELECT 1 FROM nodes n WHERE n.id = base.local AND n.kind <> 0)"
        ),
        [],
    )?;
    Ok(())
}

/// Runs a statement for each of many nodes.
pub(super) fn for_each<'n>(
    db: &Connection,
    sql: &str,
    ids: impl IntoIterator<Item = &'n NodeId>,
) -> rusqlite::Result<()> {
    let mut statement = db.prepare_cached(sql)?;
    ids.into_iter().try_for_each(|id| statement.execute([id.0.cast_signed()]).map(drop))
}

/// What was agreed on about a remote node.
pub(super) fn base_of(db: &Connection, id: NodeId) -> rusqlite::Result<Option<Base>> {
    base_where(
        db,
        "SELECT id, local, kind, size, mtime_s, mtime_ns, mode, content FROM base WHERE id = ?1",
        id,
    )
}

/// What was agreed on, for somebody who asks about many remote nodes. About new ones nothing was, and these are many in a row.
pub(super) struct Bases<'db> {
    db: &'db Connection,
    /// About these nothing was agreed on.
    none: Range<i64>,
}

impl<'db> Bases<'db> {
    pub(super) fn of_all(db: &'db Connection) -> Self {
        Self { db, none: 0..0 }
    }

    /// What was agreed on about a remote node.
    pub(super) fn of(&mut self, id: NodeId) -> rusqlite::Result<Option<Base>> {
        let key = id.0.cast_signed();
        if self.none.contains(&key) {
            return Ok(None);
        }
        let base = base_of(self.db, id)?;
        if base.is_none() {
            let next: Option<i64> = self
                .db
                .prepare_cached("SELECT min(id) FROM base WHERE id > ?1")?
                .query_row([key], |row| row.get(0))?;
            self.none = key..next.unwrap_or(i64::MAX);
        }
        Ok(base)
    }
}

/// What was agreed on about a local node.
pub(super) fn base_of_local(db: &Connection, local: NodeId) -> rusqlite::Result<Option<Base>> {
    base_where(
        db,
        "SELECT id, local, kind, size, mtime_s, mtime_ns, mode, content FROM base WHERE local = ?1",
        local,
    )
}

fn base_where(db: &Connection, sql: &str, id: NodeId) -> rusqlite::Result<Option<Base>> {
    db.prepare_cached(sql)?
        .query_row([id.0.cast_signed()], |row| {
            let size = row.get::<_, i64>(3)?.cast_unsigned();
            let content = match row.get::<_, i64>(2)? {
                1 => Content::File { size, digest: Digest(row.get(7)?) },
                2 => Content::Directory,
                _ => Content::Symlink { target: row.get_ref(7)?.as_blob()?.into() },
            };
            let mtime = Time { secs: row.get(4)?, nanos: row.get(5)? };
            Ok(Base {
                id: NodeId(row.get::<_, i64>(0)?.cast_unsigned()),
                local: NodeId(row.get::<_, i64>(1)?.cast_unsigned()),
                entry: Entry { content, mtime, mode: row.get(6)? },
            })
        })
        .optional()
}

#[cfg(test)]
mod tests {
    use sync_core::Name;
    use sync_tree::index::{Index, IndexError};

    use super::*;
    use crate::engine::store::Store;

    fn file(id: u64) -> Node {
        let content = Content::File { size: id, digest: Digest::of(&id.to_le_bytes()) };
        let entry = Entry { content, mtime: Time { secs: 1, nanos: 2 }, mode: 0o644 };
        Node { id: NodeId(id), parent: NodeId::ROOT, name: Name::new(&format!("{id}")).unwrap(), entry }
    }

    #[test]
    fn of_many_it_is_known_what_was_agreed_on_in_whatever_order_they_are_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(Index::open(&dir.path().join("target.db")).unwrap()).unwrap();
        let agreed = |id: u64| id % 7 == 3 || (40..60).contains(&id);
        let work = |tx: &mut sync_tree::index::IndexTx<'_>| {
            let mut base = NewBase::of(tx.sql())?;
            (1..100).filter(|id| agreed(*id)).try_for_each(|id| base.agree(&file(id), NodeId(1000 + id)))?;
            // Of what the share had once.
            tx.sql().execute("UPDATE base SET id = -5 WHERE id = 45", [])?;
            let mut bases = Bases::of_all(tx.sql());
            let mut rng = sync_testkit::rng::Rng::new(1);
            for id in (1..120).chain((1..120).rev()).chain((0..500).map(|_| rng.below(120) as u64)) {
                let local = bases.of(NodeId(id))?.map(|base| base.local.0);
                assert_eq!(local, (agreed(id) && id < 100 && id != 45).then_some(1000 + id), "{id}");
            }
            Ok::<_, IndexError>(())
        };
        store.index().write(work).unwrap();
    }

    /// Wherever among many rows there is one already, by either of its ids.
    #[test]
    fn what_was_agreed_on_before_is_replaced_and_the_others_are_new() {
        for at in 0..40 {
            for former in [(1000 + at, 7), (7, 2000 + at)] {
                let dir = tempfile::tempdir().unwrap();
                let store = Store::open(Index::open(&dir.path().join("target.db")).unwrap()).unwrap();
                let remote: Vec<Node> = (0..40).map(|number| file(1000 + number)).collect();
                let rows: Vec<_> =
                    (2000..).zip(&remote).map(|(id, remote)| BaseRow { remote, local: NodeId(id) }).collect();
                let work = |tx: &mut sync_tree::index::IndexTx<'_>| {
                    let mut base = NewBase::of(tx.sql())?;
                    base.agree(&file(former.0), NodeId(former.1))?;
                    base.agree_each(&rows)?;
                    let count = "SELECT count(*) FROM base";
                    assert_eq!(tx.sql().query_row(count, [], |row| row.get::<_, i64>(0))?, 40);
                    for row in &rows {
                        let base = base_of(tx.sql(), row.remote.id)?.unwrap();
                        assert_eq!((base.local, base.entry), (row.local, row.remote.entry.clone()));
                    }
                    Ok::<_, IndexError>(())
                };
                store.index().write(work).unwrap();
            }
        }
    }
}
