//! Describes the places that a side lacks of a tree of which it got a part, a part at a time.
//!
//! Places depend on each other only if something was agreed on about them or is in the way, and of what is described here
//! neither is true. So each part can be planned and carried out by itself, and neither the slots nor the plan of a whole tree
//! are ever in memory.

use std::collections::HashSet;

use super::{gather::Trees, slot::Slot};
use crate::{
    entry::{Content, Node, NodeId},
    name::TreePath,
};

/// A walk through a remote tree. Between two parts it keeps only the directories that are still to be looked at, so the tree
/// may be read in a transaction for each part.
#[derive(Debug)]
pub struct Filling {
    todo: Vec<Todo>,
    leaves: HashSet<NodeId>,
}

/// A directory that is still to be looked at.
#[derive(Debug)]
struct Todo {
    remote: NodeId,
    /// The same directory here, if it was here when the walk began.
    local: Option<NodeId>,
    path: TreePath,
    /// Its own place, if it is to be made. It comes together with all that is in it.
    slot: Option<Slot>,
}

impl Filling {
    /// The places of which nothing was agreed on, where nothing is, and whose content is nowhere on this side. The others are left
    /// to a plan of the whole.
    #[must_use]
    pub fn rest() -> Self {
        let local = Some(NodeId::ROOT);
        let root = Todo { remote: NodeId::ROOT, local, path: TreePath::root(), slot: None };
        Self { todo: vec![root], leaves: HashSet::new() }
    }

    /// Whether the last part has all that will be in this directory before a plan of the whole is made.
    #[must_use]
    pub fn is_leaf(&self, id: NodeId) -> bool {
        self.leaves.contains(&id)
    }

    /// The next places, a directory's own place before those in it, and the files of one directory together; at least `least`
    /// of them unless it is the last part. `None` after that.
    ///
    /// # Errors
    /// Reading the trees failed.
    pub fn next_part<T: Trees>(&mut self, trees: &T, least: usize) -> Result<Option<Vec<Slot>>, T::Error> {
        let mut slots = Vec::new();
        self.leaves.clear();
        while slots.len() < least
            && let Some(mut dir) = self.todo.pop()
        {
            slots.extend(dir.slot.take());
            let others = self.todo.len();
            for node in trees.remote_children(dir.remote)? {
                self.child(trees, &dir, node, &mut slots)?;
            }
            if self.todo.len() == others {
                self.leaves.insert(dir.remote);
            }
        }
        Ok((!slots.is_empty()).then_some(slots))
    }

    fn child<T: Trees>(
        &mut self,
        trees: &T,
        dir: &Todo,
        node: Node,
        slots: &mut Vec<Slot>,
    ) -> Result<(), T::Error> {
        let path = dir.path.join(&node.name);
        let is_dir = node.entry.content.is_dir();
        if is_missing(trees, dir, &node)? {
            let (remote, slot) = (node.id, Slot::of_new(path.clone(), dir.local.is_some(), node));
            match is_dir {
                true => self.todo.push(Todo { remote, local: None, path, slot: Some(slot) }),
                false => slots.push(slot),
            }
        } else if is_dir && let Some(local) = agreed_here(trees, dir, &node)? {
            self.todo.push(Todo { remote: node.id, local: Some(local), path, slot: None });
        }
        Ok(())
    }
}

fn is_missing<T: Trees>(trees: &T, dir: &Todo, node: &Node) -> Result<bool, T::Error> {
    if trees.base(node.id)?.is_some() || local_child(trees, dir, node)?.is_some() {
        return Ok(false);
    }
    Ok(match &node.entry.content {
        Content::File { digest, .. } => trees.local_with(digest)?.is_none(),
        _ => true,
    })
}

fn local_child<T: Trees>(trees: &T, dir: &Todo, node: &Node) -> Result<Option<Node>, T::Error> {
    match dir.local {
        Some(local) => trees.local_child(local, &node.name),
        None => Ok(None),
    }
}

/// The directory here that was agreed to be this remote one, if it is in the same place.
fn agreed_here<T: Trees>(trees: &T, dir: &Todo, node: &Node) -> Result<Option<NodeId>, T::Error> {
    let Some(here) = local_child(trees, dir, node)?.filter(|here| here.entry.content.is_dir()) else {
        return Ok(None);
    };
    Ok(trees.base(node.id)?.filter(|base| base.local == here.id).map(|base| base.local))
}
