//! A share that exists in memory only, for tests of what reads locations.
//!
//! It is edited by the test, one commit point for each [`Memory::edit`], and can be told to fail ([`Memory::cut_feed_after`]
//! and others). It keeps the contract of a daemon as the conformance suite has it: tombstones, resumable pages, resets for
//! cursors it cannot use.

mod feed;
mod serve;
#[cfg(test)]
mod tests;
mod tree;

use std::{
    collections::{BTreeMap, HashSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use sync_core::{Chunk, Cursor, Digest, Entry, Node, NodeId, Problem, RuleSet, ShareId, TreePath};
use tokio::sync::{mpsc::Receiver, watch};

use crate::{
    error::LocationError,
    location::{AnswerStream, BoxFuture, ByteStream, ChangeStream, KnownChunks, Location, Want},
};
pub use tree::Edit;
use tree::{Held, State};

/// Nodes in one event, unless [`Memory::set_page`] says otherwise.
const PAGE_NODES: usize = 1024;
/// The largest file that is packed.
const MAX_PACKED_BYTES: u64 = 64 << 10;

/// A share in memory. Clones are the same share.
#[derive(Debug, Clone)]
pub struct Memory(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    name: String,
    state: Mutex<State>,
    /// Grows whenever a feed may have something new to say.
    moved: watch::Sender<u64>,
    given_bytes: AtomicU64,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Memory {
    /// An empty share. Its identity comes from its name, so that tests are the same each time.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let shared = Shared {
            name: name.to_owned(),
            state: Mutex::new(State::new(half(&format!("share {name}")), PAGE_NODES)),
            moved: watch::Sender::new(0),
            given_bytes: AtomicU64::new(0),
        };
        Self(Arc::new(shared))
    }

    /// Changes the tree. What is done in one call is one commit point.
    pub fn edit<T>(&self, change: impl FnOnce(&mut Edit<'_>) -> T) -> T {
        self.change(|state| change(&mut Edit::new(state)))
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let done = change(&mut self.0.state());
        self.0.moved.send_modify(|moved| *moved += 1);
        done
    }

    /// Sets the ignore rules that the feed tells.
    pub fn set_rules(&self, rules: RuleSet) {
        self.change(|state| {
            state.rules = rules;
            state.rules_version += 1;
        });
    }

    /// Sets the unreadable paths that the feed tells.
    pub fn set_problems(&self, problems: Vec<Problem>) {
        self.change(|state| {
            state.problems = problems;
            state.problems_version += 1;
        });
    }

    /// Halts the share (`Some`), or lets it go on (`None`).
    pub fn set_halted(&self, reason: Option<&str>) {
        self.change(|state| state.halted = reason.map(ToOwned::to_owned));
    }

    /// How many nodes one event holds.
    pub fn set_page(&self, nodes: usize) {
        self.change(|state| state.page = nodes.max(1));
    }

    /// Makes the index anew: the same tree with other node ids, and no cursor of before is good any more.
    pub fn new_epoch(&self) {
        self.change(State::new_epoch);
    }

    /// Forgets the deletions: a cursor from before the last of them is answered by a reset.
    pub fn forget_deletions(&self) {
        self.change(State::forget_deletions);
    }

    /// Has the next feed end with an error after so many events.
    pub fn cut_feed_after(&self, events: u64) {
        self.0.state().faults.cut_feed = Some(events);
    }

    /// Has the next stream of answers or of a file's bytes end with an error after so many messages.
    pub fn cut_fetch_after(&self, messages: u64) {
        self.0.state().faults.cut_fetch = Some(messages);
    }

    /// Has one byte of this file be wrong whenever it is fetched; or not any more.
    pub fn set_wrong_bytes(&self, path: &str, wrong: bool) {
        set_member(&mut self.0.state().faults.wrong, path, wrong);
    }

    /// Has fetching this file fail as if it had just changed; or not any more.
    pub fn set_changed(&self, path: &str, changed: bool) {
        set_member(&mut self.0.state().faults.changed, path, changed);
    }

    /// Has fetching this file fail for this reason; or (`None`) not any more.
    pub fn set_unreadable(&self, path: &str, reason: Option<&str>) {
        let path = parse(path);
        let mut state = self.0.state();
        match reason {
            Some(reason) => drop(state.faults.unreadable.insert(path, reason.to_owned())),
            None => drop(state.faults.unreadable.remove(&path)),
        }
    }

    /// The share's identity.
    #[must_use]
    pub fn share_id(&self) -> ShareId {
        self.0.state().share
    }

    /// The digest of the tree.
    #[must_use]
    pub fn root_digest(&self) -> Digest {
        self.0.state().root_digest()
    }

    /// The node at a path.
    #[must_use]
    pub fn node(&self, path: &str) -> Option<Node> {
        let state = self.0.state();
        let id = state.find(&parse(path))?;
        state.nodes.get(&id).map(|held| held.node.clone())
    }

    /// Everything that is in it, with the bytes of files.
    #[must_use]
    pub fn entries(&self) -> BTreeMap<TreePath, (Entry, Bytes)> {
        let state = self.0.state();
        let entry = |held: &Held| {
            let path = state.path_of(held.node.id)?;
            Some((path, (held.node.entry.clone(), held.bytes.clone())))
        };
        state.nodes.values().filter_map(entry).collect()
    }

    /// The paths of the files that were fetched so far, in order, once for each time.
    #[must_use]
    pub fn fetched(&self) -> Vec<TreePath> {
        self.0.state().fetched.clone()
    }
}

#[expect(clippy::expect_used, reason = "this is a tool of tests: a path that is none is a mistake in one")]
fn parse(path: &str) -> TreePath {
    TreePath::new(path).expect("a path of a test is a path")
}

fn set_member(set: &mut HashSet<TreePath>, path: &str, member: bool) {
    let path = parse(path);
    let _ = if member { set.insert(path) } else { set.remove(&path) };
}

/// Sixteen bytes that a text stands for.
fn half(text: &str) -> [u8; 16] {
    let digest = Digest::of(text.as_bytes());
    std::array::from_fn(|at| digest.0[at])
}

impl Location for Memory {
    fn describe(&self) -> String {
        format!("{} in memory", self.0.name)
    }

    fn changes<'a>(
        &'a self,
        cursor: Option<&'a Cursor>,
        live: bool,
    ) -> BoxFuture<'a, Result<Box<dyn ChangeStream>, LocationError>> {
        let stream = feed::Changes::new(Arc::clone(&self.0), cursor, live);
        Box::pin(async { Ok(Box::new(stream) as Box<dyn ChangeStream>) })
    }

    fn fetch_packed<'a>(
        &'a self,
        wants: Receiver<Want>,
    ) -> BoxFuture<'a, Result<Box<dyn AnswerStream>, LocationError>> {
        let stream = serve::Answers::new(Arc::clone(&self.0), wants);
        Box::pin(async { Ok(Box::new(stream) as Box<dyn AnswerStream>) })
    }

    fn fetch_file<'a>(
        &'a self,
        node: NodeId,
        digest: &'a Digest,
        offset: u64,
    ) -> BoxFuture<'a, Result<Box<dyn ByteStream>, LocationError>> {
        let stream = serve::FileBytes::open(Arc::clone(&self.0), node, digest, offset);
        Box::pin(async { Ok(Box::new(stream?) as Box<dyn ByteStream>) })
    }

    fn describe_file<'a>(
        &'a self,
        node: NodeId,
        digest: &'a Digest,
        _known: Option<KnownChunks>,
    ) -> BoxFuture<'a, Result<Option<Arc<[Chunk]>>, LocationError>> {
        let description = serve::describe(&self.0, node, digest);
        Box::pin(async { description })
    }

    fn fetch_ranges<'a>(
        &'a self,
        node: NodeId,
        digest: &'a Digest,
        ranges: Vec<(u64, u64)>,
    ) -> BoxFuture<'a, Result<Box<dyn ByteStream>, LocationError>> {
        let stream = serve::FileBytes::open_ranges(Arc::clone(&self.0), node, digest, &ranges);
        Box::pin(async { Ok(Box::new(stream?) as Box<dyn ByteStream>) })
    }

    fn max_packed_bytes(&self) -> u64 {
        MAX_PACKED_BYTES
    }

    /// There is no wire; this counts the bytes of files that were given out.
    fn bytes_received(&self) -> u64 {
        self.0.given_bytes.load(Ordering::Relaxed)
    }
}
