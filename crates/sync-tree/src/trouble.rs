//! What errors of the system mean for whoever has to put them right.
//!
//! Three kinds matter: a path that this user may not touch (that is for a person, and the rest goes on), a name that is not there
//! or is something else (somebody else was at work: look again), and what is told here: the disk or the system is in trouble.
//! That hits any path by chance, and may pass.

use std::io;

use rustix::io::Errno;

/// Whether an error says nothing about the path: the disk, the network file system or the machine is in trouble, and the same
/// call may go well another time.
#[must_use]
pub fn may_pass(error: &io::Error) -> bool {
    let passing = [
        Errno::IO,
        Errno::MFILE,
        Errno::NFILE,
        Errno::NOMEM,
        Errno::STALE,
        Errno::TIMEDOUT,
        Errno::AGAIN,
        Errno::BUSY,
        Errno::NODEV,
        Errno::NXIO,
    ];
    Errno::from_io_error(error).is_some_and(|errno| passing.contains(&errno))
}

/// What to do about such an error.
#[must_use]
pub fn advice(error: &io::Error) -> Option<&'static str> {
    Some(match Errno::from_io_error(error)? {
        Errno::IO | Errno::NODEV | Errno::NXIO => {
            "the disk may be failing: look into the system's log and check the disk"
        }
        Errno::MFILE => "let the program have more files open (ulimit -n, or LimitNOFILE of its service)",
        Errno::NFILE => "the system has too many files open: end some programs, or raise fs.file-max",
        Errno::NOMEM => "the system is short of memory: end some programs",
        Errno::STALE | Errno::TIMEDOUT => {
            "the file system is gone or was mounted anew: mount it again, and restart the program if that does not help"
        }
        Errno::ROFS => "remount it for writing",
        Errno::NOSPC | Errno::DQUOT => "free some space",
        _ => return None,
    })
}

/// An error with what to do about it.
#[must_use]
pub fn told(error: &io::Error) -> String {
    match advice(error) {
        Some(advice) => format!("{error} ({advice})"),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_about_the_path_is_told_from_what_may_pass() {
        for (errno, passes, advised) in [
            (Errno::IO, true, true),
            (Errno::MFILE, true, true),
            (Errno::STALE, true, true),
            (Errno::ROFS, false, true),
            (Errno::ACCESS, false, false),
            (Errno::NOENT, false, false),
        ] {
            let error = io::Error::from(errno);
            assert_eq!((may_pass(&error), advice(&error).is_some()), (passes, advised), "{error}");
            assert!(told(&error).starts_with(&error.to_string()));
        }
        assert!(!may_pass(&io::ErrorKind::NotFound.into()));
    }
}
