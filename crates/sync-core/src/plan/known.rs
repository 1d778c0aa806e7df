//! What was found out about directories while places are gathered.
//!
//! Many of the places that are looked at are in the same directories, and each would ask for them and for all above them again.

use std::{
    cell::RefCell,
    collections::{HashMap, HashSet},
};

use crate::{
    entry::{Node, NodeId},
    name::{Name, TreePath},
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
        self.keep(id, found.clone());
        Ok(found)
    }

    fn keep(&self, id: NodeId, found: V) {
        let mut known = self.0.borrow_mut();
        if known.len() >= MOST_KNOWN {
            known.clear();
        }
        known.insert(id, found);
    }
}

impl Memo<Option<TreePath>> {
    /// The path of a directory, if all above it are known: walks up to the first one whose path is, and goes down from there.
    pub(super) fn path<E>(
        &self,
        id: NodeId,
        node: impl Fn(NodeId) -> Result<Option<Node>, E>,
    ) -> Result<Option<TreePath>, E> {
        let mut passed: Vec<(NodeId, Name)> = Vec::new();
        let mut at = id;
        let mut path = loop {
            if at == NodeId::ROOT {
                break Some(TreePath::root());
            }
            if let Some(known) = self.get(at) {
                break known;
            }
            let Some(node) = node(at)? else { break None };
            if passed.len() > MAX_DEPTH {
                // Those that lead into a loop have no path, and of a chain that is too long only the last is known to have none.
                let ids: HashSet<NodeId> = passed.iter().map(|(id, _)| *id).collect();
                passed.truncate(if ids.len() < passed.len() { passed.len() } else { 1 });
                break None;
            }
            passed.push((at, node.name));
            at = node.parent;
        };
        // Those on the way are asked for too, as a rule.
        for (dir, name) in passed.into_iter().rev() {
            path = path.map(|above| above.join(&name));
            self.keep(dir, path.clone());
        }
        Ok(path)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::entry::{Content, Entry, Time};

    #[test]
    fn what_was_found_is_not_searched_again_and_an_error_is_not_kept() {
        let memo = Memo::default();
        assert_eq!(memo.get_or(NodeId(1), || Err::<u32, _>("no")), Err("no"));
        assert_eq!(memo.get(NodeId(1)), None);
        assert_eq!(memo.get_or(NodeId(1), || Ok::<_, ()>(7)), Ok(7));
        assert_eq!(memo.get_or(NodeId(1), || Err("it is searched again")), Ok(7));
    }

    /// Directories 1, 2, …, each in the one before.
    fn chain(id: NodeId) -> Option<Node> {
        let last = 3 * MAX_DEPTH as u64;
        let entry = Entry { content: Content::Directory, mtime: Time::default(), mode: 0o755 };
        let name = Name::new(&id.0.to_string()).unwrap();
        (1..=last).contains(&id.0).then(|| Node { id, parent: NodeId(id.0 - 1), name, entry })
    }

    #[test]
    fn all_on_the_way_up_are_known_then() {
        let (memo, asked) = (Memo::default(), Cell::new(0));
        let path = |id| {
            let node = |id| {
                asked.set(asked.get() + 1);
                Ok::<_, ()>(chain(id))
            };
            memo.path(NodeId(id), node).unwrap().map(|path: TreePath| path.names().count())
        };
        assert_eq!((path(0), path(50), asked.get()), (Some(0), Some(50), 50));
        assert_eq!((path(20), path(50), path(51), asked.get()), (Some(20), Some(50), Some(51), 51));
        // Too deep itself, and that says nothing of those above it.
        assert_eq!(path(3 * MAX_DEPTH as u64), None);
        assert_eq!(path(MAX_DEPTH as u64), Some(MAX_DEPTH));
        assert_eq!(path(4 * MAX_DEPTH as u64), None, "it is not there");
    }

    /// No disk has that, but a feed may tell of it.
    #[test]
    fn what_leads_into_a_loop_has_no_path_and_is_not_walked_again_and_again() {
        let (memo, asked) = (Memo::default(), Cell::new(0));
        for id in (1..=40u64).chain([1, 40]) {
            let id = NodeId(id);
            let small = |id: NodeId| {
                asked.set(asked.get() + 1);
                let mut node = chain(id);
                if let Some(node) = node.as_mut().filter(|node| node.id.0 == 1) {
                    node.parent = NodeId(40);
                }
                Ok::<_, ()>(node)
            };
            assert_eq!(memo.path(id, small), Ok(None));
        }
        assert!(asked.get() <= MAX_DEPTH + 2, "{}", asked.get());
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
