//! Reads a share's feed from a cursor on: the full tree in pages where needed, then the changes, then commit points.
//!
//! A reader holds a place in the index and nothing else: no queue, no transaction, no thread. It can be left alone for
//! any time and goes on from where it stands, or starts again with a reset if the deletions since then are forgotten.
//! Invariants:
//! * A cursor that cannot be used is answered by a reset, never by silence.
//! * The rules that belong to a commit point are sent before it: a path that became ignored must not look deleted.
//! * Nothing is skipped between a full tree and the feed: the feed goes on from the head *before* the first page.

use std::{borrow::Borrow, mem, time::Instant};

use sync_core::{CommitPoint, Content, Cursor, FeedEvent, Node, NodeChange, NodeId, RuleSet, Seq};

use crate::{
    index::{Edition, FeedPage, Head, Index, IndexError, IndexedNode},
    live::{LiveTree, problems},
    rules::bounded,
};

/// Nodes in one event at most.
const PAGE_NODES: usize = 4096;

/// About this many bytes of nodes are in one event at most: a message of the wire must hold them.
const PAGE_BYTES: usize = 512 << 10;

/// The first byte of a cursor. A cursor of another version is answered by a reset.
const CURSOR_VERSION: u8 = 1;

/// What a reader found next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// The next messages of the feed; at least one.
    Events(Vec<FeedEvent>),
    /// There is nothing newer: wait for the tree's status to change.
    CaughtUp,
}

/// A subscription's place in a feed.
#[derive(Debug)]
pub struct FeedReader {
    epoch: [u8; 16],
    position: Position,
    /// Whether a commit point was sent for this position.
    committed: bool,
    /// Why everything known before is void, until that is told.
    reset: Option<String>,
    /// The rules that were sent, before what does not fit was left out.
    rules: Option<RuleSet>,
    problems_version: Option<u64>,
}

/// Takes rows that are told, for those who ask for them next.
type Keep<'a> = &'a dyn Fn(Edition, Vec<IndexedNode>);

/// Where a reader stands; what a cursor holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Position {
    /// Within the full tree: nodes up to this id were sent. `head` is where the feed goes on after it.
    Tree { after: NodeId, head: Seq },
    /// Within the feed: changes up to this one were sent.
    Feed { seq: Seq },
}

impl FeedReader {
    /// A reader that goes on from a cursor, or from nothing if the cursor is empty.
    ///
    /// # Errors
    /// The index cannot be read.
    pub fn start(index: impl Borrow<Index>, cursor: &[u8]) -> Result<Self, IndexError> {
        let index = index.borrow();
        let mut reader = Self {
            epoch: index.epoch(),
            position: Position::Feed { seq: Seq(0) },
            committed: false,
            reset: None,
            rules: None,
            problems_version: None,
        };
        match usable(index, cursor)? {
            Ok(position) => reader.position = position,
            Err(reason) => reader.begin_anew(index, reason)?,
        }
        Ok(reader)
    }

    /// Reads on.
    ///
    /// # Errors
    /// The index cannot be read.
    pub fn step(&mut self, tree: &LiveTree) -> Result<Step, IndexError> {
        // The version is read before the index, so a change in between is told again rather than missed.
        let problems_version = tree.status().borrow().problems_version;
        let site = tree.site();
        let keep = |edition, rows| {
            if site.told.put(edition, rows, Instant::now()) {
                tree.remind();
            }
        };
        let keep: Option<Keep<'_>> = if site.fresh.is_wanted() { Some(&keep) } else { None };
        self.step_index(&site.index, problems_version, keep)
    }

    fn step_index(
        &mut self,
        index: &Index,
        problems_version: u64,
        keep: Option<Keep<'_>>,
    ) -> Result<Step, IndexError> {
        if let Some(reason) = self.lost(index)? {
            self.begin_anew(index, reason)?;
        }
        let mut events = Vec::new();
        self.introduce(index, &mut events)?;
        while events.is_empty() || matches!(events.last(), Some(FeedEvent::Rules(_))) {
            let more = match self.position {
                Position::Tree { after, head } => self.step_tree(index, keep, (after, head), &mut events)?,
                Position::Feed { seq } => self.step_feed(index, seq, problems_version, &mut events)?,
            };
            if !more {
                break;
            }
        }
        Ok(if events.is_empty() { Step::CaughtUp } else { Step::Events(events) })
    }

