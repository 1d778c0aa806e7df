//! Linux: renames that check, reflinks, `copy_file_range`, `syncfs`, `O_PATH`.

use std::{
    fs::File,
    io,
    mem::MaybeUninit,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
};

use rustix::{
    fs::{
        AtFlags, CWD, FileType, Mode, OFlags, RawDir, RawMode, RenameFlags, chmodat, copy_file_range, fchmod,
        fgetxattr, fstat, fstatfs, ftruncate, ioctl_ficlone, linkat, openat, renameat_with, syncfs,
    },
    io::{Errno, ReadWriteFlags, preadv2},
};

use super::{Place, portable};

pub(crate) const TRAVERSE: OFlags = OFlags::PATH;
pub(crate) const NO_ATIME: OFlags = OFlags::NOATIME;

/// The largest single step of an in-kernel copy, so that a signal or a full disk is noticed in between.
const COPY_STEP_BYTES: u64 = 64 * 1024 * 1024;

/// Names of some hundred files for each call; it lives on the stack.
const LIST_BUFFER_BYTES: usize = 32 * 1024;

/// Files of fewer bytes are copied at once by reading and writing: asking for a reflink would cost more than it saves.
const REFLINK_FROM_BYTES: u64 = 4 * 1024;

/// File systems that another machine may change, or whose locks and memory maps are not those of a local disk.
const NETWORK_FS_MAGICS: [u64; 11] = [
    0x6969,      // NFS
    0x517B,      // SMB
    0xFF53_4D42, // CIFS
    0xFE53_4D42, // SMB2
    0x5346_414F, // AFS (OpenAFS)
    0x6B41_4653, // AFS (kAFS)
    0x7375_7245, // Coda
    0x00C3_6400, // Ceph
    0x0102_1997, // 9P
    0x6573_5546, // FUSE: sshfs, virtiofs, desktop container mounts
    0x0BD0_0BD0, // Lustre
];

const TMPFS_MAGIC: u64 = 0x0102_1994;

pub(crate) fn rename_noreplace(from: Place<'_>, to: Place<'_>) -> io::Result<()> {
    match renameat_with(from.dir, from.name, to.dir, to.name, RenameFlags::NOREPLACE) {
        Err(error) if unsupported(error) => portable::rename_noreplace(from, to),
        other => Ok(other?),
    }
}

pub(crate) fn rename_exchange(from: Place<'_>, to: Place<'_>) -> io::Result<()> {
    match renameat_with(from.dir, from.name, to.dir, to.name, RenameFlags::EXCHANGE) {
        Err(error) if unsupported(error) => portable::rename_exchange(from, to),
        other => Ok(other?),
    }
}

