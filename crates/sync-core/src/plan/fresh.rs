//! Describes the places of a side that has nothing, a part at a time, while the tree still arrives.
//!
//! A tree arrives by the ids of its nodes. Whoever finds a tree gives a directory its id before those of what is in it, and these
//! in a row: so a directory is complete when something of another one comes, and can appear whole. What was made or moved later
//! may come long after its directory or before it. That is left for the end, when all others are in place, unless its directory has
//! other directories in it, which does not appear whole.
//!
//! Nothing here is in the way of anything, so what is described is right for as long as the nodes stay as they came. If one of
//! them changes before the tree is complete, a plan of the whole has to follow.

use std::collections::{HashMap, HashSet};

use super::{gather::Trees, known::Memo, slot::Slot, whole::MOST_FILES};
use crate::{
    entry::{Node, NodeId},
    name::TreePath,
};

/// Nodes that are read at once.
const PAGE: usize = 1024;

/// So many directories may wait for what is in them, and so many nodes for the end. Of trees with more the rest is not described
/// here.
const MOST_HELD: usize = 1 << 17;

/// How far a tree has been described.
#[derive(Debug)]
pub struct Fresh {
    /// Nodes up to this one were taken.
    after: NodeId,
    /// The directories of which nothing has come yet, with their places.
    held: HashMap<NodeId, Slot>,
    /// Those that are no leaves and were told of or are about to be: more of what is in them may follow.
    passed: HashMap<NodeId, TreePath>,
    open: Option<Open>,
    /// What is complete and was not told of yet, and the directories in it that are leaves.
    ready: Vec<Slot>,
    ready_leaves: HashSet<NodeId>,
    /// The leaves of the last part.
    leaves: HashSet<NodeId>,
    late: Vec<NodeId>,
    most_held: usize,
    is_full: bool,
}

/// The directory whose content is coming.
#[derive(Debug)]
struct Open {
    id: NodeId,
    path: TreePath,
    /// Its own place and those in it that are no directories.
    slots: Vec<Slot>,
    /// All that came of it is in `slots`.
    is_leaf: bool,
}

impl Default for Fresh {
    fn default() -> Self {
        Self::with_room_for(MOST_HELD)
    }
}

impl Fresh {
    /// The same with another bound.
    #[must_use]
    pub fn with_room_for(most_held: usize) -> Self {
        Self {
            after: NodeId::ROOT,
            held: HashMap::new(),
            passed: HashMap::new(),
            open: None,
            ready: Vec::new(),
            ready_leaves: HashSet::new(),
            leaves: HashSet::new(),
            late: Vec::new(),
            most_held,
            is_full: false,
        }
    }

    /// The next places, a directory's own place before those in it, at least `least` of them; `None` if there are not so many yet.
    /// The tree may have more nodes each time it is called, but not others with the same ids.
    ///
    /// # Errors
    /// Reading the trees failed.
    pub fn next_part<T: Trees>(&mut self, trees: &T, least: usize) -> Result<Option<Vec<Slot>>, T::Error> {
        self.next_part_of(|after, most| trees.remote_after(after, most), least)
    }

    /// The same of nodes that are elsewhere: asked for those with the next ids after one, at most so many.
    ///
    /// # Errors
    /// They could not be had. Those that were had before that stay taken, and asking for the same part elsewhere goes on after them.
    pub fn next_part_of<E>(
        &mut self,
        mut nodes_after: impl FnMut(NodeId, usize) -> Result<Vec<Node>, E>,
        least: usize,
    ) -> Result<Option<Vec<Slot>>, E> {
        while self.ready.len() < least && !self.is_full {
            let nodes = nodes_after(self.after, PAGE)?;
            if nodes.is_empty() {
                return Ok(None);
            }
            for node in nodes {
                self.after = node.id;
                self.take(node);
            }
        }
        Ok((self.ready.len() >= least).then(|| self.hand_over()))
    }

