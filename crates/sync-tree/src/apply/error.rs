//! Why a place was not changed.

use std::io;

use rustix::io::Errno;
use sync_core::{Hint, TreePath, name::STATE_DIR};

use crate::trouble;

/// Why a place was not changed. It then holds what it held before, unless the variant says otherwise.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The place does not hold what the plan saw.
    #[error("{path} changed after it was scanned")]
    Stale {
        /// The place.
        path: TreePath,
    },
    /// The bytes are not those that were announced.
    #[error("The content for {path} does not have the expected digest")]
    Digest {
        /// The place they are for.
        path: TreePath,
    },
    /// There is no space left, or no quota.
    #[error("The disk is full: cannot write {}", shown(path))]
    Full {
        /// The place.
        path: TreePath,
    },
    /// The file system refuses all changes.
    #[error("The file system is read-only: cannot change {}", shown(path))]
    ReadOnly {
        /// The place.
        path: TreePath,
    },
    /// The target, or its `.syncd` directory, was removed while it was worked in.
    #[error("The target directory, or .syncd in it, is gone")]
    Gone {
        /// What was to be changed.
        path: TreePath,
    },
    /// This user may not change the place.
    #[error("Not allowed to change {}: cannot {action}", shown(path))]
    Denied {
        /// The place.
        path: TreePath,
        /// What was tried.
        action: &'static str,
        /// What the system says.
        source: io::Error,
    },
    /// The directory still holds something.
    #[error("The directory {path} is not empty")]
    NotEmpty {
        /// The place.
        path: TreePath,
    },
    /// Another file system is mounted there, so that nothing can be renamed into it.
    #[error("{path} is on another file system than the target")]
    CrossDevice {
        /// The place.
        path: TreePath,
    },
    /// What is in the place could not be moved to where it belongs, so nothing can be moved here.
    #[error("What is in the place of {path} could not be moved away")]
    Blocked {
        /// The place.
        path: TreePath,
    },
    /// Anything else.
    #[error("Cannot {action} ({})", shown(path))]
    Io {
        /// The place.
        path: TreePath,
        /// What was tried.
        action: &'static str,
        /// What the system says.
        source: io::Error,
    },
}

impl ApplyError {
    /// Whether going on with other places makes no sense.
    #[must_use]
    pub fn is_fatal(&self) -> bool {
        matches!(self, Self::Full { .. } | Self::ReadOnly { .. } | Self::Gone { .. })
    }

    /// Whether it says nothing about the place: the disk or the system is in trouble, and other places fail as well.
    #[must_use]
    pub fn is_trouble(&self) -> bool {
        matches!(self, Self::Io { source, .. } if trouble::may_pass(source))
    }

    /// The place that the error is about; the root if it is about staging itself.
    #[must_use]
    pub fn path(&self) -> &TreePath {
        match self {
            Self::Stale { path }
            | Self::Digest { path }
            | Self::Full { path }
            | Self::ReadOnly { path }
            | Self::Gone { path }
            | Self::Denied { path, .. }
            | Self::NotEmpty { path }
            | Self::Blocked { path }
            | Self::CrossDevice { path }
            | Self::Io { path, .. } => path,
        }
    }

    /// Names the place that something was being staged for: staging itself does not know it.
    #[must_use]
    pub fn about(mut self, place: &TreePath) -> Self {
        let path = match &mut self {
            Self::Stale { path }
            | Self::Digest { path }
            | Self::Full { path }
            | Self::ReadOnly { path }
            | Self::Gone { path }
            | Self::Denied { path, .. }
            | Self::NotEmpty { path }
            | Self::Blocked { path }
            | Self::CrossDevice { path }
            | Self::Io { path, .. } => path,
        };
        if path.is_root() {
            *path = place.clone();
        }
        self
    }

    /// What went wrong at a place of the tree. Something in the way, or something missing, means that it changed.
    #[must_use]
    pub fn of_place(path: &TreePath, action: &'static str, source: io::Error) -> Self {
        match Errno::from_io_error(&source) {
            Some(Errno::EXIST | Errno::NOENT | Errno::NOTDIR | Errno::ISDIR | Errno::LOOP) => {
                Self::Stale { path: path.clone() }
            }
            None if matches!(source.kind(), io::ErrorKind::AlreadyExists | io::ErrorKind::NotFound) => {
                Self::Stale { path: path.clone() }
            }
            _ => Self::of_io(path, action, source),
        }
    }

    /// What went wrong in our own directories. If they are gone, so is the target, or somebody cleans up behind us.
    pub(super) fn of_state(action: &'static str, source: io::Error) -> Self {
        let path = TreePath::root();
        match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::StaleNetworkFileHandle => Self::Gone { path },
            _ => Self::of_io(&path, action, source),
        }
    }

    fn of_io(path: &TreePath, action: &'static str, source: io::Error) -> Self {
        let path = path.clone();
        match Errno::from_io_error(&source) {
            Some(Errno::NOSPC | Errno::DQUOT) => Self::Full { path },
            Some(Errno::ROFS) => Self::ReadOnly { path },
            Some(Errno::ACCESS | Errno::PERM) => Self::Denied { path, action, source },
            Some(Errno::NOTEMPTY) => Self::NotEmpty { path },
            Some(Errno::XDEV) => Self::CrossDevice { path },
            _ => Self::Io { path, action, source },
        }
    }
}

/// Staging does not know what it works for.
fn shown(path: &TreePath) -> &str {
    if path.is_root() { STATE_DIR } else { path.as_str() }
}

impl Hint for ApplyError {
    fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::Stale { .. } => "sync again; the newer version will be picked up",
            Self::Digest { .. } => "sync again; if it stays, check the disks and the memory of both machines",
            Self::Full { .. } => "free some space (.syncd/trash holds what was replaced), then run again",
            Self::ReadOnly { .. } => "remount it for writing, or choose another --target",
            Self::Gone { .. } => "restore or mount it, then run again",
            Self::Denied { .. } => "give this user the permission, or run as the owner of the target",
            Self::NotEmpty { .. } => "it holds files that are ignored or newer than the scan; they are kept",
            Self::CrossDevice { .. } => "sync that file system as a target of its own",
            Self::Blocked { .. } => "put right what is told of that, then sync again",
            Self::Io { source, .. } => return trouble::advice(source),
        })
    }
}
