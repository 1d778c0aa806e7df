//! What the engine says while it works. It never prints: the shell decides what a person or program sees.

use sync_core::{Halt, Problem, TreePath};

use super::Summary;

/// What is being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Finding the server.
    Connecting,
    /// Reading the feed.
    Listing,
    /// Looking at the target.
    Scanning,
    /// Comparing.
    Planning,
    /// Bringing files into place.
    Transferring,
    /// Directories, and comparing the result.
    Finishing,
}

/// What was done to a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AppliedOp {
    /// It was not there.
    Create,
    /// Its content is another.
    Modify,
    /// Its mode or time is another.
    Metadata,
    /// It is gone.
    Delete,
    /// It was elsewhere.
    Rename,
}

/// Hears of everything. Called from many threads; must not block for long.
pub trait Reporter: Send + Sync {
    /// Another part of the work begins.
    fn phase(&self, _phase: Phase) {}
    /// So many files, with so many bytes to transfer, are to be changed.
    fn planned(&self, _files: u64, _bytes: u64) {}
    /// The same for all that is brought from the beginning on, with what was done by now.
    fn planned_in_all(&self, _files: u64, _bytes: u64) {}
    /// A file that is fetched by itself begins.
    fn file_started(&self, _path: &TreePath, _size: u64) {}
    /// Bytes of a file have come.
    fn bytes(&self, _path: &TreePath, _count: u64) {}
    /// A file is in place.
    fn file_done(&self, _path: &TreePath) {}
    /// A place was changed.
    fn applied(&self, _op: AppliedOp, _path: &TreePath, _from: Option<&TreePath>) {}
    /// These places were not there, and all of them appeared together.
    fn appeared(&self, paths: &[&TreePath]) {
        for path in paths {
            self.applied(AppliedOp::Create, path, None);
        }
    }
    /// A path failed.
    fn problem(&self, _problem: &Problem) {}
    /// The target is what the share was at a commit point.
    fn caught_up(&self, _summary: &Summary) {}
    /// Nothing is done until a person decides.
    fn halted(&self, _halt: &Halt) {}
}

/// Says nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Reporter for Silent {}
