//! A new directory is filled in staging, where nobody looks, and gets its name in the tree once its files are in it.
//!
//! That saves each file a name of its own in staging, a look at its place and a change of the tree. It is safe because:
//! * Nothing can be in its places: the directory is made here, for us alone, and its files are made by calls that refuse a name
//!   that is there.
//! * A file's digest is compared before the file is made, and one that could not be written to its end is removed at once. If
//!   that fails too, the directory is spoiled and never gets a place: its good files are moved one by one.
//! * It gets its name by a rename that refuses a place where something is. That is the one look at the present state that is
//!   needed. If it is refused for another reason, its files can go to their places one by one, each by such a rename.
//! * It has its mode and time before the rename, and with them and its files it is flushed before, as the durability asks for;
//!   the directory that holds its new name is flushed afterwards, before anything is recorded.
//! * It lies in a lane, where only what was received is ever. So whatever a killed run leaves of it is deleted by the next start.
//!
//! A directory whose parent hands something down, a group or an access list, is to be made in its place, and so is every one
//! where staging does: see [`Applier::fills_alike`].

use std::{
    fs::File,
    io,
    os::fd::AsFd,
    sync::atomic::{AtomicBool, Ordering},
};

use sync_core::{Content, Digest, Entry, Node, TreePath};

use super::{
    Applier, ApplyError, Displaced, Durability, Expect, PRIVATE_MODE, Place, Staged,
    place::MODE_BITS,
    stage::{Held, write_failed},
    trash,
};
use crate::{
    platform,
    rooted::{Dir, Stat, set_file_mode, set_file_times, stat_file, sync_file, write_file_at},
};

/// How new directories are called in their lane.
pub(crate) const NEW: &str = "new-";

/// A directory of our own in staging. Dropped without a place, it is removed with what is in it.
#[derive(Debug)]
pub struct NewDir {
    lane: Dir,
    name: String,
    /// Not all are held: files of many may come in turns.
    held: Option<(Dir, Held)>,
    durability: Durability,
    /// Something is in it that must not get a place.
    spoiled: AtomicBool,
    placed: AtomicBool,
}

impl Applier {
    /// Whether a directory that is made in staging and moved into this one is like one that is made in it.
    #[must_use]
    pub fn fills_alike(&self, parent: &Dir) -> bool {
        let is_plain = |dir: &Dir| !platform::hands_down(dir.as_fd());
        is_plain(parent) && self.staging.lane().is_ok_and(is_plain)
    }

    /// Makes a directory in staging.
    ///
    /// # Errors
    /// Staging cannot be written.
    pub fn new_dir(&self) -> Result<NewDir, ApplyError> {
        let temp = self.staging.fresh().map_err(write_failed)?;
        let name = format!("{NEW}{}", temp.name);
        temp.dir.make_dir(&name, PRIVATE_MODE).map_err(write_failed)?;
        let mut new = NewDir {
            lane: temp.dir.clone(),
            name,
            held: None,
            durability: self.durability,
            spoiled: AtomicBool::new(false),
            placed: AtomicBool::new(false),
        };
        if let Some(held) = self.staging.hold() {
            new.held = Some((new.dir().map_err(write_failed)?, held));
        }
        Ok(new)
    }

    /// Puts a staged file into a new directory, as [`Applier::place`] does into one of the tree. `path` is its place in the end.
    ///
    /// # Errors
    /// As there.
    pub fn place_in(
        &self,
        new: &NewDir,
        staged: Staged,
        node: &Node,
        path: &TreePath,
    ) -> Result<Stat, ApplyError> {
        let dir = new.dir().map_err(write_failed)?;
        let at = Place { dir: &dir, name: node.name.as_str(), path };
        self.place(staged, &at, &node.entry, &Expect::Nothing, Displaced::Trash)
    }

    /// Gives a new directory its place, with all that is in it. Returns what is there now. It has its mode and time already, see
    /// [`NewDir::dress`].
    ///
    /// # Errors
    /// [`ApplyError::Stale`]: something is there. Whatever fails, the directory waits in staging.
    pub fn place_dir(&self, new: &NewDir, at: &Place<'_>) -> Result<Stat, ApplyError> {
        let failed = |source| at.failed("move it into place", source);
        if new.spoiled.load(Ordering::Relaxed) {
            return Err(failed(io::Error::other("a file in it could neither be written nor removed")));
        }
        let dir = new.dir().map_err(failed)?;
        // Were it looked at afterwards, and that failed, it would be in place and not be recorded.
        let stat = dir.stat_self().map_err(failed)?;
        self.checked();
        new.lane.rename_new(&new.name, at.dir, at.name).map_err(|error| self.refused(at, error))?;
        new.placed.store(true, Ordering::Relaxed);
        self.taken();
        Ok(stat)
    }

