//! What one look at a place tells.

use rustix::fs::{FileType, Mode, RawMode, Timespec, Timestamps, UTIME_OMIT};
use sync_core::Time;

/// What kind of thing a place holds, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StatKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A socket, a device, a FIFO: not carried.
    Other,
}

/// What `lstat` says about a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// Kind.
    pub kind: StatKind,
    /// Device number: tells mounts apart within a run, means nothing across reboots.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
    /// Length in bytes.
    pub size: u64,
    /// When the content last changed, or what someone set.
    pub mtime: Time,
    /// When anything about it last changed, by the file system's own clock.
    pub ctime: Time,
    /// Permission bits with set-id and sticky bits: `& 0o7777`.
    pub mode: u16,
    /// Names that the inode has.
    pub nlink: u64,
}

impl From<rustix::fs::Stat> for Stat {
    #[allow(
        clippy::unnecessary_cast,
        clippy::cast_lossless,
        reason = "the fields' types differ between platforms"
    )]
    fn from(stat: rustix::fs::Stat) -> Self {
        Self {
            kind: FileType::from_raw_mode(stat.st_mode).into(),
            dev: stat.st_dev as u64,
            ino: stat.st_ino as u64,
            size: u64::try_from(stat.st_size).unwrap_or(0),
            mtime: Time { secs: stat.st_mtime as i64, nanos: stat.st_mtime_nsec as u32 },
            ctime: Time { secs: stat.st_ctime as i64, nanos: stat.st_ctime_nsec as u32 },
            mode: (stat.st_mode & 0o7777) as u16,
            nlink: stat.st_nlink as u64,
        }
    }
}

impl From<FileType> for StatKind {
    fn from(kind: FileType) -> Self {
        match kind {
            FileType::RegularFile => Self::File,
            FileType::Directory => Self::Directory,
            FileType::Symlink => Self::Symlink,
            _ => Self::Other,
        }
    }
}

pub(super) fn mode(bits: u16) -> Mode {
    Mode::from_raw_mode(RawMode::from(bits & 0o7777))
}

pub(super) fn only_mtime(mtime: Time) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: mtime.secs, tv_nsec: mtime.nanos.into() },
    }
}
