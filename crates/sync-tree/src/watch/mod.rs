//! Hearing that something changed.
//!
//! Events are hints: they say where to look, never what happened. So everything here may be late, doubled or too much;
//! what must not happen is that a change in a watched directory leaves no trace at all. Invariants:
//! * A directory's watch is placed before the directory is listed, so what the watch misses the list shows.
//! * The thread that takes events from the system never waits for anything but a short lock.
//! * What is remembered is bounded: past the bound, or when the system says that it lost events, the answer is "look at
//!   everything".
//! * A directory that cannot be watched is polled, and that is said.
//!
//! [`Watcher`] is the system's mechanism (crate `notify`), [`dirty`] turns its events into places to look at, [`places`] knows
//! which directories are watched and which have to be polled, and [`limits`] why.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

pub(crate) mod dirty;
#[cfg(test)]
pub(crate) mod fake;
pub(crate) mod limits;
pub(crate) mod places;
mod system;

pub(crate) use system::start_system_watcher;

/// Something that the system says about a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum WatchEvent {
    /// The content or metadata of what is there changed.
    Touched(PathBuf),
    /// Something is there that was not before: it may be a directory that already holds a tree.
    Appeared(PathBuf),
    /// What was there is gone or somewhere else, and so is what was below it.
    Vanished(PathBuf),
    /// Events were lost: nothing is known any more.
    Lost,
}

/// Takes events as they come, on the watcher's own thread. Must not block.
pub(crate) type EventSink = Arc<dyn Fn(WatchEvent) + Send + Sync>;

/// Why a directory cannot be watched.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WatchError {
    /// The system's limit is reached.
    #[error("The limit of watched directories is reached")]
    Limit,
    /// The system's limit of watchers is reached.
    #[error("The limit of watchers is reached")]
    Instances,
    /// The directory is not there (any more).
    #[error("The directory is gone")]
    Gone,
    /// Anything else.
    #[error("The directory cannot be watched")]
    Io {
        /// What the system said.
        source: io::Error,
    },
}

/// A way to hear about changes in single directories (not in what lies below them). When it is dropped, its watches have ended: where
/// there are few, the next watcher needs them.
pub(crate) trait Watcher: Send {
    /// Watches a directory. Doing so again is harmless.
    fn watch(&mut self, dir: &Path) -> Result<(), WatchError>;

    /// Ends the watches of directories that may have moved or gone meanwhile.
    fn unwatch(&mut self, dirs: &[PathBuf]);
}

/// Starts a watcher that reports to a sink. Called again after lost events, for a clean start.
pub(crate) type WatcherFactory = Box<dyn Fn(EventSink) -> Result<Box<dyn Watcher>, WatchError> + Send>;
