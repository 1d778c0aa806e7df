//! What is to be brought into place, a part of a plan at a time.

use std::{collections::HashMap, sync::Arc};

use sync_core::{
    Content, Digest, Node, NodeId, TreePath,
    plan::{self, Put, Source},
};
use tokio::sync::OwnedSemaphorePermit;

use super::whole::Whole;

/// Files and links to bring, and the new directories among their places that appear whole.
#[derive(Default)]
pub(super) struct Puts {
    pub files: Vec<Put>,
    pub wholes: Vec<plan::Whole>,
}

impl Puts {
    /// The remote directories to which something comes, with their places, but for those that appear whole.
    pub(super) fn dirs(&self) -> HashMap<NodeId, TreePath> {
        let files = self.files.iter().map(|put| (put.remote().parent, put.path()));
        let wholes = self.wholes.iter().map(|whole| (whole.remote.parent, &whole.path));
        let mut dirs = HashMap::new();
        for (parent, path) in files.chain(wholes) {
            dirs.entry(parent).or_insert_with(|| path.parent().unwrap_or_default());
        }
        for whole in &self.wholes {
            dirs.remove(&whole.remote.id);
        }
        dirs
    }
}

/// A part at work. It is gone when the last of its items is settled.
#[derive(Debug)]
pub(super) struct Part {
    puts: Vec<Put>,
    wholes: Vec<Whole>,
    /// The whole that each of the puts comes with, if it does with one. It is asked for several times.
    whole_of: Vec<Option<usize>>,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Part {
    /// Answers its items.
    pub(super) fn begin(puts: Puts, permit: Option<OwnedSemaphorePermit>) -> impl Iterator<Item = Item> {
        let Puts { files: puts, wholes } = puts;
        let numbers: HashMap<NodeId, usize> =
            wholes.iter().enumerate().map(|(number, whole)| (whole.remote.id, number)).collect();
        let whole_of = puts.iter().map(|put| numbers.get(&put.remote().parent).copied()).collect();
        let wholes = wholes.into_iter().map(Whole::new).collect();
        let part = Arc::new(Self { puts, wholes, whole_of, _permit: permit });
        (0..part.puts.len()).map(move |at| Item { part: part.clone(), at })
    }
}

/// One file or link of a part.
#[derive(Debug, Clone)]
pub(super) struct Item {
    part: Arc<Part>,
    at: usize,
}

impl Item {
    pub(super) fn put(&self) -> &Put {
        &self.part.puts[self.at]
    }

    pub(super) fn node(&self) -> &Node {
        self.put().remote()
    }

    /// The size and digest of what is wanted, if it is a file.
    pub(super) fn content(&self) -> Option<(u64, Digest)> {
        match self.node().entry.content {
            Content::File { size, digest } => Some((size, digest)),
            _ => None,
        }
    }

    pub(super) fn is_fetched(&self) -> bool {
        matches!(self.put(), Put::File { source: Source::Fetch, .. })
    }

    /// The directory that it appears with, if it does.
    pub(super) fn whole(&self) -> Option<&Whole> {
        self.part.whole_of[self.at].map(|number| &self.part.wholes[number])
    }

    /// Its number in the part.
    pub(super) fn number(&self) -> usize {
        self.at
    }

    /// Another item of the same part.
    pub(super) fn other(&self, number: usize) -> Item {
        Item { part: self.part.clone(), at: number }
    }

    /// What is wanted of another item.
    pub(super) fn other_put(&self, number: usize) -> &Put {
        &self.part.puts[number]
    }
}
