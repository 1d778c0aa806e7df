//! What one operating system does better than the others, behind functions that every unix has.
//!
//! `linux` uses the kernel's own calls and falls back to `portable` where a file system lacks them; other systems use
//! `portable` alone. Callers never ask which one runs. Names given here were checked by [`crate::rooted`].

use std::{
    fs::File,
    hint::black_box,
    io,
    os::fd::{BorrowedFd, RawFd},
};

use rustix::{
    fs::{FileType, Mode, OFlags, fstatvfs},
    io::fcntl_dupfd_cloexec,
    process::{Resource, Rlimit, getrlimit, setrlimit},
};

#[cfg(target_os = "linux")]
mod linux;
mod portable;

#[cfg(target_os = "linux")]
use linux as system;
#[cfg(not(target_os = "linux"))]
use portable as system;

/// A place for a rename: a held directory and a name in it.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) dir: BorrowedFd<'a>,
    pub(crate) name: &'a str,
}

/// Opens a directory only to go through it; needs no read permission where the system allows that.
pub(crate) const TRAVERSE: OFlags = system::TRAVERSE;

/// Reads without touching the access time, where the system knows that.
pub(crate) const NO_ATIME: OFlags = system::NO_ATIME;

/// Moves `from` to `to`, which must not exist: `AlreadyExists` otherwise.
pub(crate) fn rename_noreplace(from: Place<'_>, to: Place<'_>) -> io::Result<()> {
    system::rename_noreplace(from, to)
}

/// Swaps two existing places. A reader of `to` sees the old or the new thing where the file system allows that.
pub(crate) fn rename_exchange(from: Place<'_>, to: Place<'_>) -> io::Result<()> {
    system::rename_exchange(from, to)
}

/// Changes the permission bits of a place that is not a symlink; `InvalidInput` for a link, which is never followed.
pub(crate) fn set_mode(place: Place<'_>, mode: u16) -> io::Result<()> {
    system::set_mode(place, mode)
}

/// Calls `each` with every name in a directory (`.` and `..` too), its kind and its inode number, as the directory has them. Opens
/// the directory anew, so that lists of one handle do not move each other's position.
pub(crate) fn list(dir: BorrowedFd<'_>, each: impl FnMut(&[u8], FileType, u64)) -> io::Result<()> {
    system::list(dir, each)
}

/// Whether what is made in this directory may get more from it than a place: a group, or an access list.
pub(crate) fn hands_down(dir: BorrowedFd<'_>) -> bool {
    system::hands_down(dir)
}

/// Flushes the whole file system that holds `fd`.
pub(crate) fn sync_fs(fd: BorrowedFd<'_>) -> io::Result<()> {
    system::sync_fs(fd)
}

/// Copies the first `size` bytes of `from` to the start of `to`, which is empty: as shared blocks, inside the kernel, or
/// byte by byte, whichever works first. Returns how many bytes there were; fewer than `size` if the file is shorter.
///
/// # Errors
/// Reading or writing failed; `to` may then hold a part.
pub fn copy(from: &File, to: &File, size: u64) -> io::Result<u64> {
    system::copy(from, to, size)
}

/// Whether parts of this file may become parts of files on the file system of `dir` without being written: both would then
/// have the same blocks. Found out by trying it.
pub(crate) fn shares_blocks(file: &File, dir: BorrowedFd<'_>) -> bool {
    system::shares_blocks(file, dir)
}

/// Copies so many bytes from a place in one file to a place in another, as far as the kernel does it by itself: as shared blocks
/// where the file system has those and both places and the number are multiples of its blocks. Returns how many; what is
/// left is the caller's.
///
/// # Errors
/// There is no room, or the file would be too large.
pub(crate) fn copy_range(from: (&File, u64), to: (&File, u64), size: u64) -> io::Result<u64> {
    system::copy_range(from, to, size)
}

/// Whether a file's file system has no disk, so that reading never waits for one. What it has in the swap is as slow as any other
/// memory is then. On a network this asks the server.
pub(crate) fn is_in_memory(file: &File) -> bool {
    system::is_in_memory(file)
}