    /// Moves a file of a new directory that has no place to its own.
    ///
    /// # Errors
    /// [`ApplyError::Stale`]: something is there.
    pub fn place_out(&self, new: &NewDir, at: &Place<'_>) -> Result<Stat, ApplyError> {
        let dir = new.dir().map_err(write_failed)?;
        let ino = dir.stat(at.name).map_err(write_failed)?.ino;
        self.checked();
        dir.rename_new(at.name, at.dir, at.name).map_err(|error| self.refused(at, error))?;
        self.taken();
        // A rename changes the ctime.
        let now = at.dir.stat(at.name).map_err(|source| at.failed("look at the new file", source))?;
        if now.ino == ino { Ok(now) } else { Err(at.stale()) }
    }
}

impl NewDir {
    /// Makes a file from bytes that are in memory, with the mode and time of its node. Returns what it is now.
    ///
    /// # Errors
    /// The bytes have another digest, the file cannot be made, or the disk is full or failed. There is no file then.
    pub fn write(&self, node: &Node, bytes: &[u8]) -> Result<Stat, ApplyError> {
        let garbled = || ApplyError::Digest { path: TreePath::root() };
        let Content::File { size, digest } = &node.entry.content else { return Err(garbled()) };
        if *size != bytes.len() as u64 || Digest::of(bytes) != *digest {
            return Err(garbled());
        }
        let name = node.name.as_str();
        let dir = self.dir().map_err(write_failed)?;
        let file = dir.create_new(name, node.entry.mode & MODE_BITS).map_err(not_made)?;
        let written = self.fill(&file, &node.entry, bytes);
        if written.is_err() && dir.remove_file(name).is_err() {
            self.spoiled.store(true, Ordering::Relaxed);
        }
        written.map_err(write_failed)
    }

    fn fill(&self, file: &File, entry: &Entry, bytes: &[u8]) -> io::Result<Stat> {
        let wanted = entry.mode & MODE_BITS;
        write_file_at(file, bytes, 0)?;
        set_file_times(file, entry.mtime)?;
        let mut stat = stat_file(file)?;
        // The umask took something from it.
        if stat.mode != wanted {
            set_file_mode(file, wanted)?;
            stat = stat_file(file)?;
        }
        if self.durability == Durability::File {
            sync_file(file)?;
        }
        Ok(stat)
    }

    /// Gives it the mode and time of its entry, once all files are in it. The mode lets its owner work in it, or it could not be
    /// moved.
    ///
    /// # Errors
    /// The disk failed.
    pub fn dress(&self, entry: &Entry) -> Result<(), ApplyError> {
        self.dressed(entry).map_err(write_failed)
    }

    fn dressed(&self, entry: &Entry) -> io::Result<()> {
        let dir = File::from(self.dir()?.as_fd().try_clone_to_owned()?);
        set_file_mode(&dir, entry.mode & MODE_BITS)?;
        set_file_times(&dir, entry.mtime)?;
        if self.durability == Durability::File { self.dir()?.sync() } else { Ok(()) }
    }

    /// Flushes it and its files one by one.
    pub(super) fn sync(&self) -> io::Result<()> {
        let dir = self.dir()?;
        for entry in dir.list()? {
            let name = std::str::from_utf8(&entry.name).map_err(io::Error::other)?;
            match dir.open_file(name) {
                Ok(file) => sync_file(&file)?,
                // Its mode lets nobody read it.
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return dir.sync_fs(),
                Err(error) => return Err(error),
            }
        }
        dir.sync()
    }

    fn dir(&self) -> io::Result<Dir> {
        match &self.held {
            Some((dir, _)) => Ok(dir.clone()),
            None => self.lane.open_dir(&self.name),
        }
    }
}

impl Drop for NewDir {
    fn drop(&mut self) {
        if !*self.placed.get_mut() {
            // If it cannot be removed, the next start does it.
            let _ = trash::clear(&self.lane, &self.name, &mut u64::MAX.clone());
        }
    }
}

/// A name that is taken in a directory of our own is another spelling of the same, to this file system.
fn not_made(source: io::Error) -> ApplyError {
    match source.kind() {
        io::ErrorKind::NotFound => write_failed(source),
        _ => ApplyError::of_place(&TreePath::root(), "make the file", source),
    }
}