    /// What is left of the tree, which is complete, but for what has to [wait](Self::late) for all others.
    #[must_use]
    pub fn last_part(&mut self) -> Vec<Slot> {
        self.close();
        self.passed = HashMap::new();
        let mut empty: Vec<Slot> = self.held.drain().map(|(_, slot)| slot).collect();
        empty.sort_by(|a, b| a.path.cmp_in_walk(&b.path));
        self.ready.append(&mut empty);
        self.hand_over()
    }

    /// Whether the last part has all that came of this directory.
    #[must_use]
    pub fn is_leaf(&self, id: NodeId) -> bool {
        self.leaves.contains(&id)
    }

    /// Whether there are places that are neither in one of the parts nor [late](Self::late), because they were too many.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.is_full
    }

    /// Whether there are places that come when all parts are in place.
    #[must_use]
    pub fn has_late(&self) -> bool {
        !self.late.is_empty()
    }

    /// The places that come when all parts are in place.
    ///
    /// # Errors
    /// Reading the trees failed.
    pub fn late<T: Trees>(&self, trees: &T) -> Result<Vec<Slot>, T::Error> {
        let dirs = Memo::<Option<TreePath>>::default();
        let mut slots = Vec::with_capacity(self.late.len());
        for id in &self.late {
            let Some(node) = trees.remote(*id)? else { continue };
            if let Some(dir) = dirs.path(node.parent, |id| trees.remote(id))? {
                slots.push(slot(&dir, node));
            }
        }
        slots.sort_by(|a, b| a.path.cmp_in_walk(&b.path));
        Ok(slots)
    }

    fn take(&mut self, node: Node) {
        if self.open.as_ref().is_none_or(|open| open.id != node.parent) {
            self.close();
            self.open = self.begin(node.parent);
        }
        let Some(open) = &mut self.open else { return self.leave(node.id) };
        let slot = slot(&open.path, node);
        if is_dir(&slot) {
            open.is_leaf = false;
            return self.hold(slot);
        }
        open.slots.push(slot);
        if open.slots.len() > MOST_FILES {
            // Too large to appear whole, and to be in memory.
            open.is_leaf = false;
            self.ready.append(&mut open.slots);
        }
    }

    /// A leaf appears with what is in it, so only the others may get more of that after something of another directory came.
    fn begin(&mut self, dir: NodeId) -> Option<Open> {
        let passed = if dir == NodeId::ROOT { Some(TreePath::root()) } else { self.passed.remove(&dir) };
        if let Some(path) = passed {
            return Some(Open { id: dir, path, slots: Vec::new(), is_leaf: false });
        }
        let slot = self.held.remove(&dir)?;
        Some(Open { id: dir, path: slot.path.clone(), slots: vec![slot], is_leaf: true })
    }

    fn close(&mut self) {
        let Some(mut open) = self.open.take() else { return };
        if open.is_leaf {
            self.ready_leaves.insert(open.id);
        } else if open.id != NodeId::ROOT && self.passed.len() < self.most_held {
            self.passed.insert(open.id, open.path);
        }
        self.ready.append(&mut open.slots);
    }

    fn hold(&mut self, slot: Slot) {
        let Some(id) = slot.remote.as_ref().map(|node| node.id) else { return };
        match self.has_room() {
            true => drop(self.held.insert(id, slot)),
            false => self.is_full = true,
        }
    }

    fn leave(&mut self, id: NodeId) {
        match self.has_room() {
            true => self.late.push(id),
            false => self.is_full = true,
        }
    }

    fn has_room(&self) -> bool {
        self.held.len().max(self.late.len()) < self.most_held
    }

    fn hand_over(&mut self) -> Vec<Slot> {
        self.leaves = std::mem::take(&mut self.ready_leaves);
        std::mem::take(&mut self.ready)
    }
}

fn is_dir(slot: &Slot) -> bool {
    slot.remote.as_ref().is_some_and(|node| node.entry.content.is_dir())
}

fn slot(dir: &TreePath, node: Node) -> Slot {
    // Of the directories only the root is here before the plan.
    Slot::of_new(dir.join(&node.name), dir.is_root(), node)
}