    /// Why this reader cannot go on from where it stands, if it cannot.
    fn lost(&self, index: &Index) -> Result<Option<String>, IndexError> {
        if index.epoch() != self.epoch {
            return Ok(Some("the index was made anew".to_owned()));
        }
        Ok(too_old(index, self.position)?.then(|| "deletions since then are forgotten".to_owned()))
    }

    fn begin_anew(&mut self, index: &Index, reason: String) -> Result<(), IndexError> {
        self.epoch = index.epoch();
        self.position = Position::Tree { after: NodeId::ROOT, head: index.head()?.seq };
        self.committed = false;
        self.reset = Some(reason);
        self.rules = None;
        self.problems_version = None;
        Ok(())
    }

    /// What comes before all nodes: the reset, if there is one, and the rules.
    fn introduce(&mut self, index: &Index, events: &mut Vec<FeedEvent>) -> Result<(), IndexError> {
        if let Some(reason) = self.reset.take() {
            events.push(FeedEvent::Reset { share: index.share_id(), epoch: self.epoch, reason });
        }
        if self.rules.is_none() {
            let rules = index.rule_set()?;
            events.push(FeedEvent::Rules(bounded(&rules)));
            self.rules = Some(rules);
        }
        Ok(())
    }

    /// The next page of the full tree. Answers whether to go on reading.
    fn step_tree(
        &mut self,
        index: &Index,
        keep: Option<Keep<'_>>,
        (after, head): (NodeId, Seq),
        events: &mut Vec<FeedEvent>,
    ) -> Result<bool, IndexError> {
        let (mut rows, edition) = index.tree_rows(after, PAGE_NODES)?;
        rows.truncate(how_many_fit(rows.iter().map(|row| node_bytes(&row.node))));
        let Some(last) = rows.last() else {
            self.position = Position::Feed { seq: head };
            return Ok(true);
        };
        self.position = Position::Tree { after: last.node.id, head };
        let changes = match keep.zip(edition) {
            Some((keep, edition)) => {
                let changes = rows.iter().map(|row| NodeChange::Present(row.node.clone())).collect();
                keep(edition, rows);
                changes
            }
            None => rows.into_iter().map(|row| NodeChange::Present(row.node)).collect(),
        };
        events.push(FeedEvent::Nodes { changes, resume: self.cursor() });
        Ok(true)
    }

    /// The next changes, and the commit point after the last of them. Answers whether to go on reading.
    fn step_feed(
        &mut self,
        index: &Index,
        seq: Seq,
        problems_version: u64,
        events: &mut Vec<FeedEvent>,
    ) -> Result<bool, IndexError> {
        let FeedPage { changes, last, commit } = bounded_page(index, seq)?;
        if !changes.is_empty() {
            self.position = Position::Feed { seq: last };
            self.committed = false;
            events.push(FeedEvent::Nodes { changes, resume: self.cursor() });
        }
        match commit {
            Some(head) => self.commit(index, &head, problems_version, events),
            None => Ok(true),
        }
    }

    /// Ends a batch: rules and problems if they are new, then the commit point. Answers whether to go on reading.
    fn commit(
        &mut self,
        index: &Index,
        head: &Head,
        problems_version: u64,
        events: &mut Vec<FeedEvent>,
    ) -> Result<bool, IndexError> {
        let rules = index.rule_set()?;
        if self.rules.as_ref() != Some(&rules) {
            // Rules that are newer than the nodes would make what they let in look deleted. Read on until both rest.
            if index.head()?.seq != head.seq {
                return Ok(true);
            }
            events.push(FeedEvent::Rules(bounded(&rules)));
            self.rules = Some(rules);
            self.committed = false;
            // Rules that do not fit are among the problems.
            self.problems_version = None;
        }
        if self.problems_version != Some(problems_version) {
            self.problems_version = Some(problems_version);
            self.committed = false;
            events.push(FeedEvent::Problems(problems(index)?));
        }
        if !mem::replace(&mut self.committed, true) {
            // The newest changes may be tombstones that are forgotten already: the head counts them.
            let Position::Feed { seq } = self.position else { return Ok(true) };
            self.position = Position::Feed { seq: seq.max(head.seq) };
            events.push(FeedEvent::Commit(CommitPoint {
                cursor: self.cursor(),
                root_digest: head.root_digest,
                files: head.files,
                bytes: head.bytes,
            }));
        }
        Ok(false)
    }

