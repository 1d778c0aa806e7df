//! What planning will ask for about many changed nodes, read beforehand on several threads.
//!
//! A plan of a thousand changed files asks for some rows of each, one after the other, and while it does nothing else is done. Nearly
//! all that it asks for follows from the ids alone: the remote node, what was agreed on about it, the local node, the same for their
//! directories, and who else has the content. What is not here is read when it is asked for.

use std::collections::{HashMap, hash_map::Entry::Vacant};

use rayon::iter::{IntoParallelRefIterator as _, ParallelIterator as _};
use sync_core::{
    Content, Digest, Node, NodeId, Seq,
    plan::{Base, MAX_DEPTH, Scope, Trees as _},
};
use sync_tree::index::{IndexError, Lookup};

use super::{
    base::Bases,
    store::Store,
    trees::{Keeper, StoreTrees},
};

/// Fewer nodes are not worth it. Tests have few, and are to see that it makes no difference.
const FEW: usize = if cfg!(debug_assertions) { 2 } else { 64 };
/// More are not kept in memory, but for the directories above them and what they are on this disk.
pub(super) const MOST: usize = 8192;
/// Neighbours are in the same directories, and their rows in the same pages.
const PIECE: usize = if cfg!(debug_assertions) { 4 } else { 128 };
const MOST_PIECES: usize = 8;
/// While a look goes on one thread reads, which is mostly done before the look is if there is so much more to look at. Tests have few
/// files.
const TIMES_MORE: u64 = if cfg!(debug_assertions) { 1 } else { 32 };

/// Pieces that are read at once: each needs a connection to the database.
fn at_once() -> usize {
    rayon::current_num_threads().min(MOST_PIECES)
}

/// Answers by what is asked.
#[derive(Debug, Default)]
pub(super) struct Foreseen {
    /// The nodes that it is for, and the newest change on this disk from before it was read.
    read_for: Option<(Vec<NodeId>, Seq)>,
    remote: HashMap<NodeId, Option<Node>>,
    base: HashMap<NodeId, Option<Base>>,
    /// The remote nodes that local ones were agreed to be.
    agreed: HashMap<NodeId, NodeId>,
    local: HashMap<NodeId, Option<Node>>,
    contents: HashMap<Digest, Option<NodeId>>,
}

impl Foreseen {
    /// Whether reading ahead is worth it for a plan of this.
    pub(super) fn is_worth_it(scope: &Scope) -> bool {
        matches!(scope, Scope::Nodes { remote, .. } if (FEW..=MOST).contains(&remote.len()))
    }

    /// Whether one thread reads ahead for this in less time than a look at so many files takes.
    pub(super) fn is_little_beside(scope: &Scope, files: u64) -> bool {
        matches!(scope, Scope::Nodes { remote, .. } if remote.len() as u64 * TIMES_MORE <= files)
    }

    /// Reads ahead for a plan of these, and shows each piece. A look at the target has the processor's cores, so one thread reads
    /// while it goes on, and several do when none does.
    pub(super) fn read(
        store: &Store,
        scope: &Scope,
        look_goes_on: impl Fn() -> bool,
        mut show: impl FnMut(&Self, &[NodeId]),
    ) -> Result<Self, IndexError> {
        let Scope::Nodes { remote, .. } = scope else { return Ok(Self::default()) };
        let seq = store.index().head()?.seq;
        let mut all = Self::default();
        let mut pieces = remote.chunks(PIECE);
        while pieces.len() > 0 {
            let together = if look_goes_on() { 1 } else { at_once() };
            let some: Vec<_> = pieces.by_ref().take(together).collect();
            let read = match some[..] {
                // Not by the threads that may look.
                [ids] => vec![Self::piece(store, ids)?],
                _ => some.par_iter().map(|ids| Self::piece(store, ids)).collect::<Result<_, _>>()?,
            };
            for (piece, ids) in read.into_iter().zip(some) {
                show(&piece, ids);
                all.merge(piece);
            }
        }
        Ok(Self { read_for: Some((remote.clone(), seq)), ..all })
    }

