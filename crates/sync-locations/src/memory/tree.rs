//! The tree itself, and the ways to change it.

use std::collections::{BTreeMap, HashMap, HashSet};

use bytes::Bytes;
use sync_core::{
    Content, Digest, Entry, Name, Node, NodeId, Problem, RuleSet, ShareId, Time, TreePath, treehash::DirSum,
};

use super::parse;

/// A node, its bytes, and the sequence number of its last change.
#[derive(Debug, Clone)]
pub(super) struct Held {
    pub node: Node,
    pub bytes: Bytes,
    pub seq: u64,
    /// It was in another directory before: a reader may know it there.
    pub moved: bool,
}

/// What a test has told it to do wrong.
#[derive(Debug, Default)]
pub(super) struct Faults {
    pub cut_feed: Option<u64>,
    pub cut_fetch: Option<u64>,
    pub wrong: HashSet<TreePath>,
    pub changed: HashSet<TreePath>,
    pub unreadable: HashMap<TreePath, String>,
}

/// The share.
#[derive(Debug)]
pub(super) struct State {
    pub share: ShareId,
    pub epoch: [u8; 16],
    pub nodes: BTreeMap<NodeId, Held>,
    /// Tombstones by sequence number.
    pub gone: BTreeMap<u64, NodeId>,
    /// Cursors below it are too old.
    pub oldest: u64,
    /// The newest sequence number. Ids come from the same counter.
    pub seq: u64,
    pub rules: RuleSet,
    pub rules_version: u64,
    pub problems: Vec<Problem>,
    pub problems_version: u64,
    pub halted: Option<String>,
    pub page: usize,
    pub faults: Faults,
    pub fetched: Vec<TreePath>,
}

impl State {
    pub(super) fn new(share: [u8; 16], page: usize) -> Self {
        Self {
            share: ShareId(share),
            epoch: [1; 16],
            nodes: BTreeMap::new(),
            gone: BTreeMap::new(),
            oldest: 0,
            seq: 0,
            rules: RuleSet::default(),
            rules_version: 0,
            problems: Vec::new(),
            problems_version: 0,
            halted: None,
            page,
            faults: Faults::default(),
            fetched: Vec::new(),
        }
    }

    fn next_seq(&mut self) -> u64 {
        self.seq += 1;
        self.seq
    }

    fn children(&self, parent: NodeId) -> impl Iterator<Item = &Held> {
        self.nodes.values().filter(move |held| held.node.parent == parent)
    }

    /// The node at a path, also the root.
    pub(super) fn find(&self, path: &TreePath) -> Option<NodeId> {
        path.names().try_fold(NodeId::ROOT, |dir, name| {
            self.children(dir).find(|held| held.node.name.as_str() == name).map(|held| held.node.id)
        })
    }

    /// The path of a node that is there.
    pub(super) fn path_of(&self, id: NodeId) -> Option<TreePath> {
        if id == NodeId::ROOT {
            return Some(TreePath::root());
        }
        let node = &self.nodes.get(&id)?.node;
        Some(self.path_of(node.parent)?.join(&node.name))
    }

    pub(super) fn root_digest(&self) -> Digest {
        self.digest_of(NodeId::ROOT)
    }

    fn digest_of(&self, dir: NodeId) -> Digest {
        let mut sum = DirSum::default();
        for Held { node, .. } in self.children(dir) {
            let below = node.entry.content.is_dir().then(|| self.digest_of(node.id));
            sum.add(&DirSum::of_child(&node.name, &node.entry, below.as_ref()));
        }
        sum.digest()
    }

    pub(super) fn new_epoch(&mut self) {
        self.epoch[0] += 1;
        let old = std::mem::take(&mut self.nodes);
        let ids: HashMap<_, _> = old.keys().map(|id| (*id, NodeId(self.next_seq()))).collect();
        for (id, mut held) in old {
            held.node.id = ids[&id];
            held.node.parent = ids.get(&held.node.parent).copied().unwrap_or(NodeId::ROOT);
            held.seq = self.next_seq();
            self.nodes.insert(held.node.id, held);
        }
        self.gone.clear();
        self.oldest = 0;
    }

    pub(super) fn forget_deletions(&mut self) {
        self.oldest = self.gone.keys().next_back().copied().unwrap_or(self.oldest);
        self.gone.clear();
    }
}

/// A change of the tree that is being made. Directories above a place are made as needed; paths that make no sense panic.
#[derive(Debug)]
pub struct Edit<'a>(&'a mut State);

impl<'a> Edit<'a> {
    pub(super) fn new(state: &'a mut State) -> Self {
        Self(state)
    }

