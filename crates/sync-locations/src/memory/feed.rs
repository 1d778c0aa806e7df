//! The feed of a share in memory.

use std::{collections::VecDeque, sync::Arc};

use sync_core::{CommitPoint, Content, Cursor, FeedEvent, NodeChange, NodeId};
use tokio::sync::watch;

use super::{Shared, tree::State};
use crate::{
    error::LocationError,
    location::{BoxFuture, ChangeStream},
};

/// Where a feed stands; what a cursor holds, behind the epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Position {
    /// Nodes up to this id were sent; the feed goes on from `head`.
    Tree { after: u64, head: u64 },
    /// Changes up to this one were sent.
    Feed { seq: u64 },
}

/// A feed that is being read.
pub(super) struct Changes {
    shared: Arc<Shared>,
    moved: watch::Receiver<u64>,
    live: bool,
    position: Position,
    epoch: [u8; 16],
    /// Why the reader must forget everything, until it is told.
    reset: Option<&'static str>,
    told_rules: Option<u64>,
    told_problems: Option<u64>,
    told_halt: bool,
    committed: bool,
    ready: VecDeque<FeedEvent>,
    ended: bool,
    /// Events until the cut, if there is to be one.
    cut: Option<u64>,
}

impl Changes {
    pub(super) fn new(shared: Arc<Shared>, cursor: Option<&Cursor>, live: bool) -> Self {
        let mut state = shared.state();
        let usable = usable(&state, cursor);
        let (epoch, cut) = (state.epoch, state.faults.cut_feed.take());
        let begin = Position::Tree { after: 0, head: state.seq };
        drop(state);
        Self {
            moved: shared.moved.subscribe(),
            shared,
            live,
            position: usable.unwrap_or(begin),
            epoch,
            reset: usable.err(),
            told_rules: None,
            told_problems: None,
            told_halt: false,
            committed: false,
            ready: VecDeque::new(),
            ended: false,
            cut,
        }
    }

    async fn event(&mut self) -> Option<Result<FeedEvent, LocationError>> {
        loop {
            if self.ended {
                return None;
            }
            if self.cut == Some(0) {
                self.ended = true;
                return Some(Err(LocationError::cut("the test cut it")));
            }
            if let Some(event) = self.ready.pop_front() {
                self.cut = self.cut.map(|left| left - 1);
                return Some(Ok(event));
            }
            self.moved.borrow_and_update();
            let shared = Arc::clone(&self.shared);
            if self.step(&shared.state()) {
                continue;
            }
            self.ended = !self.live;
            if self.live && self.moved.changed().await.is_err() {
                self.ended = true;
            }
        }
    }

    /// Makes the next events ready. Answers whether there is more to do at once.
    fn step(&mut self, state: &State) -> bool {
        if let Some(reason) = &state.halted {
            if !std::mem::replace(&mut self.told_halt, true) {
                self.ready.push_back(FeedEvent::Halted { reason: reason.clone() });
                return true;
            }
            return false;
        }
        self.told_halt = false;
        if self.epoch != state.epoch || self.seq() < state.oldest {
            self.epoch = state.epoch;
            self.position = Position::Tree { after: 0, head: state.seq };
            self.reset = Some("the index was made anew");
        }
        if let Some(reason) = self.reset.take() {
            (self.told_rules, self.told_problems, self.committed) = (None, None, false);
            let reset =
                FeedEvent::Reset { share: state.share, epoch: state.epoch, reason: reason.to_owned() };
            self.ready.push_back(reset);
        }
        self.tell_rules(state);
        match self.position {
            Position::Tree { after, head } => self.step_tree(state, after, head),
            Position::Feed { seq } => self.step_feed(state, seq),
        }
    }

    fn tell_rules(&mut self, state: &State) {
        if self.told_rules != Some(state.rules_version) {
            self.told_rules = Some(state.rules_version);
            self.committed = false;
            self.ready.push_back(FeedEvent::Rules(state.rules.clone()));
        }
    }

