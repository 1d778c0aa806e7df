//! What a share tells about itself, in the words of this crate.
//!
//! The feed after a cursor is "every node whose last change came later, in order of that change". A prefix of it is not
//! a tree; only a [`CommitPoint`] says that the nodes received so far describe a tree that existed.

use std::fmt;

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

impl NodeChange {
    /// The node that it is about.
    #[must_use]
    pub fn id(&self) -> &NodeId {
        match self {
            Self::Present(node) => &node.id,
            Self::Gone(id) => id,
        }
    }
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

/// How well a share hears of what changes on its disk.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Watching {
    /// Directories that are watched.
    pub watched: u64,
    /// Directories in all.
    pub directories: u64,
    /// What is not watched is looked at about that often; 0: all is watched.
    pub poll_secs: u64,
    /// How many times events were lost since the daemon was started. Everything was looked at again each time.
    pub lost: u64,
    /// Why it is degraded, for people; empty if it is not.
    pub reason: String,
    /// What a person may do about that; empty if nothing.
    pub advice: String,
}

impl Watching {
    /// Whether changes may be seen later than usual.
    #[must_use]
    pub fn is_degraded(&self) -> bool {
        !self.reason.is_empty()
    }

    fn coverage(&self) -> Option<String> {
        let Self { watched, directories, poll_secs, .. } = self;
        match (watched, poll_secs) {
            (_, 0) if self.is_degraded() => None,
            (_, 0) => Some(format!("all directories are watched ({directories})")),
            (0, secs) => Some(format!(
                "none of {directories} directories are watched, everything is looked at every {secs} s"
            )),
            (watched, secs) => Some(format!(
                "{watched} of {directories} directories are watched, the others are looked at every {secs} s"
            )),
        }
    }
}

impl fmt::Display for Watching {
    /// All of it, in one line.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reason = self.is_degraded().then(|| self.reason.clone());
        let parts: Vec<String> = self.coverage().into_iter().chain(reason).collect();
        write!(out, "{}", parts.join(": "))?;
        if self.advice.is_empty() { Ok(()) } else { write!(out, "; {}", self.advice) }
    }
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
    /// How well the share hears of changes, if that is news. Says nothing about the nodes.
    Watching(Watching),
    /// The share refuses to publish until a person decides.
    Halted {
        /// Why.
        reason: String,
    },
    /// Nothing new.
    Heartbeat,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_watched_in_words() {
        let all = Watching { watched: 9, directories: 9, ..Watching::default() };
        let some = Watching { watched: 3, poll_secs: 2, reason: "a limit".into(), ..all.clone() };
        let none = Watching { watched: 0, advice: "raise it".into(), ..some.clone() };
        let lost = Watching { reason: "events were lost".into(), ..all.clone() };
        for (watching, degraded, want) in [
            (all, false, "all directories are watched (9)"),
            (some, true, "3 of 9 directories are watched, the others are looked at every 2 s: a limit"),
            (
                none,
                true,
                "none of 9 directories are watched, everything is looked at every 2 s: a limit; raise it",
            ),
            (lost, true, "events were lost"),
        ] {
            assert_eq!((watching.is_degraded(), watching.to_string().as_str()), (degraded, want));
        }
    }
}
