//! Nodes by their ids, for somebody who knows which ones come next.
//!
//! To look one up costs several times what it takes to go on from one row to the next. Those who ask for many mostly ask for
//! what is in one directory after the other, and there ids follow one another. So a run of ids that are expected is read in
//! one go. What is expected decides how a node is read, never what is answered.

use std::collections::VecDeque;

use rusqlite::Connection;
use sync_core::NodeId;

use super::{
    IndexedNode, NodeTable,
    table::{Finder, sql_id},
};

/// Rows that are read in one go; more would save next to nothing.
const MOST_TOGETHER: usize = 16;
/// The largest step between two ids of a run. A row that is passed costs less than a look-up, but no small part of one.
const MOST_STEP: i64 = 3;

/// Looks nodes up, all in the transaction that is open.
#[derive(Debug)]
pub struct Lookup<'db> {
    finder: Finder<'db>,
    /// What will be asked for next, in this order.
    expected: VecDeque<NodeId>,
    /// What was read already of the first of those.
    ahead: VecDeque<Option<IndexedNode>>,
    /// How many were asked for.
    asked: usize,
}

impl NodeTable {
    /// What looks many nodes up.
    ///
    /// # Errors
    /// The database failed.
    pub fn lookup<'db>(&self, db: &'db Connection) -> rusqlite::Result<Lookup<'db>> {
        let (expected, ahead) = (VecDeque::new(), VecDeque::new());
        Ok(Lookup { finder: self.finder(db)?, expected, ahead, asked: 0 })
    }
}

impl Lookup<'_> {
    /// Says which nodes are asked for next, instead of those that were named before.
    pub fn expect(&mut self, ids: impl IntoIterator<Item = NodeId>) {
        self.ahead.clear();
        self.expected.clear();
        self.expected.extend(ids);
    }

    /// One node, if it exists: the next that is expected, one that comes soon after it, or any other.
    ///
    /// # Errors
    /// The database failed, or the row cannot be read.
    pub fn get(&mut self, id: NodeId) -> rusqlite::Result<Option<IndexedNode>> {
        let is_expected = self.pass_by(id);
        if is_expected && self.ahead.is_empty() {
            self.read_ahead();
        }
        self.asked += 1;
        if is_expected {
            self.expected.pop_front();
            if let Some(known) = self.ahead.pop_front() {
                return Ok(known);
            }
        }
        self.finder.one(id)
    }

    /// Drops what is expected before this one, if it is among the next ones. Answers whether it is. If more were passed by it is looked
    /// up by itself, and so is what follows until others are named.
    fn pass_by(&mut self, id: NodeId) -> bool {
        let passed = self.expected.iter().take(MOST_TOGETHER).position(|next| *next == id);
        if let Some(passed) = passed {
            self.expected.drain(..passed);
            self.ahead.drain(..passed.min(self.ahead.len()));
        }
        passed.is_some()
    }

    /// Reads what comes next, if it is a run; not more than was asked for so far, since who asks may have enough before long.
    fn read_ahead(&mut self) {
        let ids = self.expected.make_contiguous();
        let most = self.asked.clamp(1, MOST_TOGETHER).min(ids.len());
        let run = run_at_front(&ids[..most]);
        // A row that cannot be read is the trouble of whoever asks for it, and not of those before it.
        if run > 1
            && let Ok(rows) = self.finder.run(&ids[..run])
        {
            self.ahead = rows;
        }
    }
}

/// How many of the first ids are so close, and in order, that reading all rows between them costs less than to look each up.
fn run_at_front(ids: &[NodeId]) -> usize {
    let steps = ids.windows(2).map(|pair| sql_id(pair[1]).checked_sub(sql_id(pair[0])));
    let close = steps.take_while(|step| step.is_some_and(|step| (1..=MOST_STEP).contains(&step)));
    (close.count() + 1).min(ids.len())
}

#[cfg(test)]
mod tests;
