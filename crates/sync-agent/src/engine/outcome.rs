//! What came of carrying out a plan.

use std::collections::HashSet;

use sync_core::{Hint as _, NodeId, Problem, TreePath, plan::Finish};
use sync_tree::apply::ApplyError;

use super::phases::{Failed, is_stale};

/// Counts, and what is left.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub synced: u64,
    pub deleted: u64,
    pub renamed: u64,
    /// The sizes of the files that were brought.
    pub bytes_total: u64,
    /// Places that cannot be as they should be.
    pub problems: Vec<Problem>,
    /// Directories that hold something. That is a problem of their own only if nothing below has one.
    pub not_empty: Vec<Problem>,
    /// Places that were not what the plan saw: they are looked at and planned again.
    pub stale: Vec<TreePath>,
    /// Directories to which something was put back: they are looked at, which is no reason to plan again.
    pub put_back: Vec<TreePath>,
    /// Those of the stale ones for which other bytes came than were announced.
    pub garbled: HashSet<TreePath>,
    /// Files that the share had no more when they were fetched: the feed tells what they are now.
    pub changed: Vec<TreePath>,
    /// Nodes that stay pending.
    pub left_remote: Vec<NodeId>,
    pub left_local: Vec<NodeId>,
    /// Local directories in which something was changed.
    pub touched: HashSet<NodeId>,
    /// New directories that did not appear whole, and so without their modes and times.
    pub unfinished: Vec<Finish>,
}

impl Outcome {
    /// Whether any place is not as it should be.
    pub(super) fn has_failures(&self) -> bool {
        let places = [&self.stale, &self.put_back, &self.changed];
        let problems = [&self.problems, &self.not_empty];
        places.into_iter().any(|places| !places.is_empty())
            || problems.into_iter().any(|told| !told.is_empty())
    }

    pub(super) fn place_failed(&mut self, error: &ApplyError, path: &TreePath, failed: Failed) {
        tracing::debug!(%path, ?failed, error = describe(error), "not applied");
        if is_stale(error) {
            self.stale.push(path.clone());
            // Of a move, it may be the other place that is not what the plan saw.
            if let ApplyError::Stale { path: other } = error
                && other != path
            {
                self.stale.push(other.clone());
            }
            if matches!(error, ApplyError::Digest { .. }) {
                self.garbled.insert(path.clone());
            }
        } else {
            let mut text = describe(error);
            if let Some(hint) = error.hint() {
                text = format!("{text} ({hint})");
            }
            let told = match error {
                ApplyError::NotEmpty { .. } => &mut self.not_empty,
                _ => &mut self.problems,
            };
            told.push(Problem::new(path.clone(), text));
        }
        self.keep(failed);
    }

    pub(super) fn fetch_changed(&mut self, path: &TreePath, id: NodeId) {
        self.changed.push(path.clone());
        self.left_remote.push(id);
    }

    pub(super) fn fetch_failed(&mut self, path: &TreePath, id: NodeId, error: impl std::fmt::Display) {
        self.problems.push(Problem::new(path.clone(), error));
        self.left_remote.push(id);
    }

    fn keep(&mut self, failed: Failed) {
        match failed {
            Failed::Remote(id) => self.left_remote.push(id),
            Failed::Local(id) => self.left_local.push(id),
        }
    }

    /// Whether another round may help.
    pub(super) fn wants_another_round(&self) -> bool {
        !self.stale.is_empty() || !self.changed.is_empty()
    }

    pub(super) fn merge(&mut self, other: Outcome) {
        self.synced += other.synced;
        self.deleted += other.deleted;
        self.renamed += other.renamed;
        self.bytes_total += other.bytes_total;
        self.problems.extend(other.problems);
        self.not_empty.extend(other.not_empty);
        self.stale.extend(other.stale);
        self.put_back.extend(other.put_back);
        self.garbled.extend(other.garbled);
        self.changed.extend(other.changed);
        self.left_remote.extend(other.left_remote);
        self.left_local.extend(other.left_local);
        self.touched.extend(other.touched);
        self.unfinished.extend(other.unfinished);
    }
}

/// An error with its causes, in one line.
pub(crate) fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
