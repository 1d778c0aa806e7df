//! The one way into a tree: held directory handles, one name at a time, never through a symlink.
//!
//! Names and link targets come from peers and from other users of the disk, who may swap a directory for a symlink at
//! any moment. Invariants:
//! * Every step below the root is `openat` with `O_NOFOLLOW` on a held handle, so nothing that is opened, changed, moved
//!   or removed here lies outside the directory that the root was when it was opened.
//! * A name is one component: empty names, `.`, `..` and anything with `/` are refused here again, whoever checked before.
//! * No path of the tree is ever put together as text and given to the system.
//!
//! What it does not do: a directory that someone moves out of the tree *while its handle is held* is still worked in, at
//! its new place. Nobody can point a handle elsewhere, only move what it holds.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::{
    buffer::spare_capacity,
    fs::{Mode, OFlags, fchmod, fstat, futimens, open, stat},
    io::pread,
};
use sync_core::{Name, Time, TreePath};

use crate::probe::probed;

mod dir;
mod meta;
#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests make and look at their own trees")]
mod tests;

pub use dir::{Dir, RawDirEntry};
pub use meta::{Stat, StatKind};

/// The root directory of a tree, held open.
#[derive(Debug, Clone)]
pub struct Root(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    dir: Dir,
    path: PathBuf,
    identity: (u64, u64),
}

impl Root {
    /// Opens the root of a tree. A symlink in `path` is followed, this once.
    ///
    /// # Errors
    /// The directory is missing, is no directory or cannot be read.
    pub fn open(path: &Path) -> io::Result<Root> {
        #[expect(clippy::disallowed_methods, reason = "the root's own path is the operator's word")]
        let path = std::fs::canonicalize(path)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir = Dir::from_fd(open(&path, flags, Mode::empty())?);
        let held = dir.stat_self()?;
        Ok(Root(Arc::new(Inner { dir, path, identity: (held.dev, held.ino) })))
    }

    /// The path that was opened, with its symlinks resolved. For messages and for settling on a state directory only.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// The root directory itself.
    #[must_use]
    pub fn dir(&self) -> Dir {
        self.0.dir.clone()
    }

    /// Device and inode of the held directory.
    #[must_use]
    pub fn identity(&self) -> (u64, u64) {
        self.0.identity
    }

    /// Device and inode of what the root's path names now. Differs from [`Root::identity`] when the directory was moved
    /// away, replaced, or mounted over.
    ///
    /// # Errors
    /// The path names nothing, or cannot be looked at.
    pub fn path_identity(&self) -> io::Result<(u64, u64)> {
        let now = Stat::from(stat(&self.0.path)?);
        Ok((now.dev, now.ino))
    }

    /// Opens a directory of the tree.
    ///
    /// # Errors
    /// A component is missing, is not a directory (a symlink never is one) or may not be entered; the last one must
    /// also be readable.
    pub fn open_dir(&self, path: &TreePath) -> io::Result<Dir> {
        let Some((parent, last)) = path.split() else { return Ok(self.dir()) };
        let mut at = self.dir();
        for name in parent.names() {
            at = at.open_passage(name)?;
        }
        at.open_dir(last)
    }

    /// Opens the directory that holds `path`, and gives the name of `path` there.
    ///
    /// # Errors
    /// Like [`Root::open_dir`]; `InvalidInput` for the root, which has no parent.
    pub fn open_parent(&self, path: &TreePath) -> io::Result<(Dir, Name)> {
        let no_parent =
            || io::Error::new(io::ErrorKind::InvalidInput, "the root of a tree has no parent in it");
        let (parent, name) = path.split().ok_or_else(no_parent)?;
        let name = Name::new(name).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        Ok((self.open_dir(&parent)?, name))
    }
}

/// Sets the permission bits of an open file, whatever the umask.
///
/// # Errors
/// The file is another user's, or on a read-only file system.
pub fn set_file_mode(file: &File, mode: u16) -> io::Result<()> {
    probed!(SetMode { file: file, mode: mode } => fchmod(file, meta::mode(mode)).map_err(io::Error::from))
}

/// Sets the modification time of an open file and leaves its access time alone.
///
/// # Errors
/// The file is another user's, or on a read-only file system.
pub fn set_file_times(file: &File, mtime: Time) -> io::Result<()> {
    probed!(SetTimes { file: file } => futimens(file, &meta::only_mtime(mtime)).map_err(io::Error::from))
}

/// Writes bytes into an open file, all of them, at `at`.
///
/// # Errors
/// The disk is full or failed; some of them may be there.
pub fn write_file_at(file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
    probed!(Write { file: file, bytes: bytes, at: at } => file.write_all_at(bytes, at))
}

/// Makes an open file this long, with zeros where there was nothing.
///
/// # Errors
/// The disk is full or failed.
pub fn set_file_len(file: &File, len: u64) -> io::Result<()> {
    probed!(SetLen { file: file, at: len } => file.set_len(len))
}

/// Reads bytes of an open file, as many as fit, from `at` on.
///
/// # Errors
/// The disk failed; `UnexpectedEof` if there are not as many.
pub fn read_file_at(file: &File, bytes: &mut [u8], at: u64) -> io::Result<()> {
    probed!(Read { file: file, at: at } => file.read_exact_at(bytes, at))
}

/// Appends the first `size` bytes of a file. Answers whether it has so many.
pub(crate) fn append_first(file: &File, size: u64, out: &mut Vec<u8>) -> io::Result<bool> {
    let size = usize::try_from(size).map_err(io::Error::other)?;
    let end = out.len() + size;
    out.reserve(size);
    let mut at = 0;
    while out.len() < end {
        let mut read = || pread(file, spare_capacity(out), at).map_err(io::Error::from);
        match probed!(Read { file: file, at: at } => read()) {
            Ok(0) => return Ok(false),
            Ok(count) => at += count as u64,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    // There was room for more, and it may have grown.
    out.truncate(end);
    Ok(true)
}

/// Flushes an open file: its content, mode and times survive a power cut.
///
/// # Errors
/// The disk failed, and what was written may be lost.
pub fn sync_file(file: &File) -> io::Result<()> {
    probed!(SyncFile { file: file } => file.sync_all())
}

/// Looks at an open file.
///
/// # Errors
/// The file system failed.
pub fn stat_file(file: &File) -> io::Result<Stat> {
    probed!(Stat { file: file } => fstat(file).map(Stat::from).map_err(io::Error::from))
}