    /// Writes a file. One that is there keeps its node.
    pub fn file(&mut self, path: &str, bytes: impl Into<Bytes>) {
        let bytes = bytes.into();
        let content = Content::File { size: bytes.len() as u64, digest: Digest::of(&bytes) };
        self.put(path, content, bytes);
    }

    /// Makes a directory.
    pub fn dir(&mut self, path: &str) {
        self.put(path, Content::Directory, Bytes::new());
    }

    /// Makes a symbolic link.
    pub fn link(&mut self, path: &str, target: &str) {
        self.put(path, Content::Symlink { target: target.as_bytes().into() }, Bytes::new());
    }

    /// Removes a place and all below it.
    pub fn remove(&mut self, path: &str) {
        let id = self.at(path);
        let mut ids = vec![id];
        while let Some(id) = ids.pop() {
            ids.extend(self.0.children(id).map(|held| held.node.id));
            if self.0.nodes.remove(&id).is_some_and(|held| held.moved) {
                self.bury(id);
            }
        }
        // Covers what was below, but for what a reader may know in another place.
        self.bury(id);
    }

    /// Moves a place; what is at the new one is removed.
    pub fn rename(&mut self, from: &str, to: &str) {
        let id = self.at(from);
        let to = parse(to);
        if self.0.find(&to).is_some() {
            self.remove(to.as_str());
        }
        let (parent, name) = self.place(&to);
        self.touch(id, |node| (node.parent, node.name) = (parent, name));
    }

    /// Swaps two places.
    pub fn swap(&mut self, one: &str, other: &str) {
        let (one, other) = (self.at(one), self.at(other));
        let place = |state: &State, id| {
            let node = &state.nodes[&id].node;
            (node.parent, node.name.clone())
        };
        let (first, second) = (place(self.0, one), place(self.0, other));
        self.touch(one, |node| (node.parent, node.name) = second);
        self.touch(other, |node| (node.parent, node.name) = first);
    }

    /// Sets the permission bits.
    pub fn mode(&mut self, path: &str, mode: u16) {
        let id = self.at(path);
        self.touch(id, |node| node.entry.mode = mode);
    }

    /// Sets the time.
    pub fn mtime(&mut self, path: &str, mtime: Time) {
        let id = self.at(path);
        self.touch(id, |node| node.entry.mtime = mtime);
    }

    fn bury(&mut self, id: NodeId) {
        let seq = self.0.next_seq();
        self.0.gone.insert(seq, id);
    }

    fn touch(&mut self, id: NodeId, change: impl FnOnce(&mut Node)) {
        let seq = self.0.next_seq();
        if let Some(held) = self.0.nodes.get_mut(&id) {
            held.seq = seq;
            let parent = held.node.parent;
            change(&mut held.node);
            held.moved |= parent != held.node.parent;
        }
    }

    fn at(&self, path: &str) -> NodeId {
        match self.0.find(&parse(path)) {
            Some(id) if id != NodeId::ROOT => id,
            _ => panic!("there is nothing at {path:?}"),
        }
    }

    fn put(&mut self, path: &str, content: Content, bytes: Bytes) {
        let path = parse(path);
        let (parent, name) = self.place(&path);
        let there = self.0.find(&path);
        if let Some(old) = there
            && self.0.nodes[&old].node.entry.content.is_dir()
            && !content.is_dir()
        {
            // The node stays; what was in the directory goes.
            let below: Vec<_> = self.0.children(old).map(|held| path.join(&held.node.name)).collect();
            below.iter().for_each(|path| self.remove(path.as_str()));
        }
        let seq = self.0.next_seq();
        let mode = match content {
            Content::File { .. } => 0o644,
            Content::Directory => 0o755,
            Content::Symlink { .. } => 0,
        };
        let mtime = Time { secs: 1_700_000_000 + seq.cast_signed(), nanos: 123_456_789 };
        let id = there.unwrap_or(NodeId(seq));
        let node = Node { id, parent, name, entry: Entry { content, mtime, mode } };
        let moved = self.0.nodes.get(&id).is_some_and(|held| held.moved);
        self.0.nodes.insert(id, Held { node, bytes, seq, moved });
    }

    /// The directory and name of a place.
    fn place(&mut self, path: &TreePath) -> (NodeId, Name) {
        let Some((dir, name)) = path.split() else { panic!("the root is no place for a node") };
        let parent = match self.0.find(&dir) {
            Some(parent) => parent,
            None => {
                self.dir(dir.as_str());
                self.at(dir.as_str())
            }
        };
        let is_dir = parent == NodeId::ROOT || self.0.nodes[&parent].node.entry.content.is_dir();
        assert!(is_dir, "{dir} is no directory");
        (parent, Name::new(name).unwrap_or_else(|error| panic!("{name:?}: {error}")))
    }
}
