//! Digests of files that may change under the reader, and when a look at a file may stand in for reading it.
//!
//! * An entry of size n is its first n bytes: exactly n are hashed, so what is appended meanwhile does not matter. A
//!   file that got shorter is reported by [`Hashed::read`]; the caller looks again.
//! * An [`Identity`] vouches for a digest only if nothing can have happened to the file in the same tick of the file
//!   system's clock in which it was read: its ctime must lie [`SETTLED_MS`] before reading began.
//! * Files are read, never mapped: someone who truncates a mapped file kills the process. One thread per file: feeding
//!   BLAKE3 from several threads was no faster on two cores (512 MiB in memory: 2.2–3.2 GB/s with one thread, 2.0–2.9
//!   with two), and a scan has other files for the other core. 64 KiB to 1 MiB per read made no difference either.

use std::{
    cell::RefCell,
    fs::File,
    io::{self, Read},
    os::unix::fs::FileExt,
    sync::Mutex,
};

use rustix::fs::{Timespec, Timestamps, UTIME_NOW, futimens};
use sync_core::{Digest, Time};

use crate::{
    probe::probed,
    rooted::{Dir, Stat, stat_file},
};

/// How long before reading a file must have been left alone. The clocks of file systems tick every 1–10 ms.
pub const SETTLED_MS: u32 = 100;

/// How much is read at once.
const BUFFER_BYTES: usize = 256 * 1024;

/// The file in the state directory whose change tells the time.
pub(crate) const CLOCK_FILE: &str = "clock";

/// What reading gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hashed {
    /// BLAKE3 of the bytes that were read.
    pub digest: Digest,
    /// How many that were: fewer than asked for if the file is shorter.
    pub read: u64,
}

/// Hashes the first `size` bytes of a file, wherever its position is.
///
/// # Errors
/// Reading failed.
pub fn hash_file(file: &File, size: u64) -> io::Result<Hashed> {
    let mut at = 0;
    with_buffer(|buffer| {
        hash_with(size, buffer, |part| {
            let count = probed!(Read { file: file, at: at } => file.read_at(part, at))?;
            at += count as u64;
            Ok(count)
        })
    })
}

/// Hashes the next `size` bytes of a reader, through a buffer of the caller's.
///
/// # Errors
/// Reading failed.
pub fn hash_reader(reader: &mut impl Read, size: u64, buffer: &mut [u8]) -> io::Result<Hashed> {
    hash_with(size, buffer, |part| reader.read(part))
}

/// Lends this thread's read buffer.
pub fn with_buffer<T>(work: impl FnOnce(&mut [u8]) -> T) -> T {
    thread_local! {
        static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    }
    // Taken out while lent, so that work which asks for a buffer itself gets one of its own.
    let mut buffer = BUFFER.take();
    buffer.resize(BUFFER_BYTES, 0);
    let result = work(&mut buffer);
    BUFFER.set(buffer);
    result
}