    /// Whether it was read for a plan of these, and nothing new was found on this disk since. Nobody takes in more of the feed, or
    /// agrees on anything, between that and the plan.
    pub(super) fn is_still_for(&self, store: &Store, scope: &Scope) -> Result<bool, IndexError> {
        let (Some((pending, seq)), Scope::Nodes { remote, .. }) = (&self.read_for, scope) else {
            return Ok(false);
        };
        Ok(pending == remote && store.index().head()?.seq == *seq)
    }

    fn piece(store: &Store, ids: &[NodeId]) -> Result<Self, IndexError> {
        store.with_trees(&Keeper::of_nothing(), |trees| {
            let mut reading = Reading::of(trees, ids)?;
            ids.iter().try_for_each(|id| reading.follow(*id))?;
            Ok(reading.found)
        })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.remote.is_empty()
    }

    pub(super) fn remote(&self, id: NodeId) -> Option<Option<Node>> {
        self.remote.get(&id).cloned()
    }

    pub(super) fn base(&self, id: NodeId) -> Option<Option<Base>> {
        self.base.get(&id).cloned()
    }

    pub(super) fn base_of_local(&self, local: NodeId) -> Option<Option<Base>> {
        self.base(*self.agreed.get(&local)?)
    }

    pub(super) fn local(&self, id: NodeId) -> Option<Option<Node>> {
        self.local.get(&id).cloned()
    }

    pub(super) fn local_with(&self, digest: &Digest) -> Option<Option<NodeId>> {
        self.contents.get(digest).copied()
    }

    fn merge(&mut self, other: Self) {
        self.remote.extend(other.remote);
        self.base.extend(other.base);
        self.agreed.extend(other.agreed);
        self.local.extend(other.local);
        self.contents.extend(other.contents);
    }
}

/// Reads a piece.
struct Reading<'t> {
    trees: &'t StoreTrees<'t>,
    remote: Lookup<'t>,
    base: Bases<'t>,
    found: Foreseen,
}

impl<'t> Reading<'t> {
    fn of(trees: &'t StoreTrees<'t>, ids: &[NodeId]) -> rusqlite::Result<Self> {
        let mut remote = trees.remote_lookup()?;
        remote.expect(ids.iter().copied());
        Ok(Self { trees, remote, base: trees.bases(), found: Foreseen::default() })
    }

    fn follow(&mut self, id: NodeId) -> rusqlite::Result<()> {
        let remote = self.remote.get(id)?.map(|row| row.node);
        if let Some(Node { entry, parent, .. }) = &remote {
            if let Content::File { digest, .. } = entry.content
                && let Vacant(unknown) = self.found.contents.entry(digest)
            {
                unknown.insert(self.trees.local_with(&digest)?);
            }
            self.follow_dirs(*parent)?;
        }
        self.keep(id, remote)
    }

    /// A directory and those above it.
    fn follow_dirs(&mut self, mut id: NodeId) -> rusqlite::Result<()> {
        for _ in 0..MAX_DEPTH {
            if id == NodeId::ROOT || self.found.remote.contains_key(&id) {
                break;
            }
            let remote = self.trees.remote(id)?;
            let above = remote.as_ref().map_or(NodeId::ROOT, |dir| dir.parent);
            self.keep(id, remote)?;
            id = above;
        }
        Ok(())
    }

    /// A remote node, with what was agreed on about it.
    fn keep(&mut self, id: NodeId, remote: Option<Node>) -> rusqlite::Result<()> {
        self.found.remote.insert(id, remote);
        let base = self.base.of(id)?;
        if let Some(Base { local, .. }) = base {
            self.found.agreed.insert(local, id);
            self.found.local.insert(local, self.trees.local(local)?);
        }
        self.found.base.insert(id, base);
        Ok(())
    }
}
