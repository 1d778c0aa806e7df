//! Getting at the target: the directory itself, and the place in it that is ours.
//!
//! Everything but `status` keeps its notes in `.syncd` in the target, also if the database is elsewhere: staging and trash
//! must be on the target's own file system. So whether that can be written is found out before anything else, and the
//! message names the path that is in the way.

use std::{
    io,
    path::{Path, PathBuf},
};

use sync_core::{Hint, name::STATE_DIR};
use sync_tree::{
    rooted::{Root, StatKind},
    trouble,
};

/// Made and removed at once, to see whether files can be made.
const PROBE: &str = "probe";

/// Only we look into it, see [`sync_tree::state`].
const STATE_MODE: u16 = 0o700;

/// Why a target cannot be worked on.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// Only the last directory of the target's path is made.
    #[error("Cannot make the target {}: there is no directory {}", target.display(), parent.display())]
    NoParent {
        /// The target.
        target: PathBuf,
        /// The directory that would hold it.
        parent: PathBuf,
    },
    /// Something on the way to the target is a file.
    #[error("Cannot make the target {}: {} is not a directory", target.display(), above.display())]
    NoWay {
        /// The target.
        target: PathBuf,
        /// What is in the way.
        above: PathBuf,
    },
    /// The target itself is a file.
    #[error("The target {} is not a directory", target.display())]
    NotADirectory {
        /// The target.
        target: PathBuf,
    },
    /// The target is not there, or is a link to something that is not.
    #[error("There is no directory at the target {}", target.display())]
    Missing {
        /// The target.
        target: PathBuf,
    },
    /// The daemon's own directory.
    #[error("The target {} is the share itself", target.display())]
    ShareItself {
        /// The target.
        target: PathBuf,
    },
    /// Another agent works on it.
    #[error("Another sync-agent{} is at work on the target {}", process(*pid), target.display())]
    Held {
        /// The target.
        target: PathBuf,
        /// The other one's process, if it has said so.
        pid: Option<u32>,
    },
    /// The system refused.
    #[error("Cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The path that failed.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

fn process(pid: Option<u32>) -> String {
    pid.map(|pid| format!(" (process {pid})")).unwrap_or_default()
}

impl Hint for TargetError {
    fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::NoParent { .. } => "make that directory first, or correct --target",
            Self::NoWay { .. } | Self::NotADirectory { .. } => "name a directory as --target",
            Self::Missing { .. } => "mount or make what belongs there, or correct --target",
            Self::ShareItself { .. } => "choose another --target",
            Self::Held { .. } => {
                "end it, or wait until it is done; of all commands only status works beside it, not verify or --dry-run"
            }
            Self::Io { source, .. } => match source.kind() {
                io::ErrorKind::ReadOnlyFilesystem => {
                    "remount it for writing, or choose another --target; verify and --dry-run write their notes there too"
                }
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                    "free some space (.syncd/trash in the target holds what was replaced), then run again"
                }
                io::ErrorKind::PermissionDenied => {
                    "let this user read and write there, or choose another --target; verify and --dry-run write their notes there too"
                }
                _ => trouble::advice(source).unwrap_or("look at that place, or choose another --target"),
            },
        })
    }
}

/// Opens the target, and makes it if its parent is there.
pub(super) fn make_and_open(target: &Path) -> Result<Root, TargetError> {
    #[expect(clippy::disallowed_methods, reason = "the target is named by the person who runs the agent")]
    match std::fs::create_dir(target) {
        Err(source) if source.kind() != io::ErrorKind::AlreadyExists => Err(not_made(target, source)),
        _ => open(target),
    }
}

/// Opens a target that is there.
pub(super) fn open(target: &Path) -> Result<Root, TargetError> {
    Root::open(target).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => TargetError::Missing { target: target.to_owned() },
        io::ErrorKind::NotADirectory => TargetError::NotADirectory { target: target.to_owned() },
        _ => TargetError::Io { action: "open the target", path: target.to_owned(), source },
    })
}

fn not_made(target: &Path, source: io::Error) -> TargetError {
    let parent = target.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match source.kind() {
        io::ErrorKind::NotFound => {
            TargetError::NoParent { target: target.to_owned(), parent: parent.to_owned() }
        }
        io::ErrorKind::NotADirectory => {
            TargetError::NoWay { target: target.to_owned(), above: first_that_exists(parent) }
        }
        _ => TargetError::Io { action: "make the target in", path: parent.to_owned(), source },
    }
}

/// The nearest place above, and at, a path that is there.
fn first_that_exists(path: &Path) -> PathBuf {
    #[expect(clippy::disallowed_methods, reason = "the target is named by the person who runs the agent")]
    let found = path.ancestors().find(|above| std::fs::symlink_metadata(above).is_ok());
    found.unwrap_or(path).to_owned()
}

/// Makes `.syncd` in the target, and sees whether it can be written.
pub(super) fn prepare(root: &Root) -> Result<(), TargetError> {
    let failed = |action, path: PathBuf| move |source| TargetError::Io { action, path, source };
    let dir = root.dir();
    match dir.make_dir(STATE_DIR, STATE_MODE) {
        Ok(()) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(failed("write into the target", root.path().to_owned())(error)),
    }
    let path = root.path().join(STATE_DIR);
    match dir.stat(STATE_DIR) {
        // What is wrong then, the state directory says.
        Ok(stat) if stat.kind != StatKind::Directory => return Ok(()),
        Ok(stat) if stat.mode != STATE_MODE => {
            // Whether that was possible shows next.
            let _ = dir.set_mode(STATE_DIR, STATE_MODE);
        }
        _ => {}
    }
    let state = dir.open_dir(STATE_DIR).map_err(failed("open", path.clone()))?;
    match state.create_new(PROBE, 0o600).and_then(|_| state.remove_file(PROBE)) {
        // Of a run that was killed in between, or one that looks right now.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => drop(state.remove_file(PROBE)),
        // Another run has removed it.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        result => result.map_err(failed("write into", path))?,
    }
    Ok(())
}
