//! What planning will ask for about many changed nodes, read beforehand on several threads.
//!
//! A plan of a thousand changed files asks for some rows of each, one after the other, and while it does nothing else is done. Nearly
//! all that it asks for follows from the ids alone: the remote node, what was agreed on about it, the local node, the same for their
//! directories, and who else has the content. What is not here is read when it is asked for.

use std::collections::HashMap;

use rayon::{
    iter::{IntoParallelRefIterator as _, ParallelIterator as _},
    slice::ParallelSlice as _,
};
use sync_core::{
    Content, Digest, Node, NodeId, Seq,
    plan::{Base, MAX_DEPTH, Scope, Trees as _},
};
use sync_tree::index::IndexError;

use super::store::{Keeper, Store, StoreTrees};

/// Fewer nodes are not worth it. Tests have few, and are to see that it makes no difference.
const FEW: usize = if cfg!(debug_assertions) { 2 } else { 64 };
/// More are not kept in memory.
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
    /// The nodes that it is for, and the newest change on this disk from before it was read; if it was read beforehand.
    beforehand: Option<(Vec<NodeId>, Seq)>,
    remote: HashMap<NodeId, Option<Node>>,
    base: HashMap<NodeId, Option<Base>>,
    /// The remote nodes that local ones were agreed to be.
    agreed: HashMap<NodeId, NodeId>,
    local: HashMap<NodeId, Option<Node>>,
    contents: HashMap<Digest, Option<NodeId>>,
}

impl Foreseen {
    /// Reads ahead for a plan of these. What cannot be read now is asked for later, and whoever asks is told why.
    pub(super) fn of(store: &Store, scope: &Scope) -> Self {
        let Scope::Nodes { remote, .. } = scope else { return Self::default() };
        if !(FEW..=MOST).contains(&remote.len()) {
            return Self::default();
        }
        let read = Self::read(store, remote);
        read.inspect_err(|error| tracing::debug!(%error, "nothing is read ahead")).unwrap_or_default()
    }

    /// Reads ahead what is pending while a look at the target goes on, and shows each piece. That look has the processor's cores, so
    /// one thread reads, and several do when it is over.
    pub(super) fn beforehand(
        store: &Store,
        look_goes_on: impl Fn() -> bool,
        mut show: impl FnMut(&Self, &[NodeId]),
    ) -> Result<Option<Self>, IndexError> {
        let (scope, head) = (store.scope()?, store.index().head()?);
        let Scope::Nodes { remote, .. } = scope else { return Ok(None) };
        let is_little = remote.len() as u64 * TIMES_MORE <= head.files;
        if !(FEW..=MOST).contains(&remote.len()) || !is_little || !store.index().is_searchable() {
            return Ok(None);
        }
        let mut all = Self::default();
        let mut pieces = remote.chunks(PIECE);
        while pieces.len() > 0 {
            let together = if look_goes_on() { 1 } else { at_once() };
            let some: Vec<_> = pieces.by_ref().take(together).collect();
            let read = match some[..] {
                // Not by the threads that look.
                [ids] => vec![Self::piece(store, ids)?],
                _ => some.par_iter().map(|ids| Self::piece(store, ids)).collect::<Result<_, _>>()?,
            };
            for (piece, ids) in read.into_iter().zip(some) {
                show(&piece, ids);
                all.merge(piece);
            }
        }
        Ok(Some(Self { beforehand: Some((remote, head.seq)), ..all }))
    }

    /// Whether it was read [beforehand](Self::beforehand) for a plan of these, and the look at the target found nothing new since.
    pub(super) fn is_still_for(&self, store: &Store, scope: &Scope) -> Result<bool, IndexError> {
        let (Some((pending, seq)), Scope::Nodes { remote, .. }) = (&self.beforehand, scope) else {
            return Ok(false);
        };
        Ok(pending == remote && store.index().head()?.seq == *seq)
    }

    fn read(store: &Store, remote: &[NodeId]) -> Result<Self, IndexError> {
        let size = remote.len().div_ceil(at_once()).max(PIECE);
        let pieces = remote.par_chunks(size).map(|ids| Self::piece(store, ids));
        pieces.try_reduce(Self::default, |mut all, piece| {
            all.merge(piece);
            Ok(all)
        })
    }

    fn piece(store: &Store, ids: &[NodeId]) -> Result<Self, IndexError> {
        store.with_trees(&Keeper::of_nothing(), |trees| {
            let mut piece = Self::default();
            ids.iter().try_for_each(|id| piece.follow(trees, *id))?;
            Ok(piece)
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

    fn follow(&mut self, trees: &StoreTrees<'_>, id: NodeId) -> rusqlite::Result<()> {
        let remote = trees.remote(id)?;
        if let Some(Node { entry, parent, .. }) = &remote {
            if let Content::File { digest, .. } = entry.content
                && !self.contents.contains_key(&digest)
            {
                self.contents.insert(digest, trees.local_with(&digest)?);
            }
            self.follow_dirs(trees, *parent)?;
        }
        self.keep(trees, id, remote)
    }

    /// A directory and those above it.
    fn follow_dirs(&mut self, trees: &StoreTrees<'_>, mut id: NodeId) -> rusqlite::Result<()> {
        for _ in 0..MAX_DEPTH {
            if id == NodeId::ROOT || self.remote.contains_key(&id) {
                break;
            }
            let remote = trees.remote(id)?;
            let above = remote.as_ref().map_or(NodeId::ROOT, |dir| dir.parent);
            self.keep(trees, id, remote)?;
            id = above;
        }
        Ok(())
    }

    /// A remote node, with what was agreed on about it.
    fn keep(&mut self, trees: &StoreTrees<'_>, id: NodeId, remote: Option<Node>) -> rusqlite::Result<()> {
        self.remote.insert(id, remote);
        let base = trees.base(id)?;
        if let Some(Base { local, .. }) = base {
            self.agreed.insert(local, id);
            self.local.insert(local, trees.local(local)?);
        }
        self.base.insert(id, base);
        Ok(())
    }

    fn merge(&mut self, other: Self) {
        self.remote.extend(other.remote);
        self.base.extend(other.base);
        self.agreed.extend(other.agreed);
        self.local.extend(other.local);
        self.contents.extend(other.contents);
    }
}