fn hash_with(
    size: u64,
    buffer: &mut [u8],
    mut read: impl FnMut(&mut [u8]) -> io::Result<usize>,
) -> io::Result<Hashed> {
    let mut hasher = blake3::Hasher::new();
    let mut left = size;
    while left > 0 {
        let want = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        match read(&mut buffer[..want]) {
            Ok(0) => break,
            Ok(count) => {
                hasher.update(&buffer[..count]);
                left -= count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Hashed { digest: hasher.finalize().into(), read: size - left })
}

/// What tells that a file is still the one that was read. The device is no part of it: its number changes at reboot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Identity {
    /// Inode number.
    pub ino: u64,
    /// Length in bytes.
    pub size: u64,
    /// Modification time, which anyone may set.
    pub mtime: Time,
    /// Change time, which only the file system sets.
    pub ctime: Time,
}

impl Identity {
    /// The identity that a look gave.
    #[must_use]
    pub fn of(stat: &Stat) -> Self {
        Self { ino: stat.ino, size: stat.size, mtime: stat.mtime, ctime: stat.ctime }
    }

    /// Whether this identity, seen both before and after, vouches for what was read from `read_began` on. Both times are
    /// the file system's own.
    #[must_use]
    pub fn vouches(&self, read_began: Time) -> bool {
        settled(self.ctime, read_began)
    }
}

/// Whether `ctime` lies far enough before `now`. A ctime in the future never does.
fn settled(ctime: Time, now: Time) -> bool {
    let nanos = |time: Time| i128::from(time.secs) * 1_000_000_000 + i128::from(time.nanos);
    nanos(now) - nanos(ctime) >= i128::from(SETTLED_MS) * 1_000_000
}

/// The clock of the file system that holds a directory: on a network it is another machine's.
#[derive(Debug)]
pub struct FsClock {
    file: File,
    /// The newest time that the clock gave. It never lies ahead of the clock.
    last: Mutex<Time>,
}

impl FsClock {
    /// Prepares to ask the clock through a file in `dir`, which is best on the same file system as the tree.
    ///
    /// # Errors
    /// The directory may not be written.
    pub fn open(dir: &Dir) -> io::Result<Self> {
        let file = dir.open_or_create(CLOCK_FILE, 0o600)?;
        let clock = Self { file, last: Mutex::default() };
        clock.now()?;
        Ok(clock)
    }

    /// Asks what time it is.
    ///
    /// # Errors
    /// The file system failed, or has become read-only.
    pub fn now(&self) -> io::Result<Time> {
        let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
        let now = Timestamps { last_access: now, last_modification: now };
        probed!(SetTimes { file: &self.file } => futimens(&self.file, &now).map_err(io::Error::from))?;
        let now = stat_file(&self.file)?.ctime;
        *self.last.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = now;
        Ok(now)
    }

    /// A time from which on a file with this identity is going to be read: good enough for [`Identity::vouches`], and
    /// without touching anything unless the file changed recently.
    ///
    /// # Errors
    /// Like [`FsClock::now`].
    pub fn read_begins(&self, identity: &Identity) -> io::Result<Time> {
        let last = *self.last.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if identity.vouches(last) { Ok(last) } else { self.now() }
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests make and look at their own trees")]
mod tests {
    use std::{
        fs,
        io::Write,
        thread,
        time::{Duration, Instant},
    };

    use super::*;
    use crate::rooted::Root;

    const fn time(secs: i64, nanos: u32) -> Time {
        Time { secs, nanos }
    }

    #[test]
    fn exactly_the_first_bytes_count() {
        let bytes: Vec<u8> = (0..600_000u32).map(|i| (i % 253) as u8).collect();
        let tmp = tempfile::tempdir().unwrap();
        fs::write(tmp.path().join("f"), &bytes).unwrap();
        let file = fs::File::open(tmp.path().join("f")).unwrap();
        for size in [0, 1, 1000, BUFFER_BYTES, BUFFER_BYTES + 1, 600_000, 600_001] {
            let expected = &bytes[..size.min(bytes.len())];
            let hashed = Hashed { digest: Digest::of(expected), read: expected.len() as u64 };
            assert_eq!(hash_file(&file, size as u64).unwrap(), hashed);
            let mut reader = bytes.as_slice();
            assert_eq!(hash_reader(&mut reader, size as u64, &mut [0; 777]).unwrap(), hashed);
            assert_eq!(reader.len(), bytes.len() - expected.len(), "nothing more is taken from the reader");
        }
    }

    #[test]
    fn an_interrupted_read_goes_on_and_a_failed_one_fails() {
        struct Odd(Vec<io::ErrorKind>);
        impl Read for Odd {
            fn read(&mut self, part: &mut [u8]) -> io::Result<usize> {
                part[0] = b'x';
                self.0.pop().map_or(Ok(1), |kind| Err(kind.into()))
            }
        }
        let hashed = hash_reader(&mut Odd(vec![io::ErrorKind::Interrupted]), 3, &mut [0; 8]).unwrap();
        assert_eq!(hashed, Hashed { digest: Digest::of(b"xxx"), read: 3 });
        assert!(hash_reader(&mut Odd(vec![io::ErrorKind::PermissionDenied]), 3, &mut [0; 8]).is_err());
    }

    #[test]
    fn a_buffer_can_be_borrowed_within_a_buffer() {
        with_buffer(|outer| {
            outer[0] = 1;
            with_buffer(|inner| inner[0] = 2);
            assert_eq!((outer[0], outer.len()), (1, BUFFER_BYTES));
        });
    }

    #[test]
    fn only_a_settled_file_is_vouched_for() {
        let of = |ctime| Identity { ino: 1, size: 1, mtime: time(0, 0), ctime };
        for (ctime, began, vouched) in [
            (time(10, 0), time(10, 100_000_000), true),
            (time(10, 0), time(10, 99_999_999), false),
            (time(9, 950_000_000), time(10, 50_000_000), true),
            (time(9, 950_000_001), time(10, 50_000_000), false),
            (time(10, 0), time(10, 0), false),
            (time(11, 0), time(10, 0), false),
            (time(-1, 900_000_000), time(0, 0), true),
            (time(i64::MIN, 0), time(i64::MAX, 0), true),
        ] {
            assert_eq!(of(ctime).vouches(began), vouched, "{ctime:?} {began:?}");
        }
    }

    #[test]
    fn the_clock_is_asked_only_about_recent_files() {
        let tmp = tempfile::tempdir().unwrap();
        let root = Root::open(tmp.path()).unwrap();
        let clock = FsClock::open(&root.dir()).unwrap();
        let asked =
            clock.read_begins(&Identity { ino: 0, size: 0, mtime: time(0, 0), ctime: time(0, 0) }).unwrap();
        let touched = || root.dir().stat(CLOCK_FILE).unwrap().ctime;
        assert_eq!(asked, touched(), "an old file does not need a new time");

        root.dir().create_new("f", 0o600).unwrap().write_all(b"x").unwrap();
        let fresh = Identity::of(&root.dir().stat("f").unwrap());
        assert!(!fresh.vouches(clock.read_begins(&fresh).unwrap()));
        let deadline = Instant::now() + Duration::from_secs(10);
        while !fresh.vouches(clock.read_begins(&fresh).unwrap()) {
            assert!(Instant::now() < deadline, "the file never settles");
            thread::park_timeout(Duration::from_millis(5));
        }
        let settled = touched();
        clock.read_begins(&fresh).unwrap();
        assert_eq!(touched(), settled);
    }
}
