//! Changes a target, one place at a time, so that nothing is lost and nothing half-written is ever seen.
//!
//! Nothing is decided here: the caller planned, and says of every place what must be there ([`Expect`]) and what becomes
//! of it ([`Displaced`]). Invariants:
//! * A place is touched only if it holds what the plan saw. That is checked right before; and because somebody may still
//!   come in between, what a rename took away is looked at again before it is deleted. What is not the expected thing is
//!   put back or goes to the trash. It is never deleted.
//! * New content is complete and verified before it has a name in the tree. A reader sees the old or the new thing.
//! * What was taken out of the tree lies in `staging/swap` or `staging/moves` until it is settled, and never among the
//!   files being received. So, whenever the program ends, [`Applier::recover`] knows what may be deleted: only the latter.
//! * Of what is being received only large files stay after an end, in `staging/partial`, to be gone on with.
//! * Everything goes through held directory handles and never through a symlink, also in `.syncd` itself.
//!
//! Reading order: [`stage`] (content comes in), [`pieces`] (much of it from
//! here), `partial` (and goes on after a cut), [`place`] (it gets its name), [`whole`] (with its directory), [`remove`], [`moves`], [`meta`], [`trash`],
//! `flush`, [`recover`].
//!
//! What it cannot do: a program that keeps a replaced file open and goes on writing writes into a file that has no name
//! any more. And an edit that keeps size and mtime, made in the microseconds between check and rename, cannot be told
//! from the expected file, because the rename itself changes the ctime.

use std::{
    io,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use sync_core::TreePath;

use crate::{
    hash::Identity,
    probe::probed,
    rooted::{Dir, Root, Stat, StatKind},
    state::Work,
};

mod error;
mod flush;
mod journal;
pub mod meta;
pub mod moves;
mod partial;
pub mod pieces;
pub mod place;
pub mod recover;
pub mod remove;
pub mod stage;
pub mod trash;
pub mod whole;

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests make and look at their own trees")]
mod tests;

pub use error::ApplyError;
pub use flush::Unflushed;
pub use meta::WorkDir;
pub use recover::Recovered;
pub use stage::{Staged, StagedFile};
pub use whole::NewDir;

/// When what was written is made to survive a power cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// Never: the system does it in its own time.
    None,
    /// A batch at once, before its renames, and the directories after them.
    #[default]
    Batch,
    /// Each file before its rename.
    File,
}

/// How an [`Applier`] works.
#[derive(Debug, Clone)]
pub struct ApplyOptions {
    /// When to flush.
    pub durability: Durability,
    /// The name of this run's directory in the trash, `TIME-RANDOM`. It is made when something goes there.
    pub trash_run: String,
    /// How long the trash keeps a run after something went there for the last time.
    pub trash_keep: Duration,
}

/// A place to change: a name in a held directory.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// The directory.
    pub dir: &'a Dir,
    /// The name in it.
    pub name: &'a str,
    /// The whole path, for messages and for the trash.
    pub path: &'a TreePath,
}

/// What must be in a place right before it is touched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// The place is free.
    Nothing,
    /// This file.
    File(Identity),
    /// This symlink.
    Link(Identity),
    /// This directory, whatever is in it.
    Directory {
        /// Its inode number.
        ino: u64,
    },
}

/// What becomes of the expected thing that was in a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Displaced {
    /// The other side has, or had, it: it is deleted.
    Delete,
    /// Nobody else has it: it goes to the trash.
    Trash,
}

/// Changes one target. Every method may be called from several threads at once, for different places.
#[derive(Debug)]
pub struct Applier {
    root: Root,
    durability: Durability,
    staging: stage::Staging,
    partials: partial::Partials,
    /// What was taken out of the tree and is not settled yet, and what is about to replace something.
    swap: Dir,
    /// What waits in staging for its new place, by key.
    moves: Dir,
    trash: trash::Trash,
    /// Makes names in `swap` unique.
    next: AtomicU64,
}

