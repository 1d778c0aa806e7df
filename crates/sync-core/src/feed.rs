//! What a share tells about itself, in the words of this crate.
//!
//! The feed after a cursor is "every node whose last change came later, in order of that change". A prefix of it is not
//! a tree; only a [`CommitPoint`] says that the nodes received so far describe a tree that existed.

use crate::{
    entry::{Digest, Node, NodeId},
    name::TreePath,
    problem::Problem,
};

/// The random identity of a share, made together with its index's first epoch and kept for as long as its state is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ShareId(pub [u8; 16]);

impl ShareId {
    /// Reads an id that came over the wire or from a database.
    #[must_use]
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        Some(Self(bytes.try_into().ok()?))
    }

    /// The id as 32 hexadecimal characters.
    #[must_use]
    pub fn to_hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Where a reader stands in a feed. Opaque: only the share that made it can read it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Cursor(pub Box<[u8]>);

/// One node's newest state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeChange {
    /// The node exists and looks like this.
    Present(Node),
    /// The node, and everything still below it, is no more part of the share (deleted, or ignored from now on).
    Gone(NodeId),
}

/// A moment at which the nodes received so far were the whole share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommitPoint {
    /// Where to go on from.
    pub cursor: Cursor,
    /// The digest of the whole tree at that moment, see [`crate::treehash`].
    pub root_digest: Digest,
    /// Files and symlinks in the share.
    pub files: u64,
    /// Bytes in its files.
    pub bytes: u64,
}

/// The ignore rules of one directory, as text in gitignore syntax.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RuleFile {
    /// The directory whose `.syncignore` this is; the root for the configured patterns as well.
    pub dir: TreePath,
    /// The lines.
    pub text: String,
}

/// All ignore rules of a share: the configured patterns first, then every `.syncignore`, in path order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RuleSet {
    /// Later files win over earlier ones of the same directory; deeper directories win over their parents.
    pub files: Vec<RuleFile>,
}

/// One message of a feed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FeedEvent {
    /// The cursor could not be used: forget the remote tree; the full tree follows. Sent first on every feed that begins
    /// from nothing.
    Reset {
        /// Which share this is.
        share: ShareId,
        /// The index's incarnation; node ids of different epochs have nothing to do with each other.
        epoch: [u8; 16],
        /// Why, for people.
        reason: String,
    },
    /// A page of the full tree (between a reset and the first commit point) or of the changes after the cursor.
    Nodes {
        /// Newest states, in feed order.
        changes: Vec<NodeChange>,
        /// Where the feed goes on if it is cut after this message.
        resume: Cursor,
    },
    /// The nodes so far are a tree that existed; every node of the full tree that was not sent does not exist.
    Commit(CommitPoint),
    /// The ignore rules from here on.
    Rules(RuleSet),
    /// All paths that the daemon cannot read at present; replaces the last such message.
    Problems(Vec<Problem>),
    /// The share refuses to publish until a person decides.
    Halted {
        /// Why.
        reason: String,
    },
    /// Nothing new.
    Heartbeat,
}
