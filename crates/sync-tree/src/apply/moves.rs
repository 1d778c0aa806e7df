//! What is already in the target goes to another place in it.
//!
//! A move whose new place is free by then is one rename. Moves that cross each other go through `staging/moves`: all are
//! taken out, then all are put in, top down. Each has a note of where it was, so that an ended run can be undone.

use std::io;

use sync_core::TreePath;

use super::{Applier, ApplyError, Expect, Place, Recovered, Unflushed, carry, journal};
use crate::rooted::Stat;

impl Applier {
    /// Moves what is in a place to a free place, and looks whether it was the expected thing; if not, it goes back.
    ///
    /// # Errors
    /// [`ApplyError::Stale`]: something else is in `from`, or something is in `to`.
    pub fn move_new(&self, from: &Place<'_>, to: &Place<'_>, expect: &Expect) -> Result<Stat, ApplyError> {
        check_present(from, expect)?;
        self.checked();
        carry(from.dir, from.name, to.dir, to.name).map_err(|error| self.refused(to, error))?;
        self.taken();
        let moved = to.dir.stat(to.name).map_err(|source| to.failed("look at what was moved", source))?;
        if expect.survived(&moved) {
            return Ok(moved);
        }
        // It is somebody's newer work. If its old place is taken by now it stays where it is, for the next scan to find.
        if let Err(error) = carry(to.dir, to.name, from.dir, from.name) {
            tracing::info!(path = %to.path, %error, "it changed while it was being moved, and stays here");
        }
        Err(from.stale())
    }

    /// Notes of what will be taken out, under which keys, where it is now. Each [`Applier::take_out`] does that by itself, but
    /// together they are flushed at once. What waits under a key keeps its own note.
    ///
    /// # Errors
    /// Staging cannot be written.
    pub fn note_moves(&self, moves: &[(u64, &TreePath)]) -> Result<(), ApplyError> {
        let failed = |source| ApplyError::of_state("write into .syncd/staging", source);
        let mut unflushed = Unflushed::new(self.durability);
        for (key, path) in moves {
            let name = key.to_string();
            if !self.waits(&name).map_err(failed)? {
                unflushed.file(journal::write(&self.moves, &name, path).map_err(failed)?);
            }
        }
        unflushed.names(&self.moves);
        self.flush(&mut unflushed)
    }

    /// Takes a file, a link or a whole directory out of the tree, to be put in again under the same key.
    ///
    /// # Errors
    /// [`ApplyError::Stale`]: the place holds something else, which stays.
    pub fn take_out(&self, at: &Place<'_>, expect: &Expect, key: u64) -> Result<(), ApplyError> {
        let failed = |source| ApplyError::of_state("write into .syncd/staging", source).about(at.path);
        check_present(at, expect)?;
        let name = key.to_string();
        if !matches!(journal::read(&self.moves, &name), Ok(Some(from)) if from == *at.path) {
            self.note_moves(&[(key, at.path)])?;
        }
        self.checked();
        if let Err(error) = carry(at.dir, at.name, &self.moves, &name) {
            // A key that is in use keeps its note: what lies there was not taken from here.
            if error.kind() != io::ErrorKind::AlreadyExists {
                journal::remove(&self.moves, &name);
            }
            return Err(self.refused(at, error));
        }
        self.taken();
        if expect.survived(&self.moves.stat(&name).map_err(failed)?) {
            return Ok(());
        }
        self.undo(&self.moves, &name, at)?;
        journal::remove(&self.moves, &name);
        Err(at.stale())
    }

    /// Puts what was taken out under this key into a free place. The note stays until that is flushed: see
    /// [`Unflushed::put_in`].
    ///
    /// # Errors
    /// [`ApplyError::Stale`]: the place is taken, or its directory is gone. What was taken out waits on; see
    /// [`Applier::put_back`].
    pub fn put_in(&self, key: u64, at: &Place<'_>) -> Result<Stat, ApplyError> {
        let name = key.to_string();
        let taken = self
            .moves
            .stat(&name)
            .map_err(|source| ApplyError::of_state("find what was taken out", source).about(at.path))?;
        self.checked();
        carry(&self.moves, &name, at.dir, at.name).map_err(|error| self.refused(at, error))?;
        self.taken();
        let now = at.dir.stat(at.name).map_err(|source| at.failed("look at what was moved", source))?;
        if (now.kind, now.ino) == (taken.kind, taken.ino) { Ok(now) } else { Err(at.stale()) }
    }

    /// Gives up on what was taken out under this key: back to where it was if that is free, else to the trash. The note stays
    /// until the next start.
    ///
    /// # Errors
    /// Neither is possible. It waits on.
    pub fn put_back(&self, key: u64) -> Result<Recovered, ApplyError> {
        let name = key.to_string();
        // A note that cannot be read now can perhaps be read at the next start.
        let known = journal::read(&self.moves, &name)
            .map_err(|source| ApplyError::of_state("find out where it was", source))?;
        self.return_move(&name, known)
    }

    fn waits(&self, name: &str) -> io::Result<bool> {
        match self.moves.stat(name) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    pub(super) fn return_move(&self, name: &str, known: Option<TreePath>) -> Result<Recovered, ApplyError> {
        if let Some(path) = &known
            && let Ok((dir, last)) = self.root.open_parent(path)
            && carry(&self.moves, name, &dir, &last).is_ok()
        {
            return Ok(Recovered::PutBack { path: path.clone() });
        }
        self.recover_to_trash(&self.moves, name, known)
    }
}

fn check_present(at: &Place<'_>, expect: &Expect) -> Result<(), ApplyError> {
    match (expect, at.check(expect)?) {
        (Expect::Nothing, _) | (_, None) => Err(at.stale()),
        _ => Ok(()),
    }
}