    fn step_tree(&mut self, state: &State, after: u64, head: u64) -> bool {
        let page = state.nodes.range(NodeId(after + 1)..).take(state.page);
        let changes: Vec<_> = page.map(|(_, held)| NodeChange::Present(held.node.clone())).collect();
        self.position = match changes.last() {
            Some(NodeChange::Present(last)) => Position::Tree { after: last.id.0, head },
            _ => Position::Feed { seq: head },
        };
        self.send_nodes(changes);
        true
    }

    fn step_feed(&mut self, state: &State, seq: u64) -> bool {
        let present = state.nodes.values().map(|held| (held.seq, NodeChange::Present(held.node.clone())));
        let gone = state.gone.iter().map(|(seq, id)| (*seq, NodeChange::Gone(*id)));
        let mut newer: Vec<_> = present.chain(gone).filter(|(at, _)| *at > seq).collect();
        newer.sort_by_key(|(at, _)| *at);
        let complete = newer.len() <= state.page;
        newer.truncate(state.page);
        if let Some((last, _)) = newer.last() {
            self.position = Position::Feed { seq: *last };
            self.committed = false;
        }
        self.send_nodes(newer.into_iter().map(|(_, change)| change).collect());
        if !complete {
            return true;
        }
        if self.told_problems != Some(state.problems_version) {
            self.told_problems = Some(state.problems_version);
            self.committed = false;
            self.ready.push_back(FeedEvent::Problems(state.problems.clone()));
        }
        if !std::mem::replace(&mut self.committed, true) {
            self.position = Position::Feed { seq: state.seq };
            self.ready.push_back(FeedEvent::Commit(commit_point(state, self.cursor())));
        }
        !self.ready.is_empty()
    }

    fn send_nodes(&mut self, changes: Vec<NodeChange>) {
        if !changes.is_empty() {
            self.ready.push_back(FeedEvent::Nodes { changes, resume: self.cursor() });
        }
    }

    fn seq(&self) -> u64 {
        let (Position::Tree { head: seq, .. } | Position::Feed { seq }) = self.position;
        seq
    }

    fn cursor(&self) -> Cursor {
        let (tag, first, second) = match self.position {
            Position::Tree { after, head } => (1, after, head),
            Position::Feed { seq } => (0, seq, 0),
        };
        let parts = [&self.epoch[..], &[tag], &first.to_le_bytes(), &second.to_le_bytes()];
        Cursor(parts.concat().into())
    }
}

impl ChangeStream for Changes {
    fn next(&mut self) -> BoxFuture<'_, Option<Result<FeedEvent, LocationError>>> {
        Box::pin(self.event())
    }
}

fn commit_point(state: &State, cursor: Cursor) -> CommitPoint {
    let contents = || state.nodes.values().map(|held| &held.node.entry.content);
    CommitPoint {
        cursor,
        root_digest: state.root_digest(),
        files: contents().filter(|content| !content.is_dir()).count() as u64,
        bytes: contents().map(Content::size).sum(),
    }
}

/// The position that a cursor means, or why there is none.
fn usable(state: &State, cursor: Option<&Cursor>) -> Result<Position, &'static str> {
    let cursor = cursor.ok_or("from the beginning")?;
    let (epoch, position) = parse(&cursor.0).ok_or("the cursor is not one of this share")?;
    let (Position::Tree { head: seq, .. } | Position::Feed { seq }) = position;
    if epoch != state.epoch {
        return Err("the index was made anew");
    }
    if seq > state.seq || seq < state.oldest {
        return Err("the cursor is ahead of the index, or too old");
    }
    Ok(position)
}

fn parse(bytes: &[u8]) -> Option<([u8; 16], Position)> {
    let (epoch, rest) = bytes.split_first_chunk::<16>()?;
    let (tag, rest) = rest.split_first()?;
    let (first, rest) = rest.split_first_chunk()?;
    let second = u64::from_le_bytes(rest.try_into().ok()?);
    let first = u64::from_le_bytes(*first);
    match tag {
        0 => Some((*epoch, Position::Feed { seq: first })),
        1 => Some((*epoch, Position::Tree { after: first, head: second })),
        _ => None,
    }
}
