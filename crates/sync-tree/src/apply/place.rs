//! Staged content gets its name in the tree.

use std::{fs::File, io};

use sync_core::{Content, Entry};

use super::{
    Applier, ApplyError, Displaced, Durability, Expect, Place, Staged, journal,
    stage::{Parts, Temp},
};
use crate::rooted::{Stat, StatKind, set_file_mode, set_file_times, stat_file, sync_file};

/// What is carried of a mode. Set-id and sticky bits never come from another machine.
pub(super) const MODE_BITS: u16 = 0o777;

/// What is to take a place.
enum New<'a> {
    /// It has a name in staging.
    Named(Temp),
    /// A file that has no name yet.
    Unnamed(&'a File),
}

/// One replacement.
struct Swap<'a> {
    at: &'a Place<'a>,
    expect: &'a Expect,
    displaced: Displaced,
}

impl Applier {
    /// Puts a staged file in its place, with the mode and time of `entry`. Returns what is there now.
    ///
    /// If something else than expected comes there between the check and the swap, that goes to the trash and the new
    /// file stays.
    ///
    /// # Errors
    /// [`ApplyError::Stale`]: the place holds something else. Whatever fails, the staged file is removed.
    #[expect(
        clippy::too_many_arguments,
        reason = "what, where, as what, in place of what, and what becomes of that: each call site names all five"
    )]
    pub fn place(
        &self,
        staged: Staged,
        at: &Place<'_>,
        entry: &Entry,
        expect: &Expect,
        displaced: Displaced,
    ) -> Result<Stat, ApplyError> {
        let failed = |source| at.failed("prepare the new file", source);
        let (temp, file) = self.dressed(staged.into_parts().map_err(failed)?, entry).map_err(failed)?;
        match (temp, expect) {
            (Some(mut temp), Expect::Nothing) => self.put(&mut temp, at)?,
            (None, Expect::Nothing) => self.name(&file, at)?,
            (temp, _) => {
                let ino = stat_file(&file).map_err(failed)?.ino;
                let new = temp.map_or(New::Unnamed(&file), New::Named);
                self.replace(new, ino, &Swap { at, expect, displaced })?;
            }
        }
        stat_file(&file).map_err(|source| at.failed("look at the new file", source))
    }

    /// The file and its name, if it has one, with mode and time of its entry; flushed if that is asked for and not done.
    fn dressed(&self, parts: Parts, entry: &Entry) -> io::Result<(Option<Temp>, File)> {
        let Parts { mut temp, file, mode, dressed } = parts;
        let wanted = entry.mode & MODE_BITS;
        if dressed == Some((wanted, entry.mtime)) {
            return Ok((temp, file));
        }
        if mode != Some(wanted) {
            set_file_mode(&file, wanted)?;
        }
        set_file_times(&file, entry.mtime)?;
        if self.durability != Durability::None {
            if temp.is_none() {
                temp = Some(self.staging.name(&file)?);
            }
            sync_file(&file)?;
        }
        Ok((temp, file))
    }

    /// Puts a symlink in its place, with the time of `entry`. Returns what is there now.
    ///
    /// # Errors
    /// Like [`Applier::place`].
    #[expect(
        clippy::too_many_arguments,
        reason = "what, where, as what, in place of what, and what becomes of that: each call site names all five"
    )]
    pub fn place_link(
        &self,
        target: &[u8],
        at: &Place<'_>,
        entry: &Entry,
        expect: &Expect,
        displaced: Displaced,
    ) -> Result<Stat, ApplyError> {
        debug_assert!(matches!(entry.content, Content::Symlink { .. }), "a link's entry is a link");
        let failed =
            |source| ApplyError::of_state("make a symbolic link in .syncd/staging", source).about(at.path);
        let mut temp = self.staging.fresh().map_err(failed)?;
        temp.dir.symlink(target, &temp.name).map_err(failed)?;
        temp.ours = true;
        temp.dir.set_times(&temp.name, entry.mtime).map_err(failed)?;
        let ino = temp.dir.stat(&temp.name).map_err(failed)?.ino;
        if *expect == Expect::Nothing {
            self.put(&mut temp, at)?;
        } else {
            self.replace(New::Named(temp), ino, &Swap { at, expect, displaced })?;
        }
        // There is no handle of a link that could be asked, so the name is, and may have been taken over already.
        let now = at.dir.stat(at.name).map_err(|source| at.failed("look at the new link", source))?;
        if now.kind == StatKind::Symlink && now.ino == ino { Ok(now) } else { Err(at.stale()) }
    }

    /// Makes a directory, for us alone until [`Applier::set_meta`] gives it its mode. One that is there is not adopted.
    ///
    /// # Errors
    /// [`ApplyError::Stale`]: the place is taken.
    pub fn make_dir(&self, at: &Place<'_>) -> Result<Stat, ApplyError> {
        let failed = |source| at.failed("make the directory", source);
        at.dir.make_dir(at.name, super::PRIVATE_MODE).map_err(failed)?;
        let made = at.dir.stat(at.name).map_err(failed)?;
        if made.kind == StatKind::Directory { Ok(made) } else { Err(at.stale()) }
    }

    /// The rename itself is the check that the place is free.
    fn put(&self, temp: &mut Temp, at: &Place<'_>) -> Result<(), ApplyError> {
        self.checked();
        temp.dir.rename_new(&temp.name, at.dir, at.name).map_err(|error| self.refused(at, error))?;
        temp.ours = false;
        Ok(())
    }

    /// Gives a file without a name its first one, which is the check that the place is free.
    fn name(&self, file: &File, at: &Place<'_>) -> Result<(), ApplyError> {
        self.checked();
        at.dir.link_unnamed(file, at.name).map_err(|error| self.refused(at, error))
    }

    fn replace(&self, new: New<'_>, ino: u64, swap: &Swap<'_>) -> Result<(), ApplyError> {
        let at = swap.at;
        at.check(swap.expect)?;
        let mut temp = self.enter_swap(new, ino, swap)?;
        let name = temp.name.clone();
        let noted = swap.displaced == Displaced::Trash;
        if noted {
            // Not flushed: a cut costs what was here its name in the trash at most.
            journal::write(&self.swap, &name, at.path)
                .map_err(|source| ApplyError::of_state("write into .syncd/staging", source).about(at.path))?;
        }
        self.checked();
        let swapped = self.swap.exchange(&name, at.dir, at.name);
        let settled = match swapped {
            Ok(()) => {
                // From here on that name holds what was in the place, and is not ours to remove.
                temp.ours = false;
                self.taken();
                self.settle(&name, swap)
            }
            Err(error) => Err(self.refused(at, error)),
        };
        // If the displaced thing could not be settled, the next start will, and then needs the note.
        if noted && (temp.ours || settled.is_ok()) {
            journal::remove(&self.swap, &name);
        }
        settled
    }

    /// Our file gets a name where displaced things lie, which tells which inode is ours: whichever of the two a crash leaves
    /// there, the next start knows what it is.
    fn enter_swap(&self, new: New<'_>, ino: u64, swap: &Swap<'_>) -> Result<Temp, ApplyError> {
        let at = swap.at;
        let name = format!("new-{ino}-{}{:x}", swap.expect.noted(swap.displaced), self.unique());
        let failed =
            |source| ApplyError::of_state("move the new file in .syncd/staging", source).about(at.path);
        let dir = self.swap.clone();
        match new {
            New::Named(mut temp) => {
                temp.dir.rename_to(&temp.name, &dir, &name).map_err(failed)?;
                (temp.dir, temp.name) = (dir, name);
                Ok(temp)
            }
            New::Unnamed(file) => {
                dir.link_unnamed(file, &name).map_err(failed)?;
                Ok(Temp { dir, name, ours: true, lease: None })
            }
        }
    }

    /// Deletes or keeps what a rename took from a place to `name` in `swap`.
    fn settle(&self, name: &str, swap: &Swap<'_>) -> Result<(), ApplyError> {
        let Swap { at, expect, displaced } = *swap;
        let failed = |source| ApplyError::of_state("settle what was replaced", source).about(at.path);
        let taken = self.swap.stat(name).map_err(failed)?;
        let expected = expect.survived(&taken);
        // A directory may have been filled meanwhile, and only its name was checked.
        if expected && displaced == Displaced::Delete && taken.kind != StatKind::Directory {
            return self.swap.remove_file(name).map_err(failed);
        }
        if !expected {
            tracing::info!(path = %at.path, "it changed while it was being replaced; what was there is in the trash");
        }
        self.trash.take(&self.swap, name, at.path).map_err(failed)
    }

    /// A rename into the tree failed: because of the place, or because the target went away altogether.
    pub(super) fn refused(&self, at: &Place<'_>, source: io::Error) -> ApplyError {
        if source.kind() == io::ErrorKind::NotFound && self.is_gone() {
            return ApplyError::Gone { path: at.path.clone() };
        }
        at.failed("move it into place", source)
    }

    fn is_gone(&self) -> bool {
        self.root.dir().stat(sync_core::name::STATE_DIR).is_err()
    }
}

