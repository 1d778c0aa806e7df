//! One process at a time: a lock of the operating system on a file in the state directory.
//!
//! The system releases it however the holder ends, so a left-over file means nothing and is never deleted (deleting it
//! could give two processes a lock each, on two files of one name). The holder's process id stands in the file for
//! people to read; nothing is decided by it.

use std::{
    fs::File,
    io::{self, Read, Write},
};

use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};
use sync_core::Hint;

use crate::{
    rooted::{Dir, stat_file},
    trouble,
};

/// How often [`Lock::acquire`] steps back for those who only look. They hold the lock for microseconds.
const MAX_ATTEMPTS: u32 = 1000;

/// Why there is no lock.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process has it.
    #[error("Another process{} is already at work on this directory", shown(*pid))]
    Held {
        /// Which one, if it has said so.
        pid: Option<u32>,
    },
    /// The lock file cannot be opened, locked or written.
    #[error("Cannot use the lock file {name}")]
    Io {
        /// The lock file's name in the state directory.
        name: String,
        /// What the system says.
        source: io::Error,
    },
}

impl Hint for LockError {
    fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::Held { .. } => "wait until it is done, or end it first",
            Self::Io { source, .. } => trouble::advice(source)
                .unwrap_or("check the permissions of the state directory and the space on its disk"),
        })
    }
}

fn shown(pid: Option<u32>) -> String {
    pid.map(|pid| format!(" (process {pid})")).unwrap_or_default()
}

/// Who holds a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holder {
    /// The process, if it has said so.
    pub pid: Option<u32>,
}

/// A held lock; dropping it releases it.
#[derive(Debug)]
pub struct Lock {
    file: File,
}

impl Lock {
    /// Takes the lock `name` (file `NAME.lock`) in a state directory, or says at once who has it.
    ///
    /// # Errors
    /// Another process, or another part of this one, has it; or the file cannot be used.
    pub fn acquire(dir: &Dir, name: &str) -> Result<Lock, LockError> {
        let name = file_name(name);
        let failed = |source| LockError::Io { name: name.clone(), source };
        for _ in 0..MAX_ATTEMPTS {
            let file = dir.open_or_create(&name, 0o600).map_err(failed)?;
            if !try_lock(&file, FlockOperation::NonBlockingLockExclusive).map_err(failed)? {
                // Those who only look share the lock with us; a holder does not.
                if !try_lock(&file, FlockOperation::NonBlockingLockShared).map_err(failed)? {
                    return Err(LockError::Held { pid: read_pid(&file) });
                }
                drop(file);
                std::thread::yield_now();
                continue;
            }
            if is_still_named(dir, &name, &file).map_err(failed)? {
                write_pid(&file).map_err(failed)?;
                return Ok(Lock { file });
            }
            // RACE: someone removed the file between our opening and locking it; a lock on it would exclude nobody.
        }
        Err(LockError::Held { pid: None })
    }

