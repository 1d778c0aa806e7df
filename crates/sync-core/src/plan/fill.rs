//! Describes the places of a side that has nothing yet, a part at a time.
//!
//! Places depend on each other only if something was agreed on about them or is in the way, and here nothing is. So each part
//! can be planned and carried out by itself, and neither the slots nor the plan of a whole tree are ever in memory.

use super::slot::Slot;
use crate::{
    entry::{Node, NodeId},
    name::TreePath,
};

/// A walk through a remote tree. Between two parts it keeps only the directories that are still to be looked at, so the tree
/// may be read in a transaction for each part.
#[derive(Debug)]
pub struct Filling {
    todo: Vec<(NodeId, TreePath)>,
}

impl Default for Filling {
    fn default() -> Self {
        Self { todo: vec![(NodeId::ROOT, TreePath::root())] }
    }
}

impl Filling {
    /// The next places, a directory's own place before those in it; at least `least` of them unless it is the last part.
    /// `None` after that. `children` answers what is in a remote directory.
    ///
    /// # Errors
    /// What `children` fails with.
    pub fn next_part<E>(
        &mut self,
        least: usize,
        mut children: impl FnMut(NodeId) -> Result<Vec<Node>, E>,
    ) -> Result<Option<Vec<Slot>>, E> {
        let mut slots = Vec::new();
        while slots.len() < least
            && let Some((dir, dir_path)) = self.todo.pop()
        {
            for node in children(dir)? {
                let path = dir_path.join(&node.name);
                if node.entry.content.is_dir() {
                    self.todo.push((node.id, path.clone()));
                }
                slots.push(slot(dir, path, node));
            }
        }
        Ok((!slots.is_empty()).then_some(slots))
    }
}

fn slot(dir: NodeId, path: TreePath, node: Node) -> Slot {
    Slot {
        // Of all directories only the root is here already.
        local_path: (dir == NodeId::ROOT).then(|| path.clone()),
        path,
        remote: Some(node),
        local: None,
        base: None,
        arrives: None,
        leaves: false,
        copy: None,
        keep: None,
    }
}
