//! The same with calls that every unix has. Also what Linux falls back to on file systems that lack its newer calls.

#[cfg(not(target_os = "linux"))]
use std::os::fd::BorrowedFd;
use std::{fs::File, io, os::unix::fs::FileExt};

use rustix::fs::{AtFlags, linkat, renameat, statat, unlinkat};
#[cfg(not(target_os = "linux"))]
use rustix::fs::{FileType, Mode, OFlags, RawMode};

use super::Place;

#[cfg(not(target_os = "linux"))]
pub(crate) const TRAVERSE: OFlags = OFlags::RDONLY;
#[cfg(not(target_os = "linux"))]
pub(crate) const NO_ATIME: OFlags = OFlags::empty();

/// How much of a file is in memory at once while it is copied.
const COPY_BUFFER_BYTES: usize = 256 * 1024;

pub(crate) fn rename_noreplace(from: Place<'_>, to: Place<'_>) -> io::Result<()> {
    // A hard link refuses an existing name in one step, so files are safe even here.
    match linkat(from.dir, from.name, to.dir, to.name, AtFlags::empty()) {
        Ok(()) => return Ok(unlinkat(from.dir, from.name, AtFlags::empty())?),
        Err(rustix::io::Errno::EXIST) => return Err(io::ErrorKind::AlreadyExists.into()),
        // Directories, and file systems without hard links.
        Err(_) => {}
    }
    // RACE: what appears between the look and the rename is replaced: an empty directory, or, on file systems without
    // hard links, a file.
    if exists(to)? {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    Ok(renameat(from.dir, from.name, to.dir, to.name)?)
}

/// It cannot be told.
#[cfg(not(target_os = "linux"))]
pub(crate) fn is_in_memory(_file: &File) -> bool {
    false
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn read_cached(_file: &File, _bytes: &mut [u8], _at: u64) -> io::Result<usize> {
    Err(io::ErrorKind::Unsupported.into())
}

/// It is not known, so nothing is made elsewhere.
#[cfg(not(target_os = "linux"))]
pub(crate) fn hands_down(_dir: BorrowedFd<'_>) -> bool {
    true
}

pub(crate) fn rename_exchange(from: Place<'_>, to: Place<'_>) -> io::Result<()> {
    if !exists(from)? || !exists(to)? {
        return Err(io::ErrorKind::NotFound.into());
    }
    let aside = format!("{}.exchange-{}", &from.name[..from.name.floor_char_boundary(200)], unique());
    let aside = Place { dir: from.dir, name: &aside };
    if linkat(to.dir, to.name, aside.dir, aside.name, AtFlags::empty()).is_err() {
        // RACE: `to` is absent until the next line; a reader in between sees nothing, never a part.
        renameat(to.dir, to.name, aside.dir, aside.name)?;
    }
    if let Err(error) = renameat(from.dir, from.name, to.dir, to.name) {
        renameat(aside.dir, aside.name, to.dir, to.name)?;
        return Err(error.into());
    }
    Ok(renameat(aside.dir, aside.name, from.dir, from.name)?)
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn set_mode(place: Place<'_>, mode: u16) -> io::Result<()> {
    let mode = Mode::from_raw_mode(RawMode::from(mode));
    Ok(rustix::fs::chmodat(place.dir, place.name, mode, AtFlags::SYMLINK_NOFOLLOW)?)
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn list(dir: BorrowedFd<'_>, mut each: impl FnMut(&[u8], FileType, u64)) -> io::Result<()> {
    for entry in rustix::fs::Dir::read_from(dir)? {
        let entry = entry?;
        each(entry.file_name().to_bytes(), entry.file_type(), entry.ino());
    }
    Ok(())
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn sync_fs(_fd: BorrowedFd<'_>) -> io::Result<()> {
    rustix::fs::sync();
    Ok(())
}

/// Copies by reading and writing, from `done` on.
pub(crate) fn copy_from(from: &File, to: &File, done: u64, size: u64) -> io::Result<u64> {
    let mut buffer = vec![0; COPY_BUFFER_BYTES];
    let mut done = done;
    while done < size {
        let want = usize::try_from(size - done).unwrap_or(usize::MAX).min(buffer.len());
        match from.read_at(&mut buffer[..want], done) {
            Ok(0) => break,
            Ok(count) => {
                to.write_all_at(&buffer[..count], done)?;
                done += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn copy(from: &File, to: &File, size: u64) -> io::Result<u64> {
    copy_from(from, to, 0, size)
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn shares_blocks(_file: &File, _dir: BorrowedFd<'_>) -> bool {
    false
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn copy_range(_from: (&File, u64), _to: (&File, u64), _size: u64) -> io::Result<u64> {
    Ok(0)
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn create_unnamed(_dir: BorrowedFd<'_>, _mode: Mode) -> io::Result<File> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn link_unnamed(_file: &File, _to: Place<'_>) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Unknown here; the user chooses `state_dir` where it matters.
#[cfg(not(target_os = "linux"))]
pub(crate) fn is_network_fs(_fd: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(false)
}

fn exists(place: Place<'_>) -> io::Result<bool> {
    match statat(place.dir, place.name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(_) => Ok(true),
        Err(rustix::io::Errno::NOENT) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// A number that no other exchange of this process has now; the process id keeps others apart.
fn unique() -> String {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}
