//! What was changed is made to survive a power cut, before anybody writes down that it was done.
//!
//! Bytes, mode and time of a new file are flushed before it gets its name in the tree, so that no cut shows a part of it there.
//! Names, and modes and times of what is in its place, are flushed afterwards, each directory once for a batch.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd},
};

use sync_core::Entry;

use super::{Applier, ApplyError, Durability, NewDir, Place, Staged, journal};
use crate::rooted::{Dir, StatKind, sync_file};

/// Up to so many files and directories are flushed one by one; beyond that one flush of the whole file system is cheaper.
const FLUSH_SINGLY: usize = 16;

/// What was changed and may be undone by a power cut.
#[derive(Debug)]
pub struct Unflushed {
    /// Nothing is to survive.
    ignored: bool,
    dirs: Vec<Dir>,
    inodes: Vec<File>,
    /// Keys of what was put in: until that is flushed it may be back where it was taken from.
    put_in: Vec<u64>,
    /// Too much to be held.
    many: bool,
}

impl Unflushed {
    /// Nothing yet.
    #[must_use]
    pub fn new(durability: Durability) -> Self {
        let ignored = durability == Durability::None;
        Self { ignored, dirs: Vec::new(), inodes: Vec::new(), put_in: Vec::new(), many: false }
    }

    /// Names in this directory were changed.
    pub fn names(&mut self, dir: &Dir) {
        // As long as a handle is held nobody else has its number.
        let number = |dir: &Dir| dir.as_fd().as_raw_fd();
        if self.ignored || self.many || self.dirs.iter().any(|known| number(known) == number(dir)) {
            return;
        }
        self.dirs.push(dir.clone());
        self.count();
    }

    /// The mode or time of what is in this place was changed. (The time of a link cannot be flushed alone. If it is lost, the
    /// next look finds that.)
    pub fn inode(&mut self, at: &Place<'_>) {
        if self.ignored || self.many {
            return;
        }
        match at.dir.stat(at.name).map(|stat| stat.kind) {
            Ok(StatKind::Directory) => match at.dir.open_dir(at.name) {
                Ok(dir) => self.names(&dir),
                Err(_) => self.everything(),
            },
            Ok(StatKind::File) => match at.dir.open_file(at.name) {
                Ok(file) => self.file(file),
                Err(_) => self.everything(),
            },
            _ => {}
        }
    }

    /// What was taken out under this key was put into its place. The note of where it came from is removed once that is flushed.
    pub fn put_in(&mut self, key: u64) {
        self.put_in.push(key);
    }

    /// A file of our own was written.
    pub(super) fn file(&mut self, file: File) {
        if !self.ignored && !self.many {
            self.inodes.push(file);
            self.count();
        }
    }

    /// Anything was changed.
    pub fn everything(&mut self) {
        self.many = !self.ignored;
        self.dirs.clear();
        self.inodes.clear();
    }

    fn count(&mut self) {
        if self.dirs.len() + self.inodes.len() > FLUSH_SINGLY {
            self.everything();
        }
    }
}

impl Applier {
    /// Gives staged files the mode and time of their entries and flushes them as the durability asks for, before they are placed,
    /// and with them new directories, which come with the number of their files and have their modes and times.
    ///
    /// # Errors
    /// The disk failed; none of them may be counted on.
    pub fn flush_staged(
        &self,
        staged: &mut [(&Entry, &mut Staged)],
        new: &[(&NewDir, usize)],
    ) -> Result<(), ApplyError> {
        if self.durability != Durability::Batch || (staged.is_empty() && new.is_empty()) {
            return Ok(());
        }
        let failed = |source| ApplyError::of_state("flush what was written", source);
        for (entry, staged) in &mut *staged {
            staged.dress(entry).map_err(failed)?;
        }
        let in_new: usize = new.iter().map(|(_, files)| files + 1).sum();
        if staged.len() + in_new > FLUSH_SINGLY {
            return self.staging.dir().sync_fs().map_err(failed);
        }
        new.iter().try_for_each(|(dir, _)| dir.sync()).map_err(failed)?;
        staged.iter_mut().try_for_each(|(_, staged)| staged.sync(&self.staging)).map_err(failed)
    }

    /// Flushes what was changed. What was done is recorded after this.
    ///
    /// # Errors
    /// The disk failed; the changes may be undone by a power cut.
    pub fn flush(&self, unflushed: &mut Unflushed) -> Result<(), ApplyError> {
        let Unflushed { ignored, dirs, inodes, put_in, many } =
            std::mem::replace(unflushed, Unflushed::new(self.durability));
        let one_by_one = || -> io::Result<()> {
            inodes.iter().try_for_each(sync_file)?;
            dirs.iter().try_for_each(Dir::sync)
        };
        let flushed = match (ignored, many) {
            (true, _) => Ok(()),
            (false, true) => self.staging.dir().sync_fs(),
            (false, false) => one_by_one(),
        };
        flushed.map_err(|source| ApplyError::of_state("flush what was changed", source))?;
        put_in.iter().for_each(|key| journal::remove(&self.moves, &key.to_string()));
        Ok(())
    }

    /// Flushes whatever an earlier run left unflushed: what a look finds of it is recorded as if it were there to stay.
    ///
    /// # Errors
    /// The disk failed.
    pub fn flush_earlier(&self) -> Result<(), ApplyError> {
        let mut unflushed = Unflushed::new(self.durability);
        unflushed.everything();
        self.flush(&mut unflushed)
    }
}
