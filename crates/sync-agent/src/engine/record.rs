//! Writes down what was done. Only what is on the disk is recorded, and only after the flush that the durability asks for.

use std::collections::HashSet;

use sync_core::{Content, Entry, Name, Node, NodeId};
use sync_tree::{
    hash::Identity,
    index::{IndexError, IndexTx, IndexedNode},
    rooted::{Stat, StatKind},
};

use super::store::{Store, agree, drop_base_of_local, local_of};

/// One thing that was done.
#[derive(Debug)]
pub(super) enum Done {
    /// A file, link or directory is in its place; `over` is the local node that it took the place of.
    Present { remote: Node, over: Option<NodeId>, stat: Stat },
    /// A node is in its new place.
    Moved { remote: Node, local: Node, stat: Stat },
    /// A node waits in staging; its place is free for another.
    TakenOut { local: Node },
    /// A node is gone.
    Removed { local: Node },
}

/// Records a batch in one transaction. Answers the local directories in which something was changed.
pub(super) fn record(store: &Store, batch: &[Done]) -> Result<HashSet<NodeId>, IndexError> {
    let (touched, _) = store.index().write(|tx| {
        let mut touched = HashSet::new();
        for done in batch {
            record_one(tx, done, &mut touched)?;
        }
        Ok::<_, IndexError>(touched)
    })?;
    Ok(touched)
}

fn record_one(tx: &mut IndexTx<'_>, done: &Done, touched: &mut HashSet<NodeId>) -> Result<(), IndexError> {
    match done {
        Done::Present { remote, over, stat } => {
            let Some(parent) = parent_of(tx, remote)? else { return Ok(()) };
            touched.insert(parent);
            let known = match over {
                Some(id) => tx.get(*id)?,
                None => tx.child(parent, &remote.name)?,
            };
            let id = match &known {
                Some(known) => known.node.id,
                None => tx.new_id()?,
            };
            let new = indexed(id, parent, remote, stat);
            match &known {
                Some(known) => drop(tx.update(known, &new)?),
                None => tx.insert(&new)?,
            }
            agree(tx.sql(), remote, id)?;
        }
        Done::Moved { remote, local, stat } => {
            let Some(parent) = parent_of(tx, remote)? else { return Ok(()) };
            touched.extend([parent, local.parent]);
            if let Some(known) = tx.get(local.id)? {
                let new = indexed(local.id, parent, remote, stat);
                tx.update(&known, &new)?;
            }
            agree(tx.sql(), remote, local.id)?;
        }
        Done::TakenOut { local } => {
            touched.insert(local.parent);
            if let Some(known) = tx.get(local.id)? {
                let mut new = known.clone();
                // At the top: its own directory may be removed before it is put in.
                new.node.parent = NodeId::ROOT;
                new.node.name = waiting_name(local.id);
                tx.update(&known, &new)?;
            }
        }
        Done::Removed { local } => {
            touched.insert(local.parent);
            if let Some(known) = tx.get(local.id)? {
                tx.remove(&known)?;
            }
            drop_base_of_local(tx.sql(), local.id)?;
        }
    }
    Ok(())
}

/// The local directory that a node is in now. Without one the next look finds the node by itself.
fn parent_of(tx: &IndexTx<'_>, remote: &Node) -> Result<Option<NodeId>, IndexError> {
    let parent = local_of(tx.sql(), remote.parent)?;
    match parent {
        Some(id) if id != NodeId::ROOT && tx.get(id)?.is_none() => Ok(None),
        parent => Ok(parent),
    }
}

/// A name that nobody has, for a node between two places. If the run ends here, the node is back in its old place, or in the
/// trash, when the next one begins, and the next look finds it by its inode or finds it gone.
fn waiting_name(id: NodeId) -> Name {
    Name::new(&format!(".syncd waits {}", id.0)).expect("a short name without a slash")
}

/// The local node as it is on the disk now. Its content was verified on the way, so its identity vouches for it.
fn indexed(id: NodeId, parent: NodeId, remote: &Node, stat: &Stat) -> IndexedNode {
    let content = remote.entry.content.clone();
    let is_file = stat.kind == StatKind::File;
    let mode = if matches!(content, Content::Symlink { .. }) { 0 } else { stat.mode & 0o777 };
    let identity = Identity {
        ino: stat.ino,
        size: if is_file { stat.size } else { 0 },
        mtime: stat.mtime,
        ctime: if content.is_dir() { Default::default() } else { stat.ctime },
    };
    let entry = Entry { content, mtime: stat.mtime, mode };
    IndexedNode { node: Node { id, parent, name: remote.name.clone(), entry }, identity, vouched: true }
}
