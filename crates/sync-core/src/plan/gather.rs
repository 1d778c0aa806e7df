//! Finds the places that may differ, and looks each of them up in the three trees.
//!
//! Places are found by nodes, not by paths: a directory that moved is one place, and what is in it is not looked at. Every
//! directory of either side is paired with at most one of the other: with the one it was agreed to be, else with the one of
//! the same name.

use std::collections::{BTreeMap, HashSet};

use super::{
    known::{Known, MAX_DEPTH},
    slot::{Arrival, Base, Copy, Slot, is_move},
};
use crate::{
    entry::{Content, Digest, Node, NodeId},
    name::{Name, TreePath},
};

/// Why nothing may be removed in a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Keep {
    /// The share ignores it: it is forgotten, not deleted.
    Ignored,
    /// The daemon could not read it: it is unknown, not gone.
    Unknown,
}

/// Read access to the three trees.
pub trait Trees {
    /// What reading may fail with.
    type Error;
    /// A remote node.
    fn remote(&self, id: NodeId) -> Result<Option<Node>, Self::Error>;
    /// The remote nodes with the next ids after this one, at most so many.
    fn remote_after(&self, id: NodeId, most: usize) -> Result<Vec<Node>, Self::Error>;
    /// What is in a remote directory.
    fn remote_children(&self, id: NodeId) -> Result<Vec<Node>, Self::Error>;
    /// The remote node at a place.
    fn remote_child(&self, parent: NodeId, name: &Name) -> Result<Option<Node>, Self::Error>;
    /// A local node.
    fn local(&self, id: NodeId) -> Result<Option<Node>, Self::Error>;
    /// What is in a local directory.
    fn local_children(&self, id: NodeId) -> Result<Vec<Node>, Self::Error>;
    /// The local node at a place.
    fn local_child(&self, parent: NodeId, name: &Name) -> Result<Option<Node>, Self::Error>;
    /// What was agreed on about a remote node.
    fn base(&self, id: NodeId) -> Result<Option<Base>, Self::Error>;
    /// What was agreed on about a local node.
    fn base_of_local(&self, local: NodeId) -> Result<Option<Base>, Self::Error>;
    /// Some local file with this content that can be read.
    fn local_with(&self, digest: &Digest) -> Result<Option<NodeId>, Self::Error>;
    /// Whether something at a place must be left alone.
    fn keep(&self, path: &TreePath, is_dir: bool) -> Option<Keep>;
}

/// Which places to look at.
#[derive(Debug, Clone)]
pub enum Scope {
    /// All.
    Everything,
    /// Those of these nodes, and what follows from them.
    Nodes {
        /// Ids on the remote, of nodes that changed or are gone.
        remote: Vec<NodeId>,
        /// Ids on this side, likewise.
        local: Vec<NodeId>,
    },
}

impl Scope {
    /// Whether there is nothing to look at.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Nodes { remote, local } if remote.is_empty() && local.is_empty())
    }
}

/// Describes every place that differs from what is recorded.
///
/// # Errors
/// Reading the trees failed.
pub fn gather<T: Trees>(trees: &T, scope: &Scope) -> Result<Vec<Slot>, T::Error> {
    gather_some(trees, scope, false)
}

/// Describes every place, also where there is nothing to do.
///
/// # Errors
/// Reading the trees failed.
pub fn gather_all<T: Trees>(trees: &T, scope: &Scope) -> Result<Vec<Slot>, T::Error> {
    gather_some(trees, scope, true)
}

fn gather_some<T: Trees>(trees: &T, scope: &Scope, settled_too: bool) -> Result<Vec<Slot>, T::Error> {
    let mut gatherer = Gatherer {
        trees,
        slots: Vec::new(),
        seen: HashSet::new(),
        todo: BTreeMap::new(),
        new_dirs: HashSet::new(),
        settled_too,
        known: Known::default(),
    };
    match scope {
        Scope::Everything => {
            let root = Pair { remote: Some(NodeId::ROOT), local: Some(NodeId::ROOT) };
            gatherer.walk(root, &TreePath::root(), Some(TreePath::root()))?;
        }
        Scope::Nodes { remote, local } => {
            for id in remote {
                gatherer.want_remote(*id)?;
            }
            for id in local {
                gatherer.want_local(*id)?;
            }
        }
    }
    gatherer.drain()?;
    Ok(gatherer.slots)
}

