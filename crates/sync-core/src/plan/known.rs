//! What was found out about directories while places are gathered.
//!
//! Many of the places that are looked at are in the same directories, and each would ask for them and for all above them again.

use std::{cell::RefCell, collections::HashMap};

use crate::{
    entry::{Node, NodeId},
    name::TreePath,
};

/// What is known of directories. The trees stay as they are for as long as places are gathered.
#[derive(Default)]
pub(super) struct Known {
    pub(super) remote_paths: Memo<Option<TreePath>>,
    pub(super) local_paths: Memo<Option<TreePath>>,
    /// The local directories of remote ones.
    pub(super) locals: Memo<Option<NodeId>>,
    /// The remote directories of local ones.
    pub(super) remotes: Memo<Option<NodeId>>,
}

/// Answers by directory; all are forgotten when they get too many.
pub(super) struct Memo<V>(RefCell<HashMap<NodeId, V>>);

/// Deeper than any path can be: a chain of parents that is longer is a loop.
pub const MAX_DEPTH: usize = 4096;

/// So many are kept, whatever the size of the tree.
const MOST_KNOWN: usize = 8192;

impl<V> Default for Memo<V> {
    fn default() -> Self {
        Self(RefCell::default())
    }
}

impl<V: Clone> Memo<V> {
    pub(super) fn get(&self, id: NodeId) -> Option<V> {
        self.0.borrow().get(&id).cloned()
    }

    /// What is known, or what is found now. Errors are not kept.
    pub(super) fn get_or<E>(&self, id: NodeId, find: impl FnOnce() -> Result<V, E>) -> Result<V, E> {
        if let Some(known) = self.get(id) {
            return Ok(known);
        }
        let found = find()?;
        let mut known = self.0.borrow_mut();
        if known.len() >= MOST_KNOWN {
            known.clear();
        }
        known.insert(id, found.clone());
        Ok(found)
    }
}

impl Memo<Option<TreePath>> {
    /// The path of a directory, if all above it are known: walks up to the first one whose path is, and goes down from there.
    pub(super) fn path<E>(
        &self,
        id: NodeId,
        node: impl Fn(NodeId) -> Result<Option<Node>, E>,
    ) -> Result<Option<TreePath>, E> {
        self.get_or(id, || {
            let mut names = Vec::new();
            let mut at = id;
            let above = loop {
                if at == NodeId::ROOT {
                    break TreePath::root();
                }
                if let Some(path) = self.get(at) {
                    let Some(path) = path else { return Ok(None) };
                    break path;
                }
                let Some(node) = node(at)? else { return Ok(None) };
                if names.len() > MAX_DEPTH {
                    return Ok(None);
                }
                at = node.parent;
                names.push(node.name);
            };
            Ok(Some(names.iter().rev().fold(above, |path, name| path.join(name))))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_found_is_not_searched_again_and_an_error_is_not_kept() {
        let memo = Memo::default();
        assert_eq!(memo.get_or(NodeId(1), || Err::<u32, _>("no")), Err("no"));
        assert_eq!(memo.get(NodeId(1)), None);
        assert_eq!(memo.get_or(NodeId(1), || Ok::<_, ()>(7)), Ok(7));
        assert_eq!(memo.get_or(NodeId(1), || Err("it is searched again")), Ok(7));
    }

    #[test]
    fn it_does_not_grow_with_the_tree() {
        let memo = Memo::default();
        for id in 0..3 * MOST_KNOWN as u64 {
            assert_eq!(memo.get_or(NodeId(id), || Ok::<_, ()>(id)), Ok(id));
            assert!(memo.0.borrow().len() <= MOST_KNOWN);
        }
    }
}