/// Reads at a place in a file what of it is in memory already; as a rule without waiting for a disk, though the system may begin to read
/// what comes next. It may be less than there is. An error if nothing is in memory, or that cannot be told.
pub(crate) fn read_cached(file: &File, bytes: &mut [u8], at: u64) -> io::Result<usize> {
    system::read_cached(file, bytes, at)
}

/// Makes a file that has no name yet on the file system of `dir`; `Unsupported` where there is no such thing.
pub(crate) fn create_unnamed(dir: BorrowedFd<'_>, mode: Mode) -> io::Result<File> {
    system::create_unnamed(dir, mode)
}

/// Gives such a file its first name, which must not exist: `AlreadyExists` otherwise.
pub(crate) fn link_unnamed(file: &File, to: Place<'_>) -> io::Result<()> {
    system::link_unnamed(file, to)
}

/// How many files this process may have open, if there is a limit.
pub(crate) fn most_open_files() -> Option<usize> {
    usize::try_from(getrlimit(Resource::Nofile).current?).ok()
}

/// How many files may be kept open to save opening them again: this many, or a part of what the process may have open.
#[must_use]
pub fn files_to_hold(wanted: usize, part: usize) -> usize {
    most_open_files().map_or(wanted, |most| wanted.min((most / part).max(1)))
}

/// Lets this process have as many files open as its user may allow it, and makes room for many. The usual first limit of 1,024 is
/// there for programs that use `select`, and is soon reached by a server with many clients.
///
/// To be called before there is a second thread: the kernel's table of a process's open files begins small and grows by doubling, and where
/// there are threads it waits each time, for some milliseconds and with all who open a file, until none can be looking at the old one.
/// A walk that holds a thousand directories open had waited a tenth of its time for that.
///
/// # Errors
/// The system refuses; the old limit stays.
pub fn allow_many_open_files() -> io::Result<()> {
    let raised = raise_open_files();
    let last = most_open_files().unwrap_or(ROOM_FOR_FILES).min(ROOM_FOR_FILES).saturating_sub(1);
    if let Ok(last) = RawFd::try_from(last) {
        // Whoever has no room gets it bit by bit.
        drop(fcntl_dupfd_cloexec(io::stdin(), last));
    }
    raised
}

fn raise_open_files() -> io::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(ENOUGH_FILES).min(ENOUGH_FILES);
    if limit.current.is_none_or(|current| current >= most) {
        return Ok(());
    }
    Ok(setrlimit(Resource::Nofile, Rlimit { current: Some(most), ..limit })?)
}

/// More is not asked for: some systems refuse what is beyond a limit of their own.
const ENOUGH_FILES: u64 = 65_536;
/// The table of so many files takes 128 KiB.
const ROOM_FOR_FILES: usize = 16_384;

/// Makes the C library keep memory that is freed, up to some MiB for each of its arenas, for what is asked for next.
///
/// Its first limits are low: what is freed of more than 128 KiB goes back to the system at once, and the next buffer of a large file
/// begins with a fault, and zeros, for each of its pages. glibc raises both limits to what it sees freed, so it is shown a
/// large piece; nobody ever touches that, so it takes no memory. Elsewhere this does nothing.
pub fn keep_freed_memory() {
    drop(black_box(Vec::<u8>::with_capacity(KEPT_PIECE)));
}

/// A piece of this size is kept when it is freed, and so is what is free at an arena's end up to twice of it.
const KEPT_PIECE: usize = 4 << 20;

/// How many bytes this user may still write to the file system that holds `fd`, where it can tell.
#[must_use]
pub fn free_bytes(fd: BorrowedFd<'_>) -> Option<u64> {
    let system = fstatvfs(fd).ok()?;
    Some(system.f_bavail.saturating_mul(system.f_frsize))
}

/// Whether the file system that holds `fd` lives on another machine (or may, like FUSE): memory-mapped databases and
/// change events cannot be relied on there.
///
/// # Errors
/// The file system cannot be asked.
pub fn is_network_fs(fd: BorrowedFd<'_>) -> io::Result<bool> {
    system::is_network_fs(fd)
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests make and look at their own trees")]
mod tests;
