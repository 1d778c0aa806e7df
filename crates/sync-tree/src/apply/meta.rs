//! Modes and times of what is already in its place, and directories that must be opened up to be worked in.

use std::{fs::File, io, os::fd::AsFd};

use sync_core::Entry;

use super::{Applier, ApplyError, Expect, Place, place::MODE_BITS};
use crate::rooted::{Dir, Stat, StatKind, set_file_mode, set_file_times, stat_file};

/// What the owner needs to work in a directory.
const WORK_BITS: u16 = 0o700;

/// Bits of a directory that are not carried, and stay as whoever set them here wants them: set-group-id, sticky.
const DIRECTORY_BITS: u16 = 0o3000;

/// A directory that is worked in. Dropping it gives the directory its old mode again, unless [`WorkDir::settled`] says
/// that it has its final one.
#[derive(Debug)]
pub struct WorkDir {
    dir: Dir,
    parent: Dir,
    name: String,
    /// The mode that it had, if it was changed.
    before: Option<u16>,
}

impl WorkDir {
    /// The directory.
    #[must_use]
    pub fn dir(&self) -> &Dir {
        &self.dir
    }

    /// Leaves the mode as it is now: [`Applier::set_meta`] has set the final one.
    pub fn settled(mut self) {
        self.before = None;
    }
}

impl Drop for WorkDir {
    fn drop(&mut self) {
        let Some(mode) = self.before else { return };
        // Only if the name still holds this directory. If it fails, the next scan sees the mode and puts it right.
        let same = |a: Stat, b: Stat| (a.kind, a.ino) == (b.kind, b.ino);
        if let (Ok(held), Ok(named)) = (self.dir.stat_self(), self.parent.stat(&self.name))
            && same(held, named)
        {
            let _ = self.parent.set_mode(&self.name, mode);
        }
    }
}

impl Applier {
    /// Sets mode and time of a file or directory, or the time of a link, as far as they differ. Returns what is there now.
    ///
    /// # Errors
    /// [`ApplyError::Stale`]: the place holds something else.
    pub fn set_meta(&self, at: &Place<'_>, entry: &Entry, expect: &Expect) -> Result<Stat, ApplyError> {
        let failed = |source| at.failed("set its mode and time", source);
        let stat = at.check(expect)?.ok_or_else(|| at.stale())?;
        self.checked();
        let Some(held) = hold(at, &stat).map_err(failed)? else {
            return set_by_name(at, entry, &stat).map_err(failed);
        };
        let stat = stat_file(&held).map_err(failed)?;
        if !expect.is_met_by(&stat) {
            return Err(at.stale());
        }
        let mode = wanted_mode(entry, &stat);
        if stat.mode != mode {
            set_file_mode(&held, mode).map_err(failed)?;
        }
        if stat.mtime != entry.mtime {
            set_file_times(&held, entry.mtime).map_err(failed)?;
        }
        stat_file(&held).map_err(failed)
    }

    /// Opens a directory to work in it, and gives its owner the right to, if that is missing.
    ///
    /// # Errors
    /// [`ApplyError::Stale`]: it is gone or no directory. [`ApplyError::Denied`]: it is another user's.
    pub fn open_for_work(&self, at: &Place<'_>) -> Result<WorkDir, ApplyError> {
        let failed = |source| at.failed("open the directory for work", source);
        let stat = at.dir.stat(at.name).map_err(failed)?;
        if stat.kind != StatKind::Directory {
            return Err(at.stale());
        }
        let before = (stat.mode & WORK_BITS != WORK_BITS).then_some(stat.mode);
        if before.is_some() {
            at.dir.set_mode(at.name, stat.mode | WORK_BITS).map_err(failed)?;
        }
        match at.dir.open_dir(at.name).and_then(|dir| Ok((dir.stat_self()?.ino, dir))) {
            Ok((ino, dir)) if ino == stat.ino => {
                Ok(WorkDir { dir, parent: at.dir.clone(), name: at.name.to_owned(), before })
            }
            // Somebody put another thing there; its mode is that one's own.
            Ok(_) => Err(at.stale()),
            Err(error) => {
                if let Some(mode) = before {
                    let _ = at.dir.set_mode(at.name, mode);
                }
                Err(failed(error))
            }
        }
    }
}

/// A handle of a file or directory; `None` for links, and for what may not be read.
fn hold(at: &Place<'_>, stat: &Stat) -> io::Result<Option<File>> {
    let held = match stat.kind {
        StatKind::File => at.dir.open_file(at.name),
        StatKind::Directory => {
            at.dir.open_dir(at.name).and_then(|dir| dir.as_fd().try_clone_to_owned()).map(File::from)
        }
        StatKind::Symlink | StatKind::Other => return Ok(None),
    };
    match held {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(None),
        // A FIFO, say, took its place.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Err(io::ErrorKind::NotFound.into()),
        other => other.map(Some),
    }
}

/// The same for what cannot be held: its owner may change mode and time without being allowed to read it.
fn set_by_name(at: &Place<'_>, entry: &Entry, stat: &Stat) -> io::Result<Stat> {
    // RACE: what takes the name between the check and here gets this mode and time; its content is safe, and the next
    // scan finds it.
    if stat.mtime != entry.mtime {
        at.dir.set_times(at.name, entry.mtime)?;
    }
    if stat.kind != StatKind::Symlink && stat.mode != wanted_mode(entry, stat) {
        at.dir.set_mode(at.name, wanted_mode(entry, stat))?;
    }
    let now = at.dir.stat(at.name)?;
    if (now.kind, now.ino) == (stat.kind, stat.ino) { Ok(now) } else { Err(io::ErrorKind::NotFound.into()) }
}

fn wanted_mode(entry: &Entry, stat: &Stat) -> u16 {
    let kept = if stat.kind == StatKind::Directory { stat.mode & DIRECTORY_BITS } else { 0 };
    entry.mode & MODE_BITS | kept
}
