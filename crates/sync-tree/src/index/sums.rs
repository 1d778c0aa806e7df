//! Keeps the directory sums of one table true while nodes change.
//!
//! A change in a directory alters its sum, that alters the directory's own record in its parent, and so on up to the root.
//! [`Sums`] collects that during one transaction and settles it once: every touched directory is written once, however many
//! children changed. Nothing is read but the touched directories and their ancestors.

use std::collections::{HashMap, hash_map::Entry as MapEntry};

use foldhash::quality::RandomState;
use rusqlite::Connection;
use sync_core::{Entry, Name, Node, NodeId, treehash::DirSum};

use super::table::{IndexedNode, NodeTable, Stored};

/// A directory as far as sums are concerned.
#[derive(Debug, Clone)]
struct Dir {
    parent: NodeId,
    name: Name,
    entry: Entry,
    sum: DirSum,
    /// What the parent's sum holds for this directory at present; `None` while it is taken out.
    included: Option<DirSum>,
    dirty: bool,
}

impl Dir {
    fn record(&self) -> DirSum {
        DirSum::of_child(&self.name, &self.entry, Some(&self.sum.digest()))
    }
}

/// The touched directories of one transaction.
#[derive(Debug, Default)]
pub(crate) struct Sums {
    dirs: HashMap<NodeId, Dir, RandomState>,
}

impl Sums {
    /// The current sum of a directory that was touched, for rows that are written again.
    pub(crate) fn sum_of(
        &mut self,
        db: &Connection,
        table: &NodeTable,
        id: NodeId,
    ) -> rusqlite::Result<DirSum> {
        Ok(self.load(db, table, id)?.map(|dir| dir.sum).unwrap_or_default())
    }

    /// A node appears in its directory.
    pub(crate) fn enter(&mut self, db: &Connection, table: &NodeTable, node: &Node) -> rusqlite::Result<()> {
        if node.entry.content.is_dir() {
            let sum = match self.dirs.get(&node.id) {
                Some(dir) => dir.sum,
                None => self.sum_of_orphans(db, table, node.id)?,
            };
            let dir = Dir {
                parent: node.parent,
                name: node.name.clone(),
                entry: node.entry.clone(),
                sum,
                included: None,
                dirty: true,
            };
            self.dirs.insert(node.id, dir);
            return Ok(());
        }
        let record = DirSum::of_child(&node.name, &node.entry, None);
        if let Some(parent) = self.load(db, table, node.parent)? {
            parent.sum.add(&record);
            parent.dirty = true;
        }
        Ok(())
    }

    /// The sum of children that came before their directory: a feed may do that.
    fn sum_of_orphans(&mut self, db: &Connection, table: &NodeTable, id: NodeId) -> rusqlite::Result<DirSum> {
        let mut sum = DirSum::default();
        for IndexedNode { node, .. } in table.children(db, id)? {
            if !node.entry.content.is_dir() {
                sum.add(&DirSum::of_child(&node.name, &node.entry, None));
            } else if let Some(record) = self.load(db, table, node.id)?.and_then(|dir| dir.included) {
                // A directory that is not included now is dirty, and settling adds it.
                sum.add(&record);
            }
        }
        Ok(sum)
    }

    /// A node leaves its directory, or is about to change there. A directory's own sum stays known, so that it can
    /// [`enter`](Self::enter) elsewhere.
    pub(crate) fn leave(&mut self, db: &Connection, table: &NodeTable, node: &Node) -> rusqlite::Result<()> {
        let record = if node.entry.content.is_dir() {
            let Some(dir) = self.load(db, table, node.id)? else { return Ok(()) };
            let Some(record) = dir.included.take() else { return Ok(()) };
            record
        } else {
            DirSum::of_child(&node.name, &node.entry, None)
        };
        if let Some(parent) = self.load(db, table, node.parent)? {
            parent.sum.subtract(&record);
            parent.dirty = true;
        }
        Ok(())
    }

    /// Forgets a directory that is gone, or is one no more.
    pub(crate) fn forget(&mut self, db: &Connection, table: &NodeTable, id: NodeId) -> rusqlite::Result<()> {
        self.dirs.remove(&id);
        table.delete_sum(db, id)
    }

    /// Brings all ancestors up to date and writes every touched directory. Answers the root's sum.
    pub(crate) fn settle(&mut self, db: &Connection, table: &NodeTable) -> rusqlite::Result<DirSum> {
        let order = self.take_out_upwards(db, table)?;
        for id in order {
            let Some(dir) = self.dirs.get_mut(&id) else { continue };
            table.set_sum(db, id, &dir.sum)?;
            dir.dirty = false;
            if id == NodeId::ROOT {
                continue;
            }
            let (record, parent) = (dir.record(), dir.parent);
            dir.included = Some(record);
            if let Some(parent) = self.dirs.get_mut(&parent) {
                parent.sum.add(&record);
            }
        }
        let root = self.sum_of(db, table, NodeId::ROOT)?;
        // The transaction may go on for long; what was settled can be read again.
        self.dirs.clear();
        Ok(root)
    }

    /// Takes the records of all dirty directories, and of everything above them, out of their parents' sums. Answers these
    /// directories, deepest first: the order in which their final records can be put back.
    fn take_out_upwards(&mut self, db: &Connection, table: &NodeTable) -> rusqlite::Result<Vec<NodeId>> {
        let mut depths: HashMap<NodeId, usize, RandomState> = HashMap::default();
        let dirty: Vec<NodeId> = self.dirs.iter().filter(|(_, dir)| dir.dirty).map(|(id, _)| *id).collect();
        for id in dirty {
            let mut chain = Vec::new();
            let mut at = id;
            while !depths.contains_key(&at) {
                // A cycle of parents can only come from a hostile feed; its digest will simply never match.
                if chain.len() > 4096 {
                    break;
                }
                let Some(dir) = self.load(db, table, at)? else { break };
                chain.push(at);
                if at == NodeId::ROOT {
                    break;
                }
                let (parent, record) = (dir.parent, dir.included.take());
                dir.dirty = true;
                if let (Some(record), Some(parent)) = (record, self.load(db, table, parent)?) {
                    parent.sum.subtract(&record);
                    parent.dirty = true;
                }
                at = parent;
            }
            let mut depth = depths.get(&at).copied().unwrap_or(0);
            for id in chain.into_iter().rev() {
                depth += 1;
                depths.insert(id, depth);
            }
        }
        let mut order: Vec<NodeId> = depths.keys().copied().collect();
        order.sort_by_key(|id| std::cmp::Reverse(depths[id]));
        Ok(order)
    }

    fn load(&mut self, db: &Connection, table: &NodeTable, id: NodeId) -> rusqlite::Result<Option<&mut Dir>> {
        if let MapEntry::Vacant(place) = self.dirs.entry(id) {
            let Some(Stored::Present(row)) = table.stored(db, id)? else { return Ok(None) };
            let node = row.node;
            if !node.entry.content.is_dir() {
                return Ok(None);
            }
            let mut dir = Dir {
                parent: node.parent,
                name: node.name,
                entry: node.entry,
                sum: table.sum(db, id)?,
                included: None,
                dirty: false,
            };
            dir.included = (id != NodeId::ROOT).then(|| dir.record());
            place.insert(dir);
        }
        Ok(self.dirs.get_mut(&id))
    }
}
