//! The three ways to fail that a person hears about: a problem (one path), a halt (looks like a disaster), and the advice
//! that comes with either.

use std::fmt;

use crate::name::{TreePath, escape};

/// One path that failed while the rest went on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The place, or the closest one to it that can be named: a name that is not UTF-8 cannot.
    pub path: TreePath,
    /// The bytes of the name below `path` when they are not UTF-8; empty otherwise.
    pub raw_name: Box<[u8]>,
    /// What went wrong, with what to do about it where that is known.
    pub error: String,
    /// Whether what lies at (and below) the place is unknown rather than known. What is unknown is never deleted.
    pub unknown: bool,
}

impl Problem {
    /// A problem with a place whose state is unknown.
    #[must_use]
    pub fn new(path: TreePath, error: impl fmt::Display) -> Self {
        Self { path, raw_name: Box::default(), error: error.to_string(), unknown: true }
    }

    /// The place for people: escaped, and with the raw name if there is one.
    #[must_use]
    pub fn shown_path(&self) -> String {
        if self.raw_name.is_empty() {
            return self.path.to_string();
        }
        let name = String::from_utf8_lossy(&self.raw_name);
        let name = escape(&name);
        if self.path.is_root() { name.into_owned() } else { format!("{}/{name}", self.path) }
    }
}

/// A refusal to act because it looks like a disaster; a person decides.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Halt {
    /// More than half of the files, and more than a hundred, would be deleted.
    #[error("{deletions} of {files} files would be deleted")]
    MassDelete {
        /// How many, counting those of the last ten minutes.
        deletions: u64,
        /// How many there were ten minutes ago.
        files: u64,
    },
    /// The first run into a directory would remove or replace too much that the share does not have.
    #[error("The target holds {count} files that the share does not have, and this is the first run")]
    ForeignTarget {
        /// How many files would be moved to the trash.
        count: u64,
    },
    /// The target was made from another share.
    #[error("The target belongs to share {recorded:?}, not to {asked:?}")]
    OtherShare {
        /// What the target's state says.
        recorded: String,
        /// What was asked for.
        asked: String,
    },
    /// The share itself is halted.
    #[error("The share is halted: {reason}")]
    Share {
        /// What the daemon said.
        reason: String,
    },
    /// The target directory is gone, empty or another one than before.
    #[error("The target looks wrong: {reason}")]
    Target {
        /// What is wrong.
        reason: String,
    },
}

/// Advice that goes with an error. The message stands without it.
pub trait Hint {
    /// What a person can do about it.
    fn hint(&self) -> Option<&'static str>;
}

impl Hint for Halt {
    fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Halt::MassDelete { .. } => {
                "if that is what you want, run again with --allow-mass-delete; otherwise look at the share first"
            }
            Halt::ForeignTarget { .. } => {
                "choose an empty directory, or run again with --allow-mass-delete: replaced files then go to .syncd/trash"
            }
            Halt::OtherShare { .. } => "use another --target for this share",
            Halt::Share { .. } => "look at the directory on the server; then run `syncd accept SHARE` there",
            Halt::Target { .. } => "mount or restore it, or choose another --target",
        })
    }
}