impl Expect {
    /// What a name in `swap` tells of the thing that is to be deleted once it lies there: `INO.SIZE.SECS.NANOS-`. Nothing if
    /// it is to be kept.
    pub(super) fn noted(&self, displaced: Displaced) -> String {
        match (self, displaced) {
            (Expect::File(it) | Expect::Link(it), Displaced::Delete) => {
                // Unsigned, so that a time before 1970 has no `-`.
                format!("{}.{}.{}.{}-", it.ino, it.size, it.mtime.secs.cast_unsigned(), it.mtime.nanos)
            }
            _ => String::new(),
        }
    }
}

/// The inode that is ours if `name` in `swap` holds it.
pub(super) fn our_inode(name: &str) -> Option<u64> {
    name.strip_prefix("new-")?.split_once('-')?.0.parse().ok()
}

/// Whether `name` in `swap` holds what an earlier run was about to delete there: the other side has it, and it is still what
/// it was when that was decided.
pub(super) fn is_to_be_deleted(name: &str, stat: &Stat) -> bool {
    let noted = match name.split('-').collect::<Vec<_>>()[..] {
        ["new", _, noted, _] | ["old", noted, _] => noted,
        _ => return false,
    };
    let time = (stat.mtime.secs.cast_unsigned(), stat.mtime.nanos);
    let now = format!("{}.{}.{}.{}", stat.ino, stat.size, time.0, time.1);
    matches!(stat.kind, StatKind::File | StatKind::Symlink) && noted == now
}
