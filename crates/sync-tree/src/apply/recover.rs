//! Cleaning up after a run that ended in the middle.
//!
//! What lies in `moves` and `swap` came out of the tree: it goes back, or to the trash. (A file of our own that was about to
//! replace something lies in `swap` under its own inode number, and is known by that. What the other side has was about to be
//! deleted there, and its name says by what it is known; only if it still is that, it is deleted.) Everything else in staging
//! is what an earlier run was receiving, and is deleted, but for large files that can be gone on with.

use std::{io, time::SystemTime};

use sync_core::TreePath;

use super::{
    Applier, ApplyError, MOVES, SWAP, journal,
    partial::PARTIAL,
    place::{is_to_be_deleted, our_inode},
    trash,
};
use crate::rooted::Dir;

/// So many names are deleted at one start, staging and old trash each; the rest waits for the next, so that a start is
/// never long.
const MAX_DELETIONS: u64 = 1_000_000;

/// Where things go in the trash if it is not known where they were.
const LOST: &str = "recovered";

/// What was found in staging and saved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recovered {
    /// It is back where it was taken from.
    PutBack {
        /// The place.
        path: TreePath,
    },
    /// It is in this run's directory of the trash, under this path.
    Trashed {
        /// The place that it had, or a name for it.
        path: TreePath,
    },
}

impl Applier {
    /// Settles what an earlier run left, deletes its temporary files, and what the trash kept long enough. Called once,
    /// under the target's lock, before anything is changed.
    ///
    /// # Errors
    /// Something can neither go back nor to the trash. It waits for the next start.
    pub fn recover(&self) -> Result<Vec<Recovered>, ApplyError> {
        let mut recovered = self.recover_moves()?;
        recovered.extend(self.recover_swap()?);
        // Also what was put in by the run that ended may be back in staging after a power cut, and then needs its note.
        if !recovered.is_empty() || has_notes(&self.moves).map_err(state_failed)? {
            self.flush_earlier()?;
        }
        drop_notes(&self.moves).and_then(|()| drop_notes(&self.swap)).map_err(state_failed)?;
        let failed = |source| ApplyError::of_state("clean .syncd/staging", source);
        let mut budget = MAX_DELETIONS;
        for entry in self.staging.dir().list().map_err(failed)? {
            let Ok(name) = std::str::from_utf8(&entry.name) else { continue };
            if ![MOVES, SWAP, PARTIAL, self.staging.run()].contains(&name) {
                trash::clear(self.staging.dir(), name, &mut budget).map_err(failed)?;
            }
        }
        self.prune_partials(SystemTime::now(), &mut budget).map_err(failed)?;
        self.prune_trash(SystemTime::now())?;
        Ok(recovered)
    }

    /// Deletes what the trash kept long enough by `now`.
    ///
    /// # Errors
    /// The trash cannot be read.
    pub fn prune_trash(&self, now: SystemTime) -> Result<(), ApplyError> {
        let mut budget = MAX_DELETIONS;
        self.trash
            .prune(now, &mut budget)
            .map_err(|source| ApplyError::of_state("clean .syncd/trash", source))
    }

    /// Gives up on all that was taken out and waits: back to where it was, or to the trash. Their notes stay until the next start.
    ///
    /// # Errors
    /// Something can go to neither. It, and what was not tried yet, waits on.
    pub fn recover_moves(&self) -> Result<Vec<Recovered>, ApplyError> {
        let mut found: Vec<(Option<TreePath>, String)> = waiting(&self.moves)
            .map_err(state_failed)?
            .into_iter()
            .map(|name| (known(&self.moves, &name), name))
            .collect();
        // Parents before what was in them.
        found.sort_by_key(|(path, _)| path.as_ref().map(TreePath::depth));
        found.into_iter().map(|(path, name)| self.return_move(&name, path)).collect()
    }

    fn recover_swap(&self) -> Result<Vec<Recovered>, ApplyError> {
        let mut recovered = Vec::new();
        for name in waiting(&self.swap).map_err(state_failed)? {
            let stat = self.swap.stat(&name).map_err(state_failed)?;
            if our_inode(&name) == Some(stat.ino) {
                self.keep_as_partial(&self.swap, &name, &stat).map_err(state_failed)?;
            } else if is_to_be_deleted(&name, &stat) {
                self.swap.remove_file(&name).map_err(state_failed)?;
            } else {
                let known = known(&self.swap, &name);
                recovered.push(self.recover_to_trash(&self.swap, &name, known)?);
            }
        }
        Ok(recovered)
    }

    pub(super) fn recover_to_trash(
        &self,
        dir: &Dir,
        name: &str,
        known: Option<TreePath>,
    ) -> Result<Recovered, ApplyError> {
        let path = known.unwrap_or_else(|| TreePath::root().join(LOST).join(name));
        self.trash.take(dir, name, &path).map_err(|source| {
            ApplyError::of_state("move what an earlier run left to the trash", source).about(&path)
        })?;
        Ok(Recovered::Trashed { path })
    }
}

/// The names in a directory of ours, without the notes. We only make names that are UTF-8.
fn waiting(dir: &Dir) -> io::Result<Vec<String>> {
    let mut names = all_names(dir)?;
    names.retain(|name| !journal::is_note(name));
    Ok(names)
}

/// Where it came from, if its note can be read: one that never can again must not keep every run from starting.
fn known(dir: &Dir, name: &str) -> Option<TreePath> {
    journal::read(dir, name).unwrap_or_else(|error| {
        tracing::warn!(name, %error, "where it came from cannot be read; it goes to the trash");
        None
    })
}

fn has_notes(dir: &Dir) -> io::Result<bool> {
    Ok(all_names(dir)?.iter().any(|name| journal::is_note(name)))
}

/// What the notes were about is settled, or never came.
fn drop_notes(dir: &Dir) -> io::Result<()> {
    for name in all_names(dir)?.iter().filter(|name| journal::is_note(name)) {
        dir.remove_file(name)?;
    }
    Ok(())
}

fn all_names(dir: &Dir) -> io::Result<Vec<String>> {
    Ok(dir.list()?.into_iter().filter_map(|entry| String::from_utf8(entry.name.into()).ok()).collect())
}

fn state_failed(source: io::Error) -> ApplyError {
    ApplyError::of_state("recover what an earlier run left in .syncd/staging", source)
}
