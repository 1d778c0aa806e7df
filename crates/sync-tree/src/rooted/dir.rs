//! One held directory, and everything that can be done to the names in it.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
};

use rustix::{
    fs::{
        AtFlags, FileType, Mode, OFlags, fstat, fsync, mkdirat, openat, readlinkat, renameat, statat,
        symlinkat, unlinkat, utimensat,
    },
    io::Errno,
};
use sync_core::Time;

use super::{
    meta::{self, Stat, StatKind},
    stat_file,
};
use crate::{
    platform::{self, Place},
    probe::probed,
};

/// A held directory of a tree. Cloning shares the handle.
#[derive(Debug, Clone)]
pub struct Dir(Arc<OwnedFd>);

/// A name as a directory lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawDirEntry {
    /// The name's bytes, which need not be UTF-8.
    pub name: Box<[u8]>,
    /// What it is, where the file system tells; a look decides otherwise.
    pub kind: Option<StatKind>,
    /// Its inode number as the directory has it: of a mount point it is another than that of what is mounted there.
    pub ino: u64,
}

impl Dir {
    pub(super) fn from_fd(fd: OwnedFd) -> Self {
        Self(Arc::new(fd))
    }

    /// Opens a directory in this one.
    ///
    /// # Errors
    /// It is missing, is not a directory (a symlink never is one) or may not be read.
    pub fn open_dir(&self, name: &str) -> io::Result<Dir> {
        self.open_as(name, OFlags::RDONLY)
    }

    /// Opens a directory that is only passed through; not being allowed to list it does not matter.
    pub(super) fn open_passage(&self, name: &str) -> io::Result<Dir> {
        self.open_as(name, platform::TRAVERSE)
    }

    fn open_as(&self, name: &str, flags: OFlags) -> io::Result<Dir> {
        let flags = flags | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let name = one_name(name)?;
        probed!(OpenDir { dir: &self.0, name: name } => match openat(&*self.0, name, flags, Mode::empty()) {
            // Some systems say "too many links" for a symlink; to a caller it is just not a directory.
            Err(Errno::LOOP) => Err(Errno::NOTDIR.into()),
            Err(error) => Err(error.into()),
            Ok(fd) => Ok(Self::from_fd(fd)),
        })
    }

    /// Looks at a name, without following it.
    ///
    /// # Errors
    /// Nothing has that name, or it cannot be looked at.
    pub fn stat(&self, name: &str) -> io::Result<Stat> {
        self.stat_raw(one_name(name)?.as_bytes())
    }

    /// Looks at a name that need not be UTF-8, without following it.
    ///
    /// # Errors
    /// Like [`Dir::stat`].
    pub fn stat_raw(&self, name: &[u8]) -> io::Result<Stat> {
        check_name(name)?;
        let look = || statat(&*self.0, name, AtFlags::SYMLINK_NOFOLLOW);
        probed!(Stat { dir: &self.0, name: name } => look().map(Stat::from).map_err(io::Error::from))
    }

    /// Looks at this directory itself.
    ///
    /// # Errors
    /// The file system failed.
    pub fn stat_self(&self) -> io::Result<Stat> {
        probed!(Stat { dir: &self.0 } => fstat(&*self.0).map(Stat::from).map_err(io::Error::from))
    }

    /// Lists every name in this directory but `.` and `..`, in no order. Lists of one handle may run side by side.
    ///
    /// # Errors
    /// The list could not be read to its end: then nothing is known about what is missing from it.
    pub fn list(&self) -> io::Result<Vec<RawDirEntry>> {
        probed!(List { dir: &self.0 } => self.list_all())
    }

    fn list_all(&self) -> io::Result<Vec<RawDirEntry>> {
        let mut entries = Vec::new();
        platform::list(self.0.as_fd(), |name, kind, ino| {
            if name != b"." && name != b".." {
                let kind = (kind != FileType::Unknown).then(|| kind.into());
                entries.push(RawDirEntry { name: name.into(), kind, ino });
            }
        })?;
        Ok(entries)
    }

    /// Opens a regular file for reading, leaving its access time alone where that is allowed.
    ///
    /// # Errors
    /// It is missing or may not be read; `InvalidInput` if it is anything but a regular file.
    pub fn open_file(&self, name: &str) -> io::Result<File> {
        let file = self.open_unseen(name)?;
        if stat_file(&file)?.kind != StatKind::File {
            return Err(not_a_file());
        }
        Ok(file)
    }