pub(crate) fn set_mode(place: Place<'_>, mode: u16) -> io::Result<()> {
    let mode = Mode::from_raw_mode(RawMode::from(mode));
    // O_PATH needs no permission on the thing itself, so a file of mode 000 can be repaired by its owner.
    let held =
        openat(place.dir, place.name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    if FileType::from_raw_mode(fstat(&held)?.st_mode) == FileType::Symlink {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a symbolic link has no mode of its own"));
    }
    // The kernel resolves this name to the held thing itself, whatever its old name means by now.
    match chmodat(CWD, format!("/proc/self/fd/{}", held.as_raw_fd()), mode, AtFlags::empty()) {
        Err(Errno::NOENT | Errno::NOTDIR) => set_mode_without_proc(place, mode),
        other => Ok(other?),
    }
}

/// Containers without `/proc` can still change what they may read.
fn set_mode_without_proc(place: Place<'_>, mode: Mode) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    Ok(fchmod(openat(place.dir, place.name, flags, Mode::empty())?, mode)?)
}

pub(crate) fn list(dir: BorrowedFd<'_>, mut each: impl FnMut(&[u8], FileType, u64)) -> io::Result<()> {
    let anew = openat(dir, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let mut buffer = [const { MaybeUninit::uninit() }; LIST_BUFFER_BYTES];
    let mut entries = RawDir::new(anew, &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        each(entry.file_name().to_bytes(), entry.file_type(), entry.ino());
    }
    Ok(())
}

pub(crate) fn hands_down(dir: BorrowedFd<'_>) -> bool {
    let sets_group = fstat(dir).map_or(true, |stat| Mode::from_raw_mode(stat.st_mode).contains(Mode::SGID));
    // Only how long the list is would be asked for.
    let list: &mut [u8] = &mut [];
    let has_list = || match fgetxattr(dir, "system.posix_acl_default", list) {
        Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::NOSYS) => false,
        Ok(_) | Err(_) => true,
    };
    sets_group || has_list()
}

pub(crate) fn sync_fs(fd: BorrowedFd<'_>) -> io::Result<()> {
    Ok(syncfs(fd)?)
}

pub(crate) fn copy(from: &File, to: &File, size: u64) -> io::Result<u64> {
    if size >= REFLINK_FROM_BYTES {
        if ioctl_ficlone(to, from).is_ok() {
            return keep_first(to, size);
        }
        let done = copy_range((from, 0), (to, 0), size)?;
        // Some file systems answer 0 where there is more to read, so the end is always found by reading.
        return portable::copy_from(from, to, done, size);
    }
    portable::copy_from(from, to, 0, size)
}

/// A reflink takes the whole file, which may have grown.
fn keep_first(to: &File, size: u64) -> io::Result<u64> {
    let cloned = u64::try_from(fstat(to)?.st_size).unwrap_or(0);
    if cloned > size {
        ftruncate(to, size)?;
    }
    Ok(cloned.min(size))
}

pub(crate) fn is_in_memory(file: &File) -> bool {
    magic_of(file.as_fd()).is_ok_and(|magic| magic == TMPFS_MAGIC)
}

pub(crate) fn read_cached(file: &File, bytes: &mut [u8], at: u64) -> io::Result<usize> {
    Ok(preadv2(file, &mut [io::IoSliceMut::new(bytes)], at, ReadWriteFlags::NOWAIT)?)
}

pub(crate) fn shares_blocks(file: &File, dir: BorrowedFd<'_>) -> bool {
    let trial = create_unnamed(dir, Mode::RUSR | Mode::WUSR);
    trial.is_ok_and(|trial| ioctl_ficlone(&trial, file).is_ok())
}

pub(crate) fn copy_range(from: (&File, u64), to: (&File, u64), size: u64) -> io::Result<u64> {
    let ((from, first), (to, there)) = (from, to);
    let mut done = 0;
    while done < size {
        let (mut read_at, mut write_at) = (first + done, there + done);
        let step = usize::try_from((size - done).min(COPY_STEP_BYTES)).unwrap_or(usize::MAX);
        match copy_file_range(from, Some(&mut read_at), to, Some(&mut write_at), step) {
            Ok(0) => break,
            Ok(count) => done += count as u64,
            Err(Errno::INTR) => {}
            Err(error @ (Errno::NOSPC | Errno::DQUOT | Errno::FBIG)) => return Err(error.into()),
            Err(_) => break,
        }
    }
    Ok(done)
}

pub(crate) fn create_unnamed(dir: BorrowedFd<'_>, mode: Mode) -> io::Result<File> {
    match openat(dir, ".", OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC, mode) {
        // What kernels and file systems say that do not know it.
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL | Errno::NOENT) => {
            Err(io::ErrorKind::Unsupported.into())
        }
        other => Ok(other?.into()),
    }
}

pub(crate) fn link_unnamed(file: &File, to: Place<'_>) -> io::Result<()> {
    // Kernels before 6.10 allow this to privileged processes only, and say that there is no such thing.
    match linkat(file, "", to.dir, to.name, AtFlags::EMPTY_PATH) {
        Err(Errno::NOENT | Errno::PERM | Errno::INVAL) => link_through_proc(file, to),
        other => Ok(other?),
    }
}

pub(super) fn link_through_proc(file: &File, to: Place<'_>) -> io::Result<()> {
    let held = format!("/proc/self/fd/{}", file.as_raw_fd());
    Ok(linkat(CWD, held, to.dir, to.name, AtFlags::SYMLINK_FOLLOW)?)
}

pub(crate) fn is_network_fs(fd: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(NETWORK_FS_MAGICS.contains(&magic_of(fd)?))
}

/// The number of a kind of file system.
fn magic_of(fd: BorrowedFd<'_>) -> io::Result<u64> {
    // Only the low 32 bits are the number; on some machines the field is a sign-extended 64-bit one.
    Ok(fstatfs(fd)?.f_type as u64 & 0xFFFF_FFFF)
}

fn unsupported(error: Errno) -> bool {
    matches!(error, Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP)
}