impl Applier {
    /// Prepares to change the tree at `root`, whose state is in `work`. The caller holds the target's lock.
    ///
    /// # Errors
    /// The staging directory cannot be written or holds something that is not ours.
    pub fn open(root: Root, work: &Work, options: ApplyOptions) -> Result<Applier, ApplyError> {
        let failed = |source| ApplyError::of_state("prepare .syncd/staging", source);
        let run = format!("run-{:016x}", getrandom::u64().map_err(|error| failed(io::Error::other(error)))?);
        let is_new = work.staging.stat(MOVES).is_err();
        let swap = make_or_open(&work.staging, SWAP).map_err(failed)?;
        let partials = make_or_open(&work.staging, partial::PARTIAL).map_err(failed)?;
        let moves = make_or_open(&work.staging, MOVES).map_err(failed)?;
        if is_new && options.durability != Durability::None {
            // What comes out of the tree goes there, and must not be lost with it.
            let above = [&work.staging, &work.dir, &root.dir()];
            above.into_iter().try_for_each(Dir::sync).map_err(failed)?;
        }
        Ok(Applier {
            root,
            durability: options.durability,
            swap,
            moves,
            partials: partial::Partials::new(partials),
            staging: stage::Staging::new(work.staging.clone(), run),
            trash: trash::Trash::new(work.trash.clone(), options),
            // Names that an earlier run left behind stay apart from ours until they are recovered.
            next: AtomicU64::new(getrandom::u64().map_err(|error| failed(io::Error::other(error)))? >> 16),
        })
    }

    /// Removes the directories in which this run staged its files. The last call: nothing can be staged afterwards.
    pub fn clean_run(&self) {
        self.staging.clean();
    }

    fn unique(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// The place was checked; the call that changes it comes next. Tests come in between here.
    fn checked(&self) {
        let _moment: io::Result<()> = probed!(Checked { dir: &self.root.dir() } => Ok(()));
    }

    /// The rename is done; what it took is not settled yet. Tests come in between here.
    fn taken(&self) {
        let _moment: io::Result<()> = probed!(Taken { dir: &self.root.dir() } => Ok(()));
    }
}

impl Place<'_> {
    /// Looks whether the place holds what it should.
    fn check(&self, expect: &Expect) -> Result<Option<Stat>, ApplyError> {
        match self.dir.stat(self.name) {
            Ok(stat) if expect.is_met_by(&stat) => Ok(Some(stat)),
            Ok(_) => Err(self.stale()),
            Err(error) if error.kind() == io::ErrorKind::NotFound && *expect == Expect::Nothing => Ok(None),
            Err(error) => Err(self.failed("look at it", error)),
        }
    }

    fn stale(&self) -> ApplyError {
        ApplyError::Stale { path: self.path.clone() }
    }

    fn failed(&self, action: &'static str, source: io::Error) -> ApplyError {
        ApplyError::of_place(self.path, action, source)
    }
}

impl Expect {
    fn is_met_by(&self, stat: &Stat) -> bool {
        self.survived(stat)
            && match self {
                Expect::File(identity) | Expect::Link(identity) => identity.ctime == stat.ctime,
                Expect::Directory { .. } => true,
                Expect::Nothing => false,
            }
    }

    /// Whether this is the expected thing after a rename, which changes the ctime.
    fn survived(&self, stat: &Stat) -> bool {
        let (kind, identity) = match self {
            Expect::Nothing => return false,
            Expect::Directory { ino } => return stat.kind == StatKind::Directory && stat.ino == *ino,
            Expect::File(identity) => (StatKind::File, identity),
            Expect::Link(identity) => (StatKind::Symlink, identity),
        };
        let now = Identity { ctime: identity.ctime, ..Identity::of(stat) };
        stat.kind == kind && now == *identity
    }
}

/// In staging: see [`Applier::swap`].
const SWAP: &str = "swap";
/// In staging: see [`Applier::moves`].
const MOVES: &str = "moves";

/// Only we look into our directories.
const PRIVATE_MODE: u16 = 0o700;

/// Makes a directory of our own, or opens the one that is there. A symlink is refused.
fn make_or_open(dir: &Dir, name: &str) -> io::Result<Dir> {
    match dir.make_dir(name, PRIVATE_MODE) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => dir.open_dir(name),
    }
}

/// Moves anything to a free name. A directory that its owner may not write cannot change its parent; it is made writable
/// for the moment of the move.
fn carry(from: &Dir, name: &str, to: &Dir, new: &str) -> io::Result<()> {
    let refused = match from.rename_new(name, to, new) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => error,
        other => return other,
    };
    let stat = from.stat(name)?;
    if stat.kind != StatKind::Directory || stat.mode & 0o700 == 0o700 {
        return Err(refused);
    }
    from.set_mode(name, stat.mode | 0o700)?;
    match from.rename_new(name, to, new) {
        Ok(()) => to.set_mode(new, stat.mode),
        Err(error) => {
            from.set_mode(name, stat.mode)?;
            Err(error)
        }
    }
}