    /// Tells who holds the lock `name`, without taking it; `None` if nobody does.
    ///
    /// # Errors
    /// The file is there and cannot be opened or asked.
    pub fn peek(dir: &Dir, name: &str) -> io::Result<Option<Holder>> {
        let file = match dir.open_file(&file_name(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        // Sharing it for a moment does not make anybody's `acquire` fail, only step back and try again.
        if try_lock(&file, FlockOperation::NonBlockingLockShared)? {
            return Ok(None);
        }
        // RACE: a holder that has not written its id yet shows its predecessor's, or none.
        Ok(Some(Holder { pid: read_pid(&file) }))
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Only so that nobody reads an old id; the lock itself goes with the file's closing.
        let _ = self.file.set_len(0);
    }
}

fn file_name(name: &str) -> String {
    format!("{name}.lock")
}

/// Whether the lock was to be had.
fn try_lock(file: &File, operation: FlockOperation) -> io::Result<bool> {
    match flock(file, operation) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn is_still_named(dir: &Dir, name: &str, file: &File) -> io::Result<bool> {
    let held = stat_file(file)?;
    match dir.stat(name) {
        Ok(named) => Ok((named.dev, named.ino) == (held.dev, held.ino)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn write_pid(mut file: &File) -> io::Result<()> {
    file.set_len(0)?;
    file.write_all(format!("{}\n", std::process::id()).as_bytes())
}

fn read_pid(file: &File) -> Option<u32> {
    let mut text = String::new();
    // A process id has ten digits at most; whatever else is in there is nobody's.
    file.take(16).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests make and look at their own trees")]
mod tests {
    use std::{
        fs,
        io::{BufRead, BufReader},
        path::Path,
        process::{Command, Stdio},
        sync::atomic::{AtomicBool, Ordering},
    };

    use super::*;
    use crate::rooted::Root;

    const HELPER_DIR: &str = "SYNC_TREE_TEST_LOCK_DIR";

    fn dir_of(path: &Path) -> Dir {
        Root::open(path).unwrap().dir()
    }

    #[test]
    fn one_holder_at_a_time() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = dir_of(tmp.path());
        assert_eq!(Lock::peek(&dir, "agent").unwrap(), None);
        let lock = Lock::acquire(&dir, "agent").unwrap();
        let me = Some(std::process::id());
        assert_eq!(Lock::peek(&dir, "agent").unwrap(), Some(Holder { pid: me }));
        let error = Lock::acquire(&dir, "agent").unwrap_err();
        assert!(matches!(error, LockError::Held { pid } if pid == me));
        let expected =
            format!("Another process (process {}) is already at work on this directory", std::process::id());
        assert_eq!(error.to_string(), expected);
        assert!(error.hint().is_some());
        let _other = Lock::acquire(&dir, "daemon").unwrap();
        drop(lock);
        assert_eq!(Lock::peek(&dir, "agent").unwrap(), None);
        Lock::acquire(&dir, "agent").unwrap();
    }

    #[test]
    fn lookers_never_keep_anybody_out() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = dir_of(tmp.path());
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    Lock::peek(&dir, "agent").unwrap();
                }
            });
            let refused = (0..500).filter(|_| Lock::acquire(&dir, "agent").is_err()).count();
            stop.store(true, Ordering::Relaxed);
            assert_eq!(refused, 0);
        });
    }

    #[test]
    fn a_leftover_file_holds_nothing_and_nonsense_is_no_process() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = dir_of(tmp.path());
        fs::write(tmp.path().join("agent.lock"), "4242424242424242424242\nrubbish\u{fffd}").unwrap();
        assert_eq!(Lock::peek(&dir, "agent").unwrap(), None);
        let _lock = Lock::acquire(&dir, "agent").unwrap();
        assert_eq!(
            fs::read_to_string(tmp.path().join("agent.lock")).unwrap(),
            format!("{}\n", std::process::id())
        );
        fs::write(tmp.path().join("agent.lock"), "rubbish").unwrap();
        assert!(matches!(Lock::acquire(&dir, "agent"), Err(LockError::Held { pid: None })));
    }

    #[test]
    fn a_symlink_is_no_lock_file() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = dir_of(tmp.path());
        fs::write(tmp.path().join("victim"), "safe").unwrap();
        dir.symlink(b"victim", "agent.lock").unwrap();
        assert!(matches!(Lock::acquire(&dir, "agent"), Err(LockError::Io { .. })));
        assert_eq!(fs::read_to_string(tmp.path().join("victim")).unwrap(), "safe");
    }

    /// Not a test of its own: the process that the next test starts and kills. Does nothing in a normal run.
    #[test]
    fn helper_process() {
        let Some(path) = std::env::var_os(HELPER_DIR) else { return };
        let _lock = Lock::acquire(&dir_of(Path::new(&path)), "agent").unwrap();
        println!("\nlocked");
        // Ends by being killed, or when its parent is gone.
        let _ = io::stdin().read_line(&mut String::new());
    }

    #[test]
    fn a_killed_holder_holds_no_longer() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = dir_of(tmp.path());
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "lock::tests::helper_process", "--nocapture"])
            .env(HELPER_DIR, tmp.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.map_while(Result::ok).any(|line| line == "locked"), "the helper never got the lock");
        assert_eq!(Lock::peek(&dir, "agent").unwrap(), Some(Holder { pid: Some(child.id()) }));
        assert!(
            matches!(Lock::acquire(&dir, "agent"), Err(LockError::Held { pid }) if pid == Some(child.id()))
        );
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(Lock::peek(&dir, "agent").unwrap(), None);
        Lock::acquire(&dir, "agent").unwrap();
    }
}