    /// The same for whoever looks at the opened thing anyway, before believing what was read from it: it may be of any kind
    /// but a symlink.
    ///
    /// # Errors
    /// It is missing or may not be read; `InvalidInput` if it is a symlink or a socket.
    pub(crate) fn open_unseen(&self, name: &str) -> io::Result<File> {
        let name = one_name(name)?;
        probed!(OpenFile { dir: &self.0, name: name } => self.open_to_read(name))
    }

    fn open_to_read(&self, name: &str) -> io::Result<File> {
        // NONBLOCK keeps a FIFO that took the file's place from holding us for ever.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let opened = match openat(&*self.0, name, flags | platform::NO_ATIME, Mode::empty()) {
            // Only the owner may ask for that.
            Err(Errno::PERM) => openat(&*self.0, name, flags, Mode::empty()),
            other => other,
        };
        match opened {
            Err(Errno::LOOP | Errno::NXIO) => Err(not_a_file()),
            other => Ok(other?.into()),
        }
    }

    /// Reads where a symlink points.
    ///
    /// # Errors
    /// It is missing, or is no symlink (`InvalidInput`).
    pub fn read_link(&self, name: &str) -> io::Result<Box<[u8]>> {
        let name = one_name(name)?;
        probed!(ReadLink { dir: &self.0, name: name } => self.link_text(name))
    }

    fn link_text(&self, name: &str) -> io::Result<Box<[u8]>> {
        Ok(readlinkat(&*self.0, name, Vec::new())?.into_bytes().into())
    }

    /// Makes a new file, open for reading and writing. The umask is applied to `mode`.
    ///
    /// # Errors
    /// The name is taken (also by a dangling symlink), or the directory may not be written.
    pub fn create_new(&self, name: &str, mode: u16) -> io::Result<File> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let name = one_name(name)?;
        let create = || Ok(openat(&*self.0, name, flags, meta::mode(mode))?.into());
        probed!(Create { dir: &self.0, name: name, mode: mode } => create())
    }

    /// Makes a new file without a name on this directory's file system, open for reading and writing. The umask is applied
    /// to `mode`.
    ///
    /// # Errors
    /// The directory may not be written; `Unsupported` where there is no such thing.
    pub(crate) fn create_unnamed(&self, mode: u16) -> io::Result<File> {
        let mode = meta::mode(mode);
        probed!(CreateUnnamed { dir: &self.0, mode: mode.bits() as u16 } => platform::create_unnamed(self.0.as_fd(), mode))
    }

    /// Gives a file that was made without a name its first one, where nothing may be.
    ///
    /// # Errors
    /// `AlreadyExists` if something is there; this directory may not be written, or is on another file system.
    pub(crate) fn link_unnamed(&self, file: &File, name: &str) -> io::Result<()> {
        let to = self.place(name)?;
        probed!(Link { dir: &self.0, name: name, file: file } => platform::link_unnamed(file, to))
    }

    /// Opens a file of our own for reading and writing, and makes it if it is missing. For the state directory only.
    pub(crate) fn open_or_create(&self, name: &str, mode: u16) -> io::Result<File> {
        let name = one_name(name)?;
        probed!(Create { dir: &self.0, name: name, mode: mode } => self.open_or_make(name, mode))
    }

    fn open_or_make(&self, name: &str, mode: u16) -> io::Result<File> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match openat(&*self.0, name, flags, meta::mode(mode)) {
            Err(Errno::LOOP | Errno::NXIO) => return Err(not_a_file()),
            other => other?,
        };
        if FileType::from_raw_mode(fstat(&file)?.st_mode) != FileType::RegularFile {
            return Err(not_a_file());
        }
        Ok(file.into())
    }

    /// Makes a directory. The umask is applied to `mode`.
    ///
    /// # Errors
    /// The name is taken, or this directory may not be written.
    pub fn make_dir(&self, name: &str, mode: u16) -> io::Result<()> {
        let name = one_name(name)?;
        probed!(MakeDir { dir: &self.0, name: name, mode: mode } => mkdirat(&*self.0, name, meta::mode(mode)).map_err(io::Error::from))
    }

    /// Makes a symlink whose text is `target`; nobody looks at where it leads.
    ///
    /// # Errors
    /// The name is taken, or this directory may not be written.
    pub fn symlink(&self, target: &[u8], name: &str) -> io::Result<()> {
        let name = one_name(name)?;
        probed!(Symlink { dir: &self.0, name: name, bytes: target } => symlinkat(target, &*self.0, name).map_err(io::Error::from))
    }

    /// Removes a name that is not a directory.
    ///
    /// # Errors
    /// It is missing, is a directory, or this directory may not be written.
    pub fn remove_file(&self, name: &str) -> io::Result<()> {
        self.remove_file_raw(one_name(name)?.as_bytes())
    }

    /// The same for a name that need not be UTF-8.
    pub(crate) fn remove_file_raw(&self, name: &[u8]) -> io::Result<()> {
        check_name(name)?;
        probed!(RemoveFile { dir: &self.0, name: name } => unlinkat(&*self.0, name, AtFlags::empty()).map_err(io::Error::from))
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// It is missing, is no directory, is not empty, or this directory may not be written.
    pub fn remove_dir(&self, name: &str) -> io::Result<()> {
        let name = one_name(name)?;
        probed!(RemoveDir { dir: &self.0, name: name } => unlinkat(&*self.0, name, AtFlags::REMOVEDIR).map_err(io::Error::from))
    }

    /// Moves a name to `new` in `to`, replacing what is there.
    ///
    /// # Errors
    /// The kinds do not fit, a directory there is not empty, or it is another file system.
    pub fn rename_to(&self, name: &str, to: &Dir, new: &str) -> io::Result<()> {
        self.rename_raw(one_name(name)?.as_bytes(), to, new)
    }

    /// The same for a name that need not be UTF-8.
    pub(crate) fn rename_raw(&self, name: &[u8], to: &Dir, new: &str) -> io::Result<()> {
        check_name(name)?;
        let new = one_name(new)?;
        let rename = || renameat(&*self.0, name, &*to.0, new).map_err(io::Error::from);
        probed!(Rename { dir: &self.0, name: name, to: (to.as_fd(), new) } => rename())
    }

    /// Moves a name to `new` in `to`, where nothing may be.
    ///
    /// # Errors
    /// `AlreadyExists` if something is there; else like [`Dir::rename_to`].
    pub fn rename_new(&self, name: &str, to: &Dir, new: &str) -> io::Result<()> {
        let (from, to) = (self.place(name)?, to.place(new)?);
        probed!(RenameNew { dir: &self.0, name: name, to: (to.dir, new) } => platform::rename_noreplace(from, to))
    }

    /// Swaps a name with `new` in `to`; both must exist, of whatever kinds. Without support by the file system it takes
    /// three steps, in which `new` may be absent for a moment but never partial.
    ///
    /// # Errors
    /// One of them is missing, or they are on different file systems.
    pub fn exchange(&self, name: &str, to: &Dir, new: &str) -> io::Result<()> {
        let (from, to) = (self.place(name)?, to.place(new)?);
        probed!(Exchange { dir: &self.0, name: name, to: (to.dir, new) } => platform::rename_exchange(from, to))
    }

    /// Sets the permission bits of a file or directory, whatever the umask. Never goes through a symlink.
    ///
    /// # Errors
    /// It is missing, is a symlink (`InvalidInput`), or is another user's.
    pub fn set_mode(&self, name: &str, mode: u16) -> io::Result<()> {
        let place = self.place(name)?;
        let mode = mode & 0o7777;
        probed!(SetMode { dir: &self.0, name: name, mode: mode } => platform::set_mode(place, mode))
    }

    /// Sets the modification time of a file, directory or symlink itself and leaves the access time alone.
    ///
    /// # Errors
    /// It is missing, or is another user's.
    pub fn set_times(&self, name: &str, mtime: Time) -> io::Result<()> {
        let name = one_name(name)?;
        let set = || utimensat(&*self.0, name, &meta::only_mtime(mtime), AtFlags::SYMLINK_NOFOLLOW);
        probed!(SetTimes { dir: &self.0, name: name } => set().map_err(io::Error::from))
    }

    /// Flushes this directory: the names in it survive a power cut.
    ///
    /// # Errors
    /// The disk failed.
    pub fn sync(&self) -> io::Result<()> {
        probed!(SyncDir { dir: &self.0 } => fsync(&*self.0).map_err(io::Error::from))
    }

    /// Flushes the whole file system that this directory is on.
    ///
    /// # Errors
    /// The disk failed.
    pub fn sync_fs(&self) -> io::Result<()> {
        probed!(SyncFs { dir: &self.0 } => platform::sync_fs(self.0.as_fd()))
    }

    fn place<'a>(&'a self, name: &'a str) -> io::Result<Place<'a>> {
        Ok(Place { dir: self.0.as_fd(), name: one_name(name)? })
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn one_name(name: &str) -> io::Result<&str> {
    check_name(name.as_bytes())?;
    Ok(name)
}

/// The last line of defence: what is not one component could lead anywhere. (A NUL is refused further down.)
fn check_name(name: &[u8]) -> io::Result<()> {
    let bad = matches!(name, b"" | b"." | b"..") || name.contains(&b'/');
    if bad { Err(io::Error::new(io::ErrorKind::InvalidInput, "not a single name")) } else { Ok(()) }
}

fn not_a_file() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")
}