/// A directory as both sides have it; at least one has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Pair {
    remote: Option<NodeId>,
    local: Option<NodeId>,
}

/// A pair that has to be looked at, with its path when the plan is done and its path before.
type Below = (Pair, TreePath, Option<TreePath>);

/// What was found in a place while it was looked for: what would be found there by its name.
#[derive(Default)]
struct There {
    /// The remote node, and what was agreed on about it.
    remote: Option<(Node, Option<Base>)>,
    local: Option<Node>,
}

struct Gatherer<'a, T> {
    trees: &'a T,
    slots: Vec<Slot>,
    /// The places that have a slot: by the remote directory where there is one, else by the local.
    seen: HashSet<(Pair, Name)>,
    /// The places that are wanted, each with what is known to be there.
    todo: BTreeMap<(Pair, Name), There>,
    /// Wanted directories about which nothing was agreed on: all that is in them is looked at with them.
    new_dirs: HashSet<NodeId>,
    /// Places where there is nothing to do get a slot too.
    settled_too: bool,
    known: Known,
}

/// For so many places at most it is kept what is there; the others are looked at once more.
const MOST_FOUND: usize = 1 << 16;

impl<T: Trees> Gatherer<'_, T> {
    /// Looks at every name in a pair of directories and below.
    fn walk(&mut self, pair: Pair, path: &TreePath, local_path: Option<TreePath>) -> Result<(), T::Error> {
        // An own stack instead of recursion: trees are deeper than threads' stacks are large.
        let mut stack = vec![(pair, path.clone(), local_path)];
        while let Some((pair, path, local_path)) = stack.pop() {
            let mut names: BTreeMap<Name, (Option<Node>, Option<Node>)> = BTreeMap::new();
            if let Some(id) = pair.remote {
                for node in self.trees.remote_children(id)? {
                    let name = node.name.clone();
                    names.entry(name).or_default().0 = Some(node);
                }
            }
            if let Some(id) = pair.local {
                for node in self.trees.local_children(id)? {
                    let name = node.name.clone();
                    names.entry(name).or_default().1 = Some(node);
                }
            }
            for (name, (remote, local)) in names {
                if !self.seen.insert((key(pair), name.clone())) {
                    continue;
                }
                let place = Place {
                    path: path.join(&name),
                    local_path: local_path.as_ref().map(|dir| dir.join(&name)),
                };
                stack.extend(self.slot(place, self.with_base(remote)?, local, true)?);
            }
        }
        Ok(())
    }

    /// Looks at the wanted places until no more follow from them.
    fn drain(&mut self) -> Result<(), T::Error> {
        while let Some(((pair, name), there)) = self.todo.pop_first() {
            if !self.seen.insert((key(pair), name.clone())) {
                continue;
            }
            let (remote, remote_base) = match (there.remote, pair.remote) {
                (Some((node, base)), _) => (Some(node), base),
                (None, Some(id)) => self.with_base(self.trees.remote_child(id, &name)?)?,
                (None, None) => (None, None),
            };
            let local = match (there.local, pair.local) {
                (Some(node), _) => Some(node),
                (None, Some(id)) => self.trees.local_child(id, &name)?,
                (None, None) => None,
            };
            let local_path = match pair.local {
                Some(id) => self.local_path(id)?.map(|dir| dir.join(&name)),
                None => None,
            };
            let path = match pair.remote {
                Some(id) => self.remote_path(id)?.map(|dir| dir.join(&name)),
                None => local_path.clone(),
            };
            // Without a path the place hangs in the air: its directory has not come yet.
            let Some(path) = path else { continue };
            let place = Place { path, local_path };
            for (pair, path, local_path) in self.slot(place, (remote, remote_base), local, false)? {
                self.walk(pair, &path, local_path)?;
            }
        }
        Ok(())
    }

    /// A remote node with what was agreed on about it.
    fn with_base(&self, remote: Option<Node>) -> Result<(Option<Node>, Option<Base>), T::Error> {
        let base = match &remote {
            Some(remote) => self.trees.base(remote.id)?,
            None => None,
        };
        Ok((remote, base))
    }

    /// Describes one place. Answers the directories below it that have to be looked at.
    fn slot(
        &mut self,
        place: Place,
        (remote, remote_base): (Option<Node>, Option<Base>),
        local: Option<Node>,
        deep: bool,
    ) -> Result<Vec<Below>, T::Error> {
        let local_base = match (&local, &remote_base) {
            // A local node is agreed on with one remote node at most.
            (Some(local), Some(base)) if base.local == local.id => remote_base.clone(),
            (Some(local), _) => self.trees.base_of_local(local.id)?,
            (None, _) => None,
        };
        let leaves = self.leaves(remote.as_ref(), local.as_ref(), local_base.as_ref())?;
        let arrives = self.arrival(remote.as_ref(), local.as_ref(), remote_base.as_ref())?;
        let mut slot = Slot {
            keep: self.keep(&place.path, remote.as_ref(), local.as_ref()),
            path: place.path,
            local_path: place.local_path,
            base: if local.is_some() { local_base } else { remote_base.clone() },
            remote,
            local,
            arrives,
            leaves,
            copy: None,
        };
        slot.copy = self.copy(&slot)?;
        let below = Self::below(&slot, remote_base.as_ref(), deep);
        if self.settled_too || !slot.is_settled() {
            self.slots.push(slot);
        }
        Ok(below)
    }

    /// Whether the local node is moved to another place, where the remote has it.
    fn leaves(
        &mut self,
        remote: Option<&Node>,
        local: Option<&Node>,
        base: Option<&Base>,
    ) -> Result<bool, T::Error> {
        let (Some(local), Some(base)) = (local, base) else { return Ok(false) };
        if remote.is_some_and(|remote| remote.id == base.id) {
            return Ok(false);
        }
        let Some(elsewhere) = self.trees.remote(base.id)? else { return Ok(false) };
        self.want_remote(elsewhere.id)?;
        Ok(is_move(&elsewhere, local) && self.is_reachable(&elsewhere)?)
    }

    /// Whether the remote knows all directories above a node: an orphan has no place yet.
    fn is_reachable(&self, node: &Node) -> Result<bool, T::Error> {
        Ok(self.remote_path(node.parent)?.is_some())
    }

    fn arrival(
        &mut self,
        remote: Option<&Node>,
        local: Option<&Node>,
        base: Option<&Base>,
    ) -> Result<Option<Arrival>, T::Error> {
        let (Some(remote), Some(base)) = (remote, base) else { return Ok(None) };
        if local.is_some_and(|local| local.id == base.local) {
            return Ok(None);
        }
        let Some(elsewhere) = self.trees.local(base.local)? else { return Ok(None) };
        self.want_local(elsewhere.id)?;
        if !is_move(remote, &elsewhere) {
            return Ok(None);
        }
        let Some(dir) = self.local_path(elsewhere.parent)? else { return Ok(None) };
        let path = dir.join(&elsewhere.name);
        Ok(Some(Arrival { local: elsewhere, path }))
    }

    fn keep(&self, path: &TreePath, remote: Option<&Node>, local: Option<&Node>) -> Option<Keep> {
        match (remote, local) {
            (None, Some(local)) => self.trees.keep(path, local.entry.content.is_dir()),
            _ => None,
        }
    }

    /// A file on this side that saves fetching the slot's content.
    fn copy(&self, slot: &Slot) -> Result<Option<Copy>, T::Error> {
        let Some(Node { entry, .. }) = &slot.remote else { return Ok(None) };
        let Content::File { digest, .. } = &entry.content else { return Ok(None) };
        let is_here =
            slot.arrives.is_some() || slot.occupant().is_some_and(|here| here.entry.content == entry.content);
        if is_here {
            return Ok(None);
        }
        let Some(local) = self.trees.local_with(digest)? else { return Ok(None) };
        let Some(Node { parent, name, .. }) = self.trees.local(local)? else { return Ok(None) };
        let dir = self.local_path(parent)?;
        Ok(dir.map(|dir| Copy { local, path: dir.join(&name) }))
    }

    /// The directories below a slot that have to be walked: always if `deep`, else only where nothing below can have been
    /// agreed on, because one side has no directory there or has got it from elsewhere.
    fn below(slot: &Slot, remote_base: Option<&Base>, deep: bool) -> Vec<Below> {
        let mut below = Vec::new();
        let local_dir = slot.occupant().filter(|local| local.entry.content.is_dir());
        let remote_dir = slot.remote.as_ref().filter(|remote| remote.entry.content.is_dir());
        if let Some(remote) = remote_dir {
            let (local, local_path) = match (&slot.arrives, local_dir) {
                (Some(arrival), _) => (Some(arrival.local.id), Some(arrival.path.clone())),
                (None, Some(local)) => (Some(local.id), slot.local_path.clone()),
                (None, None) => (None, None),
            };
            let agreed =
                remote_base.is_some_and(|base| Some(base.local) == local && base.entry.content.is_dir());
            if deep || !agreed {
                below.push((Pair { remote: Some(remote.id), local }, slot.path.clone(), local_path));
            }
        }
        // A local directory that does not stay is walked for what is in it.
        let stays = remote_dir.is_some() && slot.arrives.is_none();
        if let (Some(local), false) = (local_dir, stays) {
            let path = slot.local_path.clone().unwrap_or_else(|| slot.path.clone());
            below.push((Pair { remote: None, local: Some(local.id) }, path.clone(), Some(path)));
        }
        below
    }

    /// Wants the places of a remote node: where it is, and where its local counterpart is.
    fn want_remote(&mut self, id: NodeId) -> Result<(), T::Error> {
        let (node, base) = (self.trees.remote(id)?, self.trees.base(id)?);
        if let (Some(node), None) = (&node, &base) {
            if node.entry.content.is_dir() {
                self.new_dirs.insert(id);
            }
            if self.new_dirs.contains(&node.parent) {
                return Ok(());
            }
        }
        let counterpart = base.as_ref().map(|base| base.local);
        if let Some(node) = node {
            self.want_place_of_remote(node, base)?;
        }
        match counterpart {
            Some(local) => self.want_place_of_local(local),
            None => Ok(()),
        }
    }

    /// Wants the places of a local node: where it is, and where the remote has it.
    fn want_local(&mut self, id: NodeId) -> Result<(), T::Error> {
        self.want_place_of_local(id)?;
        if let Some(base) = self.trees.base_of_local(id)?
            && let Some(node) = self.trees.remote(base.id)?
        {
            self.want_place_of_remote(node, Some(base))?;
        }
        Ok(())
    }

    fn want_place_of_remote(&mut self, node: Node, base: Option<Base>) -> Result<(), T::Error> {
        let pair = Pair { remote: Some(node.parent), local: self.local_of(node.parent)? };
        let name = node.name.clone();
        if let Some(there) = self.want(pair, name) {
            there.remote = Some((node, base));
        }
        Ok(())
    }

    fn want_place_of_local(&mut self, id: NodeId) -> Result<(), T::Error> {
        if let Some(node) = self.trees.local(id)? {
            let pair = Pair { remote: self.remote_of(node.parent)?, local: Some(node.parent) };
            let name = node.name.clone();
            if let Some(there) = self.want(pair, name) {
                there.local = Some(node);
            }
        }
        Ok(())
    }

    /// Wants a place. Answers where to put down what is there, if that is not too much by now.
    fn want(&mut self, pair: Pair, name: Name) -> Option<&mut There> {
        if self.seen.contains(&(key(pair), name.clone())) {
            return None;
        }
        let has_room = self.todo.len() < MOST_FOUND;
        let there = self.todo.entry((pair, name)).or_default();
        has_room.then_some(there)
    }

    /// The local directory that a remote one is paired with: the one it was agreed to be, else the one of its name.
    fn local_of(&self, remote: NodeId) -> Result<Option<NodeId>, T::Error> {
        self.known.locals.get_or(remote, || self.find_local_of(remote))
    }

    fn find_local_of(&self, remote: NodeId) -> Result<Option<NodeId>, T::Error> {
        let Some(names) = self.names_up_to(remote, |id| self.agreed_local(id), |id| self.trees.remote(id))?
        else {
            return Ok(None);
        };
        let (mut at, below) = names;
        for node in below.into_iter().rev() {
            let child = self.trees.local_child(at, &node.name)?.filter(|child| child.entry.content.is_dir());
            let Some(child) = child else { return Ok(None) };
            if self.agreed_remote(child.id)?.is_some() {
                return Ok(None);
            }
            at = child.id;
        }
        Ok(Some(at))
    }

    /// The remote directory that a local one is paired with, likewise.
    fn remote_of(&self, local: NodeId) -> Result<Option<NodeId>, T::Error> {
        self.known.remotes.get_or(local, || self.find_remote_of(local))
    }

    fn find_remote_of(&self, local: NodeId) -> Result<Option<NodeId>, T::Error> {
        let Some(names) = self.names_up_to(local, |id| self.agreed_remote(id), |id| self.trees.local(id))?
        else {
            return Ok(None);
        };
        let (mut at, below) = names;
        for node in below.into_iter().rev() {
            let child = self.trees.remote_child(at, &node.name)?.filter(|child| child.entry.content.is_dir());
            let Some(child) = child else { return Ok(None) };
            if self.agreed_local(child.id)?.is_some() {
                return Ok(None);
            }
            at = child.id;
        }
        Ok(Some(at))
    }

    /// Walks up from a directory to the first one with an agreed counterpart. Answers that counterpart and the directories
    /// passed on the way, lowest first.
    fn names_up_to(
        &self,
        id: NodeId,
        agreed: impl Fn(NodeId) -> Result<Option<NodeId>, T::Error>,
        node: impl Fn(NodeId) -> Result<Option<Node>, T::Error>,
    ) -> Result<Option<(NodeId, Vec<Node>)>, T::Error> {
        let mut below = Vec::new();
        let mut at = id;
        while below.len() <= MAX_DEPTH {
            if let Some(counterpart) = agreed(at)? {
                return Ok(Some((counterpart, below)));
            }
            let Some(found) = node(at)?.filter(|found| found.entry.content.is_dir()) else { return Ok(None) };
            at = found.parent;
            below.push(found);
        }
        Ok(None)
    }

    fn agreed_local(&self, remote: NodeId) -> Result<Option<NodeId>, T::Error> {
        if remote == NodeId::ROOT {
            return Ok(Some(NodeId::ROOT));
        }
        let Some(base) = self.trees.base(remote)? else { return Ok(None) };
        let Some(local) = self.trees.local(base.local)?.filter(|local| local.entry.content.is_dir()) else {
            return Ok(None);
        };
        // The same test as for an arrival, or a directory would be paired here and not there.
        Ok(self.local_path(local.parent)?.map(|_| local.id))
    }

    fn agreed_remote(&self, local: NodeId) -> Result<Option<NodeId>, T::Error> {
        if local == NodeId::ROOT {
            return Ok(Some(NodeId::ROOT));
        }
        let Some(base) = self.trees.base_of_local(local)? else { return Ok(None) };
        let Some(remote) = self.trees.remote(base.id)?.filter(|remote| remote.entry.content.is_dir()) else {
            return Ok(None);
        };
        Ok(if self.is_reachable(&remote)? { Some(remote.id) } else { None })
    }

    /// The path of a directory of the remote tree, if all above it are known.
    fn remote_path(&self, id: NodeId) -> Result<Option<TreePath>, T::Error> {
        self.known.remote_paths.path(id, |id| self.trees.remote(id))
    }

    fn local_path(&self, id: NodeId) -> Result<Option<TreePath>, T::Error> {
        self.known.local_paths.path(id, |id| self.trees.local(id))
    }
}

/// Where a slot is.
struct Place {
    path: TreePath,
    local_path: Option<TreePath>,
}

/// A place is the same whether it was reached from the remote directory alone or from the pair.
fn key(pair: Pair) -> Pair {
    if pair.remote.is_some() { Pair { local: None, ..pair } } else { pair }
}