    fn cursor(&self) -> Cursor {
        let mut bytes = vec![CURSOR_VERSION];
        bytes.extend(self.epoch);
        match self.position {
            Position::Feed { seq } => {
                bytes.push(0);
                bytes.extend(seq.0.to_le_bytes());
            }
            Position::Tree { after, head } => {
                bytes.push(1);
                bytes.extend(after.0.to_le_bytes());
                bytes.extend(head.0.to_le_bytes());
            }
        }
        Cursor(bytes.into())
    }
}

/// The position that a cursor means, or why it cannot be used.
fn usable(index: &Index, cursor: &[u8]) -> Result<Result<Position, String>, IndexError> {
    if cursor.is_empty() {
        return Ok(Err("from the beginning".to_owned()));
    }
    let Some((epoch, position)) = parse(cursor) else {
        return Ok(Err("the cursor is not one of this version".to_owned()));
    };
    if epoch != index.epoch() {
        return Ok(Err("the index was made anew".to_owned()));
    }
    let (Position::Feed { seq } | Position::Tree { head: seq, .. }) = position;
    if seq > index.highest_seq()? {
        return Ok(Err("the cursor is ahead of the index".to_owned()));
    }
    if too_old(index, position)? {
        return Ok(Err("deletions since then are forgotten".to_owned()));
    }
    Ok(Ok(position))
}

fn too_old(index: &Index, position: Position) -> Result<bool, IndexError> {
    let (Position::Feed { seq } | Position::Tree { head: seq, .. }) = position;
    Ok(seq < index.oldest_cursor()?)
}

fn parse(cursor: &[u8]) -> Option<([u8; 16], Position)> {
    let (&CURSOR_VERSION, rest) = cursor.split_first()? else { return None };
    let (epoch, rest) = rest.split_first_chunk::<16>()?;
    let (tag, rest) = rest.split_first()?;
    let (first, rest) = rest.split_first_chunk::<8>()?;
    let first = u64::from_le_bytes(*first);
    let position = match (tag, rest.len()) {
        (0, 0) => Position::Feed { seq: Seq(first) },
        (1, 8) => {
            let head = u64::from_le_bytes(rest.try_into().ok()?);
            Position::Tree { after: NodeId(first), head: Seq(head) }
        }
        _ => return None,
    };
    Some((*epoch, position))
}

/// A page that fits one event. Only trees of very long names or link targets are read twice for it.
fn bounded_page(index: &Index, after: Seq) -> Result<FeedPage, IndexError> {
    let mut limit = PAGE_NODES;
    loop {
        let page = index.feed_page(after, limit)?;
        let fit = how_many_fit(page.changes.iter().map(|change| match change {
            NodeChange::Present(node) => node_bytes(node),
            NodeChange::Gone(_) => 16,
        }));
        if fit >= page.changes.len() {
            return Ok(page);
        }
        limit = fit;
    }
}

/// How many of these sizes stay within the bound; at least one.
fn how_many_fit(sizes: impl Iterator<Item = usize>) -> usize {
    let mut total = 0;
    let within = sizes.take_while(|size| {
        total += size;
        total <= PAGE_BYTES
    });
    within.count().max(1)
}

/// About how much room a node takes in a message.
fn node_bytes(node: &Node) -> usize {
    let target = match &node.entry.content {
        Content::Symlink { target } => target.len(),
        Content::File { .. } | Content::Directory => 0,
    };
    96 + node.name.len() + target
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests make and look at their own trees")]
mod tests;
