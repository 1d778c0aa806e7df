//! What is being collected in one directory, on its way to the committer.

use std::{
    ops::Range,
    sync::{Mutex, PoisonError},
};

use sync_core::NodeId;

use super::{Found, walk::Walker};
use crate::index::{Index, IndexError, Inodes};

/// A directory's findings are sent on in pieces of this size.
const MOST_ITEMS: usize = 1024;

/// What is being collected in one directory, or in a part of it.
pub(super) struct Batch<'w, 'a> {
    walker: &'w Walker<'a>,
    items: Vec<Found>,
    /// Ids for what is new.
    ids: Range<u64>,
    /// Where they come from, until the first is needed.
    part: Option<Part<'w>>,
    /// The inodes of new names, and what is known of them once somebody has asked.
    new_inodes: Vec<u64>,
    known_inodes: Option<Inodes>,
}

impl<'w, 'a> Batch<'w, 'a> {
    pub(super) fn new(walker: &'w Walker<'a>) -> Self {
        let (items, new_inodes) = (Vec::new(), Vec::new());
        Self { walker, items, ids: 0..0, part: None, new_inodes, known_inodes: None }
    }

    /// The same for names of which some are new, and have these inodes.
    pub(super) fn of(walker: &'w Walker<'a>, part: Part<'w>, new_inodes: Vec<u64>) -> Self {
        Self { part: Some(part), new_inodes, ..Self::new(walker) }
    }

    pub(super) fn new_id(&mut self) -> Result<NodeId, IndexError> {
        if self.ids.is_empty() {
            let index = self.walker.index;
            self.ids = match self.part.take().filter(|part| part.count > 0) {
                Some(part) => part.ids(index)?,
                None => index.new_ids(1)?,
            };
        }
        self.ids.next().map(NodeId).ok_or(IndexError::Exhausted)
    }

    /// Whether a new file may be one that the index knows elsewhere.
    pub(super) fn may_have_moved(&mut self, ino: u64) -> bool {
        let ask = || self.walker.inodes_among(&self.new_inodes);
        self.known_inodes.get_or_insert_with(ask).may_have(ino)
    }

    pub(super) fn push(&mut self, found: Found) {
        self.items.push(found);
        if self.items.len() >= MOST_ITEMS {
            self.flush();
        }
    }

    pub(super) fn flush(&mut self) {
        if !self.items.is_empty() {
            self.walker.send(std::mem::take(&mut self.items));
        }
    }
}

/// Ids in a row for all that is new in a directory, also if several threads look at it: their rows are neighbours, and whoever reads
/// the tree by its ids is done with one directory before the next begins.
///
/// Many a new name never becomes a node, as what is ignored; where none does no number is used up, or each look would be a change.
pub(super) struct Row {
    count: usize,
    first: Mutex<Option<u64>>,
}

impl Row {
    pub(super) fn of(count: usize) -> Self {
        Self { count, first: Mutex::new(None) }
    }

    /// So many of the row, behind those `before` them.
    pub(super) fn part(&self, before: usize, count: usize) -> Part<'_> {
        Part { row: self, before, count }
    }

    fn first(&self, index: &Index) -> Result<u64, IndexError> {
        let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        match *first {
            Some(first) => Ok(first),
            None => Ok(*first.insert(index.new_ids(self.count)?.start)),
        }
    }
}

/// A part of a row.
#[derive(Clone, Copy)]
pub(super) struct Part<'r> {
    row: &'r Row,
    before: usize,
    count: usize,
}

impl Part<'_> {
    fn ids(&self, index: &Index) -> Result<Range<u64>, IndexError> {
        let start = self.row.first(index)? + self.before as u64;
        Ok(start..start + self.count as u64)
    }
}
