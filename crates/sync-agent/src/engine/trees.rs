//! The three trees that a plan is made of: the copy of the share's, the target's, and what both agreed on.

use std::sync::LazyLock;

use rusqlite::Connection;
use sync_core::{
    Digest, Name, Node, NodeId, Problem, RuleSet, TreePath,
    plan::{Base, Keep, Trees},
};
use sync_tree::{
    index::{Index, IndexError, IndexedNode, Lookup, NodeTable},
    rules::Rules,
};

use super::{
    base::{Bases, base_of, base_of_local},
    foreseen::Foreseen,
    store::Store,
};

impl Store {
    /// Runs a read over the three trees.
    pub(crate) fn with_trees<T>(
        &self,
        keeper: &Keeper<'_>,
        work: impl FnOnce(&StoreTrees<'_>) -> rusqlite::Result<T>,
    ) -> Result<T, IndexError> {
        self.with_trees_foreseen(keeper, &Foreseen::default(), work)
    }

    /// The same, where some of it was read before. None of that may have changed since.
    pub(crate) fn with_trees_foreseen<T>(
        &self,
        keeper: &Keeper<'_>,
        foreseen: &Foreseen,
        work: impl FnOnce(&StoreTrees<'_>) -> rusqlite::Result<T>,
    ) -> Result<T, IndexError> {
        self.index().read(|db| {
            let db = db.unchecked_transaction()?;
            let remote = self.remote_table(&db)?;
            let local = self.index().table();
            // Most files of a first pull are asked for in vain otherwise.
            let has_files = !local.page(&db, NodeId::ROOT, 1)?.is_empty();
            work(&StoreTrees { db: &db, index: self.index(), remote, local, has_files, keeper, foreseen })
        })
    }
}

/// What is left alone whatever the remote lacks.
#[derive(Debug)]
pub(crate) struct Keeper<'a> {
    pub rules: &'a Rules,
    /// Places that the daemon cannot read.
    pub unknown: Vec<TreePath>,
}

impl Keeper<'static> {
    /// Where nothing is asked for that a rule could keep.
    pub(crate) fn of_nothing() -> Self {
        static NONE: LazyLock<Rules> = LazyLock::new(|| Rules::compile(&RuleSet::default()));
        Self { rules: &NONE, unknown: Vec::new() }
    }
}

impl<'a> Keeper<'a> {
    pub(crate) fn new(rules: &'a Rules, problems: &[Problem]) -> Self {
        let unknown = problems.iter().filter(|problem| problem.unknown).map(|problem| problem.path.clone());
        Self { rules, unknown: unknown.collect() }
    }
}

/// The three trees as one read transaction sees them.
pub(crate) struct StoreTrees<'a> {
    db: &'a Connection,
    index: &'a Index,
    remote: &'a NodeTable,
    local: &'a NodeTable,
    has_files: bool,
    keeper: &'a Keeper<'a>,
    foreseen: &'a Foreseen,
}

impl StoreTrees<'_> {
    /// For many remote nodes that are known beforehand.
    pub(crate) fn remote_lookup(&self) -> rusqlite::Result<Lookup<'_>> {
        self.remote.lookup(self.db)
    }

    pub(crate) fn bases(&self) -> Bases<'_> {
        Bases::of_all(self.db)
    }
}

impl Trees for StoreTrees<'_> {
    type Error = rusqlite::Error;

    fn remote(&self, id: NodeId) -> rusqlite::Result<Option<Node>> {
        if let Some(known) = self.foreseen.remote(id) {
            return Ok(known);
        }
        Ok(self.remote.get(self.db, id)?.map(|row| row.node))
    }

    fn remote_after(&self, id: NodeId, most: usize) -> rusqlite::Result<Vec<Node>> {
        nodes(self.remote.page(self.db, id, most)?)
    }

    fn remote_children(&self, id: NodeId) -> rusqlite::Result<Vec<Node>> {
        nodes(self.remote.children(self.db, id)?)
    }

    fn remote_child(&self, parent: NodeId, name: &Name) -> rusqlite::Result<Option<Node>> {
        Ok(self.remote.child(self.db, parent, name)?.map(|row| row.node))
    }

    fn local(&self, id: NodeId) -> rusqlite::Result<Option<Node>> {
        if let Some(known) = self.foreseen.local(id) {
            return Ok(known);
        }
        Ok(self.local.get(self.db, id)?.map(|row| row.node))
    }

    fn local_children(&self, id: NodeId) -> rusqlite::Result<Vec<Node>> {
        nodes(self.local.children(self.db, id)?)
    }

    fn local_child(&self, parent: NodeId, name: &Name) -> rusqlite::Result<Option<Node>> {
        Ok(self.local.child(self.db, parent, name)?.map(|row| row.node))
    }

    fn base(&self, id: NodeId) -> rusqlite::Result<Option<Base>> {
        self.foreseen.base(id).map_or_else(|| base_of(self.db, id), Ok)
    }

    fn base_of_local(&self, local: NodeId) -> rusqlite::Result<Option<Base>> {
        self.foreseen.base_of_local(local).map_or_else(|| base_of_local(self.db, local), Ok)
    }

    fn local_with(&self, digest: &Digest) -> rusqlite::Result<Option<NodeId>> {
        if let Some(known) = self.foreseen.local_with(digest) {
            return Ok(known);
        }
        if !self.has_files {
            return Ok(None);
        }
        let may_have = self.index.may_have(digest);
        if !may_have && !cfg!(debug_assertions) {
            return Ok(None);
        }
        let found = self.local.with_digest(self.db, digest, 1)?.first().map(|row| row.node.id);
        debug_assert!(may_have || found.is_none(), "it holds back what is there");
        Ok(found)
    }

    fn keep(&self, path: &TreePath, is_dir: bool) -> Option<Keep> {
        let unknown = |place: &TreePath| path.is_within(place) || (is_dir && place.is_within(path));
        if self.keeper.unknown.iter().any(unknown) {
            return Some(Keep::Unknown);
        }
        self.keeper.rules.is_ignored(path, is_dir).then_some(Keep::Ignored)
    }
}

fn nodes(rows: Vec<IndexedNode>) -> rusqlite::Result<Vec<Node>> {
    Ok(rows.into_iter().map(|row| row.node).collect())
}
